"""Calls to Lemonade's server: version, back ends, models, what is loaded and how. PURE but for the calls

Fields: Lemonade's documents, 11.7 (August 2026). Servers before 10 stood at port 8000 and report less: what is missing
is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.contract.job import LoadSettings, Runtime
from agents.contract.measure import EngineTimings
from agents.engines.server.api import CALL_S, Api, ApiError

LLAMACPP = "llamacpp"


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run llama.cpp models. ``action``: the command that Lemonade names where it is not ``installed``."""

    name: str
    installed: bool
    version: str | None
    action: str


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that is on the server's disk."""

    name: str
    recipe: str
    checkpoint: str
    vision: bool | None
    max_context_tokens: int | None

    @property
    def variant(self) -> str | None:
        """A quantisation or a file's name: the last part of ``owner/repository:variant``."""
        return self.checkpoint.partition(":")[2] or None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model. ``command`` is empty where it is not reported."""

    name: str
    recipe: str | None
    device: str | None
    pid: int | None
    options: Mapping[str, Any]
    command: tuple[str, ...]

    @property
    def context_tokens(self) -> int | None:
        text = str(_after(self.command, ("--ctx-size", "-c")) or self.options.get("ctx_size"))
        return int(text) if text.isdigit() else None


def _after(command: Sequence[str], flags: Sequence[str]) -> str | None:
    """The value after the last of ``flags`` in ``command``; None where none of them is there."""
    places = [index for index, word in enumerate(command[:-1]) if word in flags]
    return command[places[-1] + 1] if places else None


def health(api: Api, timeout_s: float = CALL_S) -> tuple[str, tuple[LoadedModel, ...]]:
    """Version, and what is loaded. Raises ApiError, also for an answer that is not Lemonade's."""
    answer = api.get("/api/v1/health", timeout_s)
    try:
        version, loaded = str(answer["version"]), answer.get("all_models_loaded") or []
        if answer["status"] != "ok" or "model_loaded" not in answer:
            raise KeyError("model_loaded")
        return version, tuple(_running(each) for each in loaded)
    except (KeyError, TypeError, AttributeError) as error:
        raise ApiError(f"GET /api/v1/health: not Lemonade's answer ({error!r} is missing)", 200) from error


def _running(entry: Mapping[str, Any]) -> LoadedModel:
    return LoadedModel(
        name=str(entry["model_name"]),
        recipe=entry.get("recipe"),
        device=entry.get("device"),
        pid=entry.get("pid"),
        options=entry.get("recipe_options") or {},
        command=tuple(map(str, entry.get("launch_command") or ())),
    )


def backends(api: Api, timeout_s: float = CALL_S) -> tuple[Backend, ...]:
    """The back ends of the llamacpp recipe. Raises ApiError."""
    answer = api.get("/api/v1/system-info", timeout_s)
    try:
        found = ((answer.get("recipes") or {}).get(LLAMACPP) or {}).get("backends") or {}
        return tuple(
            Backend(str(name), entry.get("state") == "installed", entry.get("version"), str(entry.get("action") or ""))
            for name, entry in found.items()
        )
    except (TypeError, AttributeError) as error:
        raise ApiError(f"GET /api/v1/system-info: not Lemonade's answer: {error}", 200) from error


def runtimes(found: Sequence[Backend]) -> tuple[str, ...]:
    """The installed back ends that are a Runtime of ours, by its name."""
    ours = {runtime.value for runtime in Runtime}
    return tuple(each.name for each in found if each.installed and each.name in ours)


def models(api: Api) -> tuple[StoredModel, ...]:
    """The models on the server's disk. Raises ApiError."""
    answer = api.get("/api/v1/models")
    try:
        there = (entry for entry in answer["data"] if entry.get("downloaded", True))
        return tuple(
            StoredModel(
                name=str(entry["id"]),
                recipe=str(entry.get("recipe") or ""),
                checkpoint=str(entry.get("checkpoint") or ""),
                vision="vision" in entry["labels"] if entry.get("labels") is not None else None,
                max_context_tokens=entry.get("max_context_window"),
            )
            for entry in there
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ApiError(f"GET /api/v1/models: not Lemonade's answer: {error!r}", 200) from error


def llamacpp_args(settings: LoadSettings) -> tuple[str, ...]:
    """llama-server's flags for the axes that the cell sets. Lemonade itself sets context, device and model.

    Nothing stands for mmap, for weights that are not locked, and for a KV cache on the GPU: llama-server's defaults.
    """
    valued: dict[str, Any] = {
        "-ctk": settings.kv_type_k,
        "-ctv": settings.kv_type_v,
        "-fa": None if settings.flash_attention is None else "on" if settings.flash_attention else "off",
        "-b": settings.batch_tokens,
        "-ub": settings.micro_batch_tokens,
        "-t": settings.threads,
    }
    switched = {
        "--no-mmap": settings.mmap is False,
        "--mlock": settings.keep_in_memory is True,
        "--no-kv-offload": settings.kv_offload is False,
    }
    arguments = [word for flag, value in valued.items() if value is not None for word in (flag, str(value))]
    return (*arguments, *(flag for flag, on in switched.items() if on))


_AGAINST = {"mmap": "--no-mmap", "keep_in_memory": "--mlock", "kv_offload": "--no-kv-offload"}


def mismatches(settings: LoadSettings, running: LoadedModel) -> list[str]:
    """Settings of the loaded model that differ from the requested ones, for an error; one that Lemonade does not report
    counts as equal. PURE"""
    found = []
    context, backend = running.context_tokens, running.options.get("llamacpp_backend")
    if settings.context_tokens is not None and context is not None and context != settings.context_tokens:
        found.append(f"a context of {context} tokens instead of {settings.context_tokens}")
    if settings.runtime is not None and backend and not str(backend).startswith(settings.runtime.value):
        found.append(f"back end {backend} instead of {settings.runtime}")
    if not running.command:
        return found
    args = llamacpp_args(settings)
    for index, word in enumerate(args):
        if word.startswith("-"):
            value = args[index + 1] if index + 1 < len(args) and not args[index + 1].startswith("-") else None
            is_set = word in running.command if value is None else _after(running.command, (word,)) == value
            found += [] if is_set else [f"no {word} {value or ''}".rstrip()]
    wanted = {"mmap": settings.mmap, "keep_in_memory": not settings.keep_in_memory, "kv_offload": settings.kv_offload}
    given = [axis for axis in wanted if getattr(settings, axis) is not None]
    return found + [_AGAINST[axis] for axis in given if wanted[axis] and _AGAINST[axis] in running.command]


def stats(api: Api) -> tuple[int | None, EngineTimings]:
    """How many requests Lemonade has counted (None: an older one, which does not), and its figures of the last.

    Raises ApiError.
    """
    answer = api.get("/api/v1/stats")
    if not isinstance(answer, dict):
        raise ApiError("GET /api/v1/stats: not Lemonade's answer", 200)
    count = answer.get("request_count_total")
    return count if isinstance(count, int) else None, EngineTimings(
        prompt_tokens=_count(answer.get("input_tokens")),
        cached_tokens=_count(answer.get("cache_tokens")),
        generated_tokens=_count(answer.get("output_tokens")),
        ttft_s=_figure(answer.get("time_to_first_token")),
        decode_tps=_figure(answer.get("tokens_per_second")),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _figure(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
