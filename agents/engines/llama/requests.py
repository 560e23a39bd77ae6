"""Requests in llama-server's dialect, for every adapter that talks to a llama.cpp server.

PURE, but for ``with_text_tokens``. Routes and fields: tools/server/README.md of llama.cpp, b11549.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

from agents.contract.job import Chat, Stop, Synthetic, Workflow, Workload
from agents.engines.base import Request
from agents.engines.server.api import Api, ApiError
from agents.engines.server.chat import chat_messages, openai_chat_request, sampling_fields
from agents.engines.stream.chunks import llama_completion_chunks
from agents.errors import Unsupported


def llama_request(
    base_url: str, workload: Workload, n_vocab: int | None, nonce: int, routed: str | None = None
) -> Request:
    """``n_vocab`` bounds the random token ids of a synthetic prompt. ``routed``: the model's name in a router, which
    shall not load it by itself.

    Raises Unsupported for a workflow, and for a synthetic prompt where the vocabulary is not known.
    """
    if isinstance(workload, Chat):
        return _chat(base_url, workload, routed)
    if isinstance(workload, Workflow):
        raise Unsupported(f"llama.cpp makes no images: {workload.name}")
    if n_vocab is None:
        raise Unsupported(f"the llama-server at {base_url} does not tell its vocabulary: no synthetic prompts")
    return _synthetic(base_url, workload, n_vocab, nonce, routed)


def _chat(base_url: str, chat: Chat, routed: str | None) -> Request:
    more = {
        **_to(routed),
        "timings_per_token": True,  # for its running count: without it the end-of-text token would have no time
        "cache_prompt": False,
        "ignore_eos": chat.stop is Stop.EXACT,
    }
    return openai_chat_request(f"{base_url}/v1/chat/completions{_query(routed)}", chat, more)


def _to(routed: str | None) -> dict[str, Any]:
    return {} if routed is None else {"model": routed}


def _query(routed: str | None) -> str:
    return "" if routed is None else "?autoload=false"


def _synthetic(base_url: str, work: Synthetic, n_vocab: int, nonce: int, routed: str | None) -> Request:
    """Random token ids, as llama-bench has them: uniform over the vocabulary, seeded.

    A prompt-only workload asks for one token: the engine's prompt time ends where that token is sampled, and the
    client's time to first token holds the same work.
    """
    ids = random.Random(f"{work.sampling.seed}:{nonce}")
    depth = [ids.randrange(n_vocab) for _ in range(work.depth)]
    prompt = [ids.randrange(n_vocab) for _ in range(work.prompt_tokens)]
    primed = bool(depth and prompt)
    whole = depth + prompt or [ids.randrange(n_vocab)]  # tg128: an empty context; one token starts it
    generate = max(work.generate_tokens, 1)

    def body(tokens: list[int], n_predict: int) -> bytes:
        fields = {
            **_to(routed),
            "prompt": tokens,
            "n_predict": n_predict,
            "ignore_eos": True,
            "stream": True,
            "cache_prompt": primed,
            "id_slot": 0,
            **sampling_fields(work.sampling),
        }
        return json.dumps(fields).encode()

    return Request(
        url=f"{base_url}/completion{_query(routed)}",
        body=body(whole, generate),
        decode=llama_completion_chunks,
        prime=body(depth, 0) if primed else None,
        expected_cached_tokens=len(depth) if primed else 0,
        expected_tokens=generate,
    )


def with_text_tokens(request: Request, api: Api, workload: Workload, routed: str | None = None) -> Request:
    """``request`` with its ``text_tokens``, which llama-server is asked for before anything is timed: of a prompt with
    an image it counts the whole alone. Unchanged where there is no image, or the server does not answer.

    The prompt without its image goes through the chat template and the tokeniser (``/apply-template``, ``/tokenize``).
    """
    if not isinstance(workload, Chat) or workload.image is None:
        return request
    try:
        messages = chat_messages(replace(workload, image=None))
        prompt = api.post("/apply-template", {"messages": messages, **_to(routed)})["prompt"]
        fields = {"content": prompt, "add_special": True, "parse_special": True, **_to(routed)}
        return replace(request, text_tokens=len(api.post("/tokenize", fields)["tokens"]))
    except (ApiError, KeyError, TypeError):
        return request
