"""How many tokens of a prompt with an image are text: llama-server counts the prompt as a whole alone."""

from __future__ import annotations

from dataclasses import replace

from agents.contract.job import Chat, Workload
from agents.engines.base import Request
from agents.engines.server.api import Api, ApiError
from agents.engines.server.chat import chat_messages


def with_text_tokens(request: Request, api: Api, workload: Workload, routed: str | None = None) -> Request:
    """``request`` with its ``text_tokens``, asked of the server before anything is timed; as it is, where there is no
    image, or the server does not tell.

    The prompt without its image goes through the chat template and the tokeniser: routes ``/apply-template`` and
    ``/tokenize``, tools/server/README.md of llama.cpp, b11549.
    """
    if not isinstance(workload, Chat) or workload.image is None:
        return request
    model = {} if routed is None else {"model": routed}  # a router must be told whose template
    try:
        told = api.post("/apply-template", {"messages": chat_messages(replace(workload, image=None)), **model})
        counted = api.post(
            "/tokenize", {"content": told["prompt"], "add_special": True, "parse_special": True, **model}
        )
        return replace(request, text_tokens=len(counted["tokens"]))
    except (ApiError, KeyError, TypeError):
        return request
