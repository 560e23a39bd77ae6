"""A chat workload as LM Studio's servers take it. PURE

REST v1 ``/api/v1/chat``: strict about its fields, and it has no seed; images are ``input`` items (type ``text``, as the
server wants it, not ``message`` as its page once said). REST v0 ``/api/v0/chat/completions`` is OpenAI's dialect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from agents.contract.job import Chat
from agents.engines.base import Request
from agents.engines.lmstudio.stream import v0_chunks, v1_chunks
from agents.engines.server.chat import openai_chat_request, sampling_fields


def v1_request(
    base_url: str, instance: str, chat: Chat, context_tokens: int | None, headers: Mapping[str, str]
) -> Request:
    sampling = sampling_fields(chat.sampling)
    sampling.pop("seed", None)
    body: dict[str, Any] = {
        "model": instance,
        "input": _input(chat),
        "stream": True,
        "store": False,
        "max_output_tokens": chat.max_tokens,
        **sampling,
    }
    if chat.system is not None:
        body["system_prompt"] = chat.system
    return Request(
        url=f"{base_url}/api/v1/chat",
        body=json.dumps(body).encode(),
        decode=partial(v1_chunks, max_tokens=chat.max_tokens, context_tokens=context_tokens),
        headers=headers,
    )


def _input(chat: Chat) -> Any:
    if chat.image is None:
        return chat.prompt
    url = f"data:{chat.image.media_type};base64,{chat.image.data_base64}"
    return [{"type": "text", "content": chat.prompt}, {"type": "image", "data_url": url}]


def v0_request(base_url: str, instance: str, chat: Chat, headers: Mapping[str, str]) -> Request:
    request = openai_chat_request(f"{base_url}/api/v0/chat/completions", chat, {"model": instance}, headers)
    return replace(request, decode=v0_chunks)
