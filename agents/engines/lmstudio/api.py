"""Calls to LM Studio's server: which REST interface it speaks, its models, their loaded instances.

REST v1: LM Studio 0.4.0 and later; REST v0: 0.3.6 and later. Fields: LM Studio's developer documents, April 2026.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agents.contract.report import Cause
from agents.engines.server.api import CALL_S, NOT_READY, Api, ApiError
from agents.errors import Unsupported

MODELS = {"v1": "/api/v1/models", "v0": "/api/v0/models"}
Rest = Literal["v1", "v0"]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on the server's disk. ``instances``: id -> configuration of each that is loaded."""

    key: str
    quantisation: str | None = None
    format: str = "GGUF"  # or MLX, as ``lms runtime ls`` has them
    architecture: str | None = None
    size_bytes: int | None = None
    max_context_tokens: int | None = None
    vision: bool | None = None
    variants: tuple[str, ...] = ()
    instances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _v1_model(entry: Mapping[str, Any]) -> StoredModel:
    quantisation, able = entry.get("quantization") or {}, entry.get("capabilities") or {}
    loaded = entry.get("loaded_instances") or []
    return StoredModel(
        key=str(entry["key"]),
        quantisation=quantisation.get("name"),
        format=str(entry.get("format") or "gguf").upper(),
        architecture=entry.get("architecture"),
        size_bytes=entry.get("size_bytes"),
        max_context_tokens=entry.get("max_context_length"),
        vision=able.get("vision"),
        variants=tuple(map(str, entry.get("variants") or ())),
        instances={str(each["id"]): each.get("config") or {} for each in loaded},
    )


def _v0_model(entry: Mapping[str, Any]) -> StoredModel:
    key, context = str(entry["id"]), entry.get("loaded_context_length")
    config = {} if context is None else {"context_length": context}
    return StoredModel(
        key=key,
        quantisation=entry.get("quantization"),
        format=str(entry.get("compatibility_type") or "gguf").upper(),
        architecture=entry.get("arch"),
        max_context_tokens=entry.get("max_context_length"),
        vision=entry.get("type") == "vlm",
        instances={key: config} if entry["state"] == "loaded" else {},
    )


@dataclass(frozen=True, slots=True)
class RestServer:
    """A server that has answered, by the REST interface that it speaks."""

    api: Api
    rest: Rest

    def models(self, timeout_s: float = CALL_S) -> tuple[StoredModel, ...]:
        """The models on the server's disk. Raises ApiError, also for an answer that is not LM Studio's."""
        return _models(self.api, self.rest, timeout_s)

    def instances(self) -> Mapping[str, Mapping[str, Any]]:
        """Id -> configuration of each loaded instance, of all models. Raises ApiError."""
        return {name: config for model in self.models() for name, config in model.instances.items()}

    def unload(self, instance: str) -> None:
        """Unloads an instance; only REST v1 can. Raises ApiError."""
        self.api.post("/api/v1/models/unload", {"instance_id": instance})

    def runtime_of(self, instance: str) -> tuple[str | None, Mapping[str, Any]]:
        """The runtime's name and version, and ``model_info``: only an answer of REST v0 has them, so one token is
        generated for it. (None, {}) where it has not."""
        one = {"role": "user", "content": "Hi"}
        body = {"model": instance, "messages": [one], "max_tokens": 1, "temperature": 0, "stream": False}
        try:
            answer = self.api.post("/api/v0/chat/completions", body, timeout_s=60.0)
            runtime, info = answer.get("runtime") or {}, answer.get("model_info") or {}
            name = f"{runtime['name']} {runtime.get('version', '')}".strip() if runtime.get("name") else None
            return name, dict(info)
        except (ApiError, AttributeError, TypeError, ValueError):
            return None, {}


def connect(api: Api, token_variable: str, timeout_s: float = CALL_S) -> RestServer:
    """The server at ``api``, asked by REST v1, then by v0. Raises Unsupported with why it cannot be used."""
    last = ApiError("")
    for rest in ("v1", "v0"):
        try:
            _models(api, rest, timeout_s)
        except ApiError as error:
            if error.status in (401, 403):
                raise Unsupported(f"{error.detail}; the token is taken from the variable {token_variable}") from error
            last = error
            if error.status is None or error.status in NOT_READY:
                break
        else:
            return RestServer(api, rest)
    raise last.as_refusal(f"no LM Studio at {api.base_url}: {last.detail}. Start its server (lms server start)")


def _models(api: Api, rest: Rest, timeout_s: float) -> tuple[StoredModel, ...]:
    path = MODELS[rest]
    answer = api.get(path, timeout_s)
    name, read = ("models", _v1_model) if rest == "v1" else ("data", _v0_model)
    try:
        listed = answer[name]
        if not isinstance(listed, list):
            raise TypeError(f"{name} is no list")
        return tuple(read(entry) for entry in listed)
    except (KeyError, TypeError, AttributeError) as error:  # old servers answer 200 to what they do not know
        reason = answer.get("error") if isinstance(answer, dict) else None
        raise ApiError(f"GET {path}: not LM Studio's answer: {reason or repr(error)}", 200) from error


def pick(models: Sequence[StoredModel], name: str, quantisation: str | None) -> tuple[StoredModel, str]:
    """The model, and what to call it in a load: ``key`` or ``key@variant``. PURE

    Raises Unsupported where there is none of that name (MODEL_FILE_MISSING) or quantisation.
    """
    base = name.partition("@")[0]
    found = next((each for each in models if name == each.key or name in each.variants), None)
    found = found or next((each for each in models if base == each.key and not each.variants), None)
    if found is None:
        have = ", ".join(sorted(each.key for each in models)) or "none"
        raise Unsupported(f"LM Studio has no model {name}; it has: {have}", Cause.MODEL_FILE_MISSING)
    wanted = quantisation.lower() if quantisation else None
    if wanted is None or (name != found.key and wanted == name.partition("@")[2].lower()):
        return found, name
    if found.quantisation is not None and found.quantisation.lower() == wanted and name == found.key:
        return found, name
    variant = f"{found.key}@{wanted}"
    if name == found.key and variant in found.variants:
        return found, variant
    have = ", ".join(found.variants) or str(found.quantisation)
    raise Unsupported(f"LM Studio has no {quantisation} of {name}; it has {have}", Cause.MODEL_FILE_MISSING)
