"""What a running ``llama-server`` answers of itself: /props, /models, and the arguments it was started with. PURE

Fields: tools/server/README.md of llama.cpp and answers recorded, b11549. A field that cannot be read counts as missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.contract.job import LoadSettings, Runtime
from agents.engines.llama.devices import runtime_of

CONTEXT_STEP = 256  # llama.cpp rounds a context up to a multiple of it

_LONG = {  # other names of the arguments below
    "-c": "--ctx-size",
    "-ctk": "--cache-type-k",
    "-ctv": "--cache-type-v",
    "-fa": "--flash-attn",
    "-ngl": "--n-gpu-layers",
    "--gpu-layers": "--n-gpu-layers",
    "-t": "--threads",
    "-b": "--batch-size",
    "-ub": "--ubatch-size",
    "-lm": "--load-mode",
    "-dev": "--device",
    "-nkvo": "--no-kv-offload",
    "-kvo": "--kv-offload",
}
_KEPT = re.compile(r"--(?!.*(key|token|header|password|secret))[a-z]")  # secrets are not for a table of results


@dataclass(frozen=True, slots=True)
class ServerProps:
    """What ``/props`` reports of a server. ``context_tokens``: of one slot."""

    build: str
    router: bool
    alias: str
    path: str
    context_tokens: int | None
    slots: int | None
    file_type: str | None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry of ``/models``; in a router with its state, and the arguments that its process was, or would be,
    started with."""

    name: str
    aliases: tuple[str, ...] = ()
    state: str | None = None
    exit_code: int | None = None
    failed: bool = False
    arguments: Mapping[str, str] = field(default_factory=dict)  # by long names; "" for a switch
    n_vocab: int | None = None
    context_tokens: int | None = None
    model_bytes: int | None = None
    file_type: str | None = None


def read_props(answer: Any) -> ServerProps | None:
    """The answer of ``/props``; None where it is not a llama-server's."""
    if not isinstance(answer, dict) or not isinstance(answer.get("build_info"), str):
        return None
    defaults = answer.get("default_generation_settings")
    return ServerProps(
        build=answer["build_info"],
        router=answer.get("role") == "router",
        alias=_text(answer, "model_alias") or "",
        path=_text(answer, "model_path") or "",
        context_tokens=_count(defaults, "n_ctx"),
        slots=_count(answer, "total_slots"),
        file_type=_text(answer, "model_ftype"),
    )


def read_served(answer: Any) -> tuple[ServedModel, ...]:
    entries = answer.get("data") if isinstance(answer, dict) else None
    return tuple(_served(each) for each in entries if _text(each, "id")) if isinstance(entries, list) else ()


def _served(entry: dict[str, Any]) -> ServedModel:
    status, meta, aliases = entry.get("status"), entry.get("meta"), entry.get("aliases")
    arguments = status.get("args") if isinstance(status, dict) else None
    return ServedModel(
        name=entry["id"],
        aliases=tuple(map(str, aliases)) if isinstance(aliases, list) else (),
        state=_text(status, "value"),
        exit_code=_count(status, "exit_code"),
        failed=isinstance(status, dict) and status.get("failed") is True,
        arguments=arguments_in(list(map(str, arguments))) if isinstance(arguments, list) else {},
        n_vocab=_count(meta, "n_vocab"),
        context_tokens=_count(meta, "n_ctx"),
        model_bytes=_count(meta, "size"),
        file_type=_text(meta, "ftype"),
    )


def arguments_in(command: Sequence[str]) -> dict[str, str]:
    """Arguments of a command line by their long names, without secrets; "" for a switch."""
    found: dict[str, str] = {}
    for place, word in enumerate(command[1:], start=1):
        name = _LONG.get(word, word)
        if not name.startswith("--") or not _KEPT.match(name):
            continue
        following = command[place + 1] if place + 1 < len(command) else ""
        found[name] = "" if re.match(r"-{1,2}[A-Za-z]", following) else following
    return found


def settings_in(arguments: Mapping[str, str]) -> dict[str, object]:
    """Values of axes by the names of LoadSettings; None where the arguments leave one to the engine."""
    mode, layers = arguments.get("--load-mode"), arguments.get("--n-gpu-layers")
    return {
        "runtime": _runtime(arguments.get("--device")),
        "context_tokens": _context_tokens(arguments),
        "kv_type_k": arguments.get("--cache-type-k"),
        "kv_type_v": arguments.get("--cache-type-v"),
        "flash_attention": {"on": True, "off": False}.get(arguments.get("--flash-attn", "")),
        "gpu_layers": -1 if layers == "all" else _number(layers),
        "threads": _number(arguments.get("--threads")),
        "batch_tokens": _number(arguments.get("--batch-size")),
        "micro_batch_tokens": _number(arguments.get("--ubatch-size")),
        "mmap": False if "--no-mmap" in arguments else None if mode in (None, "auto") else "mmap" in mode,
        "keep_in_memory": True if "--mlock" in arguments else None if mode in (None, "auto") else "mlock" in mode,
        "kv_offload": False if "--no-kv-offload" in arguments else "--kv-offload" in arguments or None,
    }


def quantisation_of(file_type: str | None, wanted: str | None) -> str | None:
    """llama.cpp's file type as cells name it: ``Q4_K - Medium`` is Q4_K_M. ``wanted`` where only its letters' case
    differs."""
    if file_type is None:
        return None
    base, _, size = file_type.removeprefix("(guessed) ").partition(" - ")
    found = f"{base}_{size[0]}" if size in ("Small", "Medium", "Large") else base
    return wanted if wanted is not None and wanted.lower() == found.lower() else found


def context_like(seen: int | None, wanted: int | None) -> int | None:
    """The context in tokens, to compare with ``wanted``: ``wanted`` itself where llama.cpp rounds it up to ``seen``."""
    if seen is None or wanted is None:
        return seen
    return wanted if -(-wanted // CONTEXT_STEP) * CONTEXT_STEP == seen else seen


def reported_settings(settings: LoadSettings, props: ServerProps | None, model: ServedModel) -> dict[str, object]:
    """All axes as the server reports them, to compare with what a cell requests."""
    context = model.context_tokens or (props.context_tokens if props else None)
    return {
        **settings_in(model.arguments),
        "context_tokens": context_like(context or _context_tokens(model.arguments), settings.context_tokens),
        "quantisation": quantisation_of(model.file_type or (props.file_type if props else None), settings.quantisation),
    }


def _context_tokens(arguments: Mapping[str, str]) -> int | None:
    return _number(arguments.get("--ctx-size")) or None  # 0: the model's own


def _runtime(devices: str | None) -> Runtime | None:
    if not devices:
        return None
    return Runtime.CPU if devices == "none" else runtime_of(devices.partition(",")[0])


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"-?\d{1,9}", value) else None


def _count(answer: Any, name: str) -> int | None:
    value = answer.get(name) if isinstance(answer, dict) else None
    return value if type(value) is int else None


def _text(answer: Any, name: str) -> str | None:
    value = answer.get(name) if isinstance(answer, dict) else None
    return value if isinstance(value, str) and value else None
