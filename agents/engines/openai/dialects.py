"""What single OpenAI-compatible servers take beside the standard, and how their prompt caches are kept out. PURE

A server is known by ``owned_by`` in ``/v1/models``. Sources: vLLM 0.19 (chat completions, prefix caching, multimodal
inputs), SGLang 0.5 (sampling parameters), llama.cpp b11549 (tools/server/README.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agents.contract.job import Chat, Stop


class Cache(StrEnum):
    """How a request is kept from what a server has cached of others."""

    OFF = "off"  # a field switches it off
    SALT = "salt"  # a field makes cached blocks differ
    NONCE = "nonce"  # only another prompt does


@dataclass(frozen=True, slots=True)
class Dialect:
    """``fields``: always sent. ``exact``: sent for an exact number of tokens; None where there is no way.
    ``names``: what sampling fields are called, where not as llama.cpp calls them."""

    name: str
    cache: Cache = Cache.NONCE
    fields: Mapping[str, Any] = field(default_factory=dict)
    exact: Mapping[str, Any] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    image_uuid: bool = False  # an image's cached encoding is found by an id that we may give

    def more(self, chat: Chat) -> dict[str, Any]:
        """Fields beside the standard's, for one chat."""
        more = dict(self.fields)
        if chat.stop is Stop.EXACT and self.exact is not None:
            more |= self.exact
            if "min_tokens" in more:
                more["min_tokens"] = chat.max_tokens
        return more


_COUNTED = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
_EXACT = {"ignore_eos": True, "min_tokens": 0}
_PENALTY = {"repeat_penalty": "repetition_penalty"}
_PLAIN = Dialect("OpenAI-compatible")
_LLAMA = Dialect("llama.cpp", Cache.OFF, {"cache_prompt": False, "timings_per_token": True}, exact={"ignore_eos": True})
_SGLANG = Dialect("SGLang", exact=_EXACT, names=_PENALTY)


def dialect_of(owner: str, version: str | None) -> Dialect:
    """The dialect of a server. ``owner``: ``owned_by`` of its model; ``version`` as the server reports it."""
    known = {"llamacpp": _LLAMA, "sglang": _SGLANG}
    if owner != "vllm":
        return known.get(owner, _PLAIN)
    # Before 0.9 the salt is ignored, and until 0.10.1 where the model is gpt-oss: there the prompt must differ.
    salted = _number(version or "") >= (0, 11)
    return Dialect("vLLM", Cache.SALT if salted else Cache.NONCE, _COUNTED, _EXACT, _PENALTY, image_uuid=salted)


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
