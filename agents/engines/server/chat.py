"""A chat workload as OpenAI-style servers take it, and prompts that no prompt cache has seen. PURE

Fields: OpenAI API reference, "Create chat completion"; images as data URLs in ``image_url`` parts.

Caches that cannot be switched off reuse the longest common start of two prompts (llama.cpp's in Ollama, from its slots
and from RAM; mlx_lm.server's; prefix caches). So ``fresh`` puts a line of its own in front of all that a cell brings:
what remains to be reused is the start of the model's template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agents.contract.job import Chat, Sampling, Stop
from agents.engines.base import Request
from agents.engines.stream.chunks import openai_chat_chunks

TEMPLATE_TOKENS = 128
"""Most that the template puts in front of the first message: gpt-oss, the longest known, writes some 70 tokens."""

_DIGITS = 6


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Fields under llama.cpp's names, which most servers share; only those that the workload sets."""
    fields = {
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
    }
    return {name: value for name, value in fields.items() if value is not None}


def chat_messages(chat: Chat) -> list[dict[str, Any]]:
    content: Any = chat.prompt
    if chat.image is not None:
        url = f"data:{chat.image.media_type};base64,{chat.image.data_base64}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": chat.prompt}]
    messages = [{"role": "system", "content": chat.system}] if chat.system is not None else []
    return [*messages, {"role": "user", "content": content}]


def openai_chat_request(
    url: str, chat: Chat, more: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Request:
    """A streamed chat. ``url``: the whole address of ``chat/completions``. ``more``: fields of this server, ``model``
    among them, which take the place of the standard's."""
    body = {
        "messages": chat_messages(chat),
        "max_tokens": chat.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling_fields(chat.sampling),
        **more,
    }
    return Request(
        url=url,
        body=json.dumps(body).encode(),
        decode=openai_chat_chunks,
        headers=headers or {},
        expected_tokens=chat.max_tokens if chat.stop is Stop.EXACT else None,
    )


def fresh(chat: Chat, number: int, system: str | None = None) -> Chat:
    """``chat`` with a line in front that differs for each ``number``. ``system``: the model's own system message, which
    holds where the chat names none.

    With an image the line stands in a system message, if need be of its own: templates put the image before the text.
    """
    # Of one length in digits, so in tokens. Reversed, so that the first digit differs from one number to the next.
    line = f"[{str(number % 10**_DIGITS).zfill(_DIGITS)[::-1]}]"
    own = chat.system if chat.system is not None else system or None
    if own is not None:
        return replace(chat, system=f"{line}\n{own}")
    if chat.image is not None:
        return replace(chat, system=line)
    return replace(chat, prompt=f"{line}\n{chat.prompt}")
