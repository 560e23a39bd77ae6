"""Calls to an Ollama server, beside chats: version, models, what is loaded, unload, pull.

Routes and fields: docs/api.md of Ollama 0.33 and its server/routes.go. It has no token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from agents.clock import Clock
from agents.contract.report import Cause
from agents.engines.base import LoadPlace
from agents.engines.causes import cause_of_load
from agents.engines.server.api import CALL_S, FIND_S, POLL_S, Api, ApiError
from agents.errors import LoadFailed
from agents.models.progress import ByteProgress

PORT = 11434
PULL_SILENCE_S = 60.0  # a pull that goes on sends a line several times a second
UNLOADED_S = 30.0
NEWER = "of an Ollama that this adapter does not know"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One line of ``/api/ps``. ``context_tokens`` is None before Ollama 0.11 or so (?)."""

    name: str
    size_bytes: int
    vram_bytes: int
    context_tokens: int | None


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """A model, from ``/api/show``. ``capabilities`` is None where the server reports none."""

    quantisation: str | None
    architecture: str | None
    system: str | None
    capabilities: frozenset[str] | None
    remote: str | None  # a model that is computed elsewhere


def address_of(environment: Mapping[str, str] | None = None) -> str:
    """The address in ``OLLAMA_HOST``, read as Ollama reads it (envconfig/config.go); one that stands for all interfaces
    becomes the loopback's."""
    host_variable = (os.environ if environment is None else environment).get("OLLAMA_HOST", "").strip().strip("\"'")
    scheme, _, rest = host_variable.rpartition("://")
    default = {"http": 80, "https": 443}.get(scheme, PORT)
    hostport, _, path = rest.partition("/")
    if hostport.count(":") > 1 and not hostport.startswith("["):
        hostport = f"[{hostport}]"  # a bare IPv6 address
    host, _, port = hostport.rpartition(":") if not hostport.endswith("]") and ":" in hostport else (hostport, "", "")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    number = int(port) if port.isdecimal() and int(port) <= 65_535 else default
    return f"{scheme or 'http'}://{host}:{number}{'/' + path if path else ''}".rstrip("/")


def version_of(api: Api, timeout_s: float = FIND_S) -> str:
    """The server's version. Raises ApiError, also where something else answers."""
    found = api.get("/api/version", timeout_s)
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(version, str) or not version:
        raise ApiError(f"GET /api/version: {api.base_url} is not Ollama: it tells no version", 200)
    return version


def loaded_models(api: Api) -> tuple[LoadedModel, ...]:
    """What is loaded. Raises ApiError."""
    found = api.get("/api/ps")
    models = _mapping(found).get("models")
    return tuple(_loaded_model(one) for one in models if isinstance(one, dict)) if isinstance(models, list) else ()


def _loaded_model(one: Mapping[str, Any]) -> LoadedModel:
    name = str(one.get("model") or one.get("name") or "")
    return LoadedModel(
        name, _count(one.get("size")), _count(one.get("size_vram")), _count(one.get("context_length")) or None
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def model_details(api: Api, name: str) -> ModelDetails | None:
    """The model's details; None where the server has no such model. Raises ApiError."""
    try:
        found = api.post("/api/show", {"model": name})
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    if not isinstance(found, dict):
        raise ApiError(f"POST /api/show: an answer {NEWER}", 200)
    details, info = _mapping(found.get("details")), _mapping(found.get("model_info"))
    capabilities = found.get("capabilities")
    return ModelDetails(
        quantisation=details.get("quantization_level") or None,
        architecture=info.get("general.architecture") or details.get("family") or None,
        system=found.get("system") or None,
        capabilities=frozenset(map(str, capabilities)) if isinstance(capabilities, list) else None,
        remote=found.get("remote_host") or None,
    )


def unload(api: Api, name: str) -> None:
    """Asks the server to unload a model; its memory is free a little later. Raises ApiError."""
    api.post("/api/generate", {"model": name, "keep_alive": 0})


def unload_all(api: Api, clock: Clock) -> None:
    """Unloads all models, whoever loaded them, and waits until they are: memory and prompt cache are empty afterwards.

    Raises LoadFailed where a model is still there after UNLOADED_S, ApiError.
    """
    deadline = clock.monotonic_ns() + int(UNLOADED_S * 1e9)
    requested: set[str] = set()
    while remaining := loaded_models(api):
        for one in remaining:
            if one.name not in requested:
                unload(api, one.name)
                requested.add(one.name)
        if clock.monotonic_ns() > deadline:
            names = ", ".join(one.name for one in remaining)
            raise LoadFailed(Cause.LOAD_FAILED, f"Ollama does not unload {names} within {UNLOADED_S:g} s: in use?")
        clock.sleep(POLL_S)


def pull(api: Api, name: str, place: LoadPlace) -> None:
    """Has the server fetch a model, and notifies of its progress. A cancel closes the connection, which stops the
    server; what has come stays there, and a later pull goes on from it. Raises LoadFailed."""
    progress: dict[str, ByteProgress] = {}
    try:
        for line in api.lines("/api/pull", {"model": name, "stream": True}, PULL_SILENCE_S):
            if not isinstance(line, dict):
                continue
            if line.get("error"):
                _refuse_pull(name, str(line["error"]))
            if line.get("status") == "success":
                return
            digest, total = str(line.get("digest") or ""), _count(line.get("total"))
            if digest and total:
                if digest not in progress:
                    progress[digest] = ByteProgress(place.notify, f"Ollama fetches {name}", total)
                progress[digest].update(_count(line.get("completed")))
            else:
                place.notify(f"Ollama fetches {name}: {line.get('status')}")
            if place.cancelled.is_set():
                raise LoadFailed(Cause.CANCELLED, f"cancelled while Ollama fetched {name}")
    except ApiError as error:
        _refuse_pull(name, error.detail)
    raise LoadFailed(Cause.MODEL_FILE_MISSING, f"Ollama ended the pull of {name} without a word on why")


def _refuse_pull(name: str, text: str) -> NoReturn:
    cause = cause_of_load(text)
    cause = Cause.DISK_FULL if "no space left" in text else cause
    cause = Cause.MODEL_FILE_MISSING if cause is Cause.LOAD_FAILED else cause
    raise LoadFailed(cause, f"Ollama cannot pull {name}: {text}")


def require_version(api: Api, timeout_s: float = CALL_S) -> str:
    """The server's version. Raises Unsupported where no Ollama answers."""
    try:
        return version_of(api, timeout_s)
    except ApiError as error:
        detail = f"{error.detail}. Start it (ollama serve), or say where it is: engines.ollama.url in device.yaml"
        raise error.as_refusal(detail) from error
