"""The axes of a matrix, one entry each: a new one that a job can carry already is one entry in AXES. PURE

An axis reads a value from the text in the file, shows it in progress lines, says where it goes in the job, and
describes itself in messages, in the JSON Schema and in ``docs/matrix.md``. Values are str, int, float or bool; the
parser gives the canonical one, so that ``16K`` and ``16384`` are the same cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from agents.contract.engines import engine_names
from agents.contract.job import Runtime
from agents.units import BYTES_PATTERN, TOKENS_PATTERN, WATTS_PATTERN, format_bytes, format_tokens, format_watts
from orchestrator.matrix import units
from orchestrator.matrix.models import parse_model, parse_quantisation
from orchestrator.matrix.parsers import parse_name
from orchestrator.matrix.problems import BadValue, not_one_of, quoted

Value = str | int | float | bool

# A device refuses the engines that it has no adapter for; the words stand here so that a typing error is found early.
ENGINE_NAMES = engine_names()
DEFAULT_ENGINE = "embedded"
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
RUNTIMES = tuple(runtime.value for runtime in Runtime)
ALL_LAYERS = -1


@dataclass(frozen=True, slots=True)
class Axis:
    """``part`` names the half of the job that ``columns`` are fields of; they are columns of the results too."""

    name: str
    part: Literal["load", "state", "workload", "device"]
    columns: tuple[str, ...]
    parse: Callable[[str], Value]
    schema: dict[str, Any]  # JSON Schema of one value
    help: str
    tag: str = ""  # stands before the value in a label
    show: Callable[[Any], str] = str
    fields: Callable[[Any], tuple[Any, ...]] = lambda value: (value,)  # one for each column
    ranged: bool = False  # takes {from, to, step | factor}
    alias: str | None = None

    def shown(self, value: Value) -> str:
        """``ctx 16K``."""
        return f"{self.tag} {self.show(value)}" if self.tag else self.show(value)


def _one_of(words: tuple[str, ...], what: str) -> Callable[[str], Value]:
    by_fold = {word.casefold(): word for word in words}

    def parse(text: str) -> Value:
        if text.casefold() not in by_fold:
            raise not_one_of(text, what, words)
        return by_fold[text.casefold()]

    return parse


def _parse_kv_type(text: str) -> Value:
    parts = [part.strip().lower() for part in text.split("/")]
    for part in parts:
        if part not in KV_TYPES or len(parts) > 2:
            raise not_one_of(text, "a KV type", KV_TYPES, also="or K/V such as q8_0/f16")
    return parts[0] if parts[0] == parts[-1] else "/".join(parts)


def _parse_layers(text: str) -> Value:
    if text.casefold() in ("all", "-1"):
        return ALL_LAYERS
    try:
        return units.parse_whole(text, 0, 100_000)
    except BadValue:
        raise BadValue(
            f"{quoted(text)} is not a number of layers. Allowed: all (the same as -1), or 0 and more"
        ) from None


def _kv_fields(value: str) -> tuple[Any, ...]:
    first, _, second = value.partition("/")
    return (first, second or first)


_SWITCH = {"type": ["boolean", "string"], "pattern": units.SWITCH_PATTERN}
_NAME = {"type": "string", "minLength": 1}
_TOKENS = {"type": ["integer", "string"], "minimum": 1, "pattern": TOKENS_PATTERN}
_KV_PATTERN = "^(?:{0})(?:/(?:{0}))?$".format("|".join(KV_TYPES))


def _switch(name: str, tag: str, help_text: str) -> Axis:
    return Axis(name, "load", (name,), units.parse_switch, _SWITCH, help_text, tag, units.format_switch)


def _tokens(name: str, column: str, tag: str, help_text: str) -> Axis:
    return Axis(name, "load", (column,), units.parse_tokens, _TOKENS, help_text, tag, format_tokens, ranged=True)


AXES: tuple[Axis, ...] = (
    Axis(
        name="model",
        part="load",
        columns=("model",),
        parse=parse_model,
        schema=_NAME,
        help="A name under models; else tiny:ARCH (made here), hf:OWNER/REPO (Hugging Face), an address"
        " (http:// or https://, ends in .gguf), a path (ends in .gguf, or begins with / ./ ../ ~/ or a drive letter);"
        " anything else is the engine's own name",
    ),
    Axis(
        name="quantisation",
        part="load",
        columns=("quantisation",),
        parse=parse_quantisation,
        schema=_NAME,
        help="Weight quantisation: F16, Q8_0, Q4_K_M ..., or another engine's word such as 4bit",
        alias="quantization",
    ),
    Axis(
        name="engine",
        part="load",
        columns=("engine",),
        parse=_one_of(ENGINE_NAMES, "an engine"),
        schema={"enum": list(ENGINE_NAMES)},
        help=f"Engine adapter that runs the model; {DEFAULT_ENGINE} where none is given",
    ),
    Axis(
        name="runtime",
        part="load",
        columns=("runtime",),
        parse=_one_of(RUNTIMES, "a runtime"),
        schema={"enum": list(RUNTIMES)},
        help="Compute back end of the engine",
        fields=lambda value: (Runtime(value),),
    ),
    _tokens("context", "context_tokens", "ctx", "Context window in tokens; 16K means 16,384"),
    Axis(
        name="dedicated_vram",
        part="state",
        columns=("dedicated_vram_bytes",),
        parse=units.parse_bytes,
        schema={"type": ["integer", "string"], "maximum": 0, "minimum": 0, "pattern": BYTES_PATTERN},
        help="Part of the RAM that the firmware gives to the GPU: 512M, 32G (MiB and GiB); a change needs a reboot",
        tag="vram",
        show=format_bytes,
        ranged=True,
    ),
    Axis(
        name="power_limit",
        part="state",
        columns=("power_limit_w",),
        parse=units.parse_watts,
        schema={"type": ["number", "string"], "exclusiveMinimum": 0, "pattern": WATTS_PATTERN},
        help="Power limit in watts: 80W",
        show=format_watts,
        ranged=True,
    ),
    Axis(
        name="power_profile",
        part="state",
        columns=("power_profile",),
        parse=parse_name,
        schema=_NAME,
        help="Power profile by the name that the machine gives it: low-power, balanced, performance ...; no watts",
        tag="profile",
    ),
    Axis(
        name="kv_type",
        part="load",
        columns=("kv_type_k", "kv_type_v"),
        parse=_parse_kv_type,
        schema={"type": "string", "pattern": _KV_PATTERN},
        help=f"Type of the KV cache, or K/V such as q8_0/f16; types: {', '.join(KV_TYPES)}",
        tag="kv",
        fields=_kv_fields,
    ),
    _switch("flash_attention", "fa", "Flash attention on or off"),
    Axis(
        name="gpu_layers",
        part="load",
        columns=("gpu_layers",),
        parse=_parse_layers,
        schema={"anyOf": [{"type": "integer", "minimum": -1}, {"type": "string", "pattern": "^(?:all|-1|[0-9]+)$"}]},
        help="Layers put on the GPU: a number, or all",
        tag="ngl",
        show=lambda value: "all" if value == ALL_LAYERS else str(value),
        ranged=True,
    ),
    Axis(
        name="threads",
        part="load",
        columns=("threads",),
        parse=lambda text: units.parse_whole(text, 1, 4096),
        schema={"type": ["integer", "string"], "minimum": 1, "pattern": units.WHOLE_PATTERN},
        help="CPU threads for prompt and decode",
        tag="t",
        ranged=True,
    ),
    _tokens("batch", "batch_tokens", "b", "Logical batch: most tokens handed to the engine's core at once"),
    _tokens("micro_batch", "micro_batch_tokens", "ub", "Physical batch: most tokens computed at once"),
    _switch("mmap", "mmap", "Weights mapped from the file (on) or read into memory (off)"),
    _switch("keep_in_memory", "mlock", "Weights locked in RAM"),
    _switch("kv_offload", "kvo", "KV cache kept on the GPU"),
    Axis(
        name="workload",
        part="workload",
        columns=("workload",),
        parse=parse_name,
        schema=_NAME,
        help="A name under workloads, or llama-bench's notation: pp512, tg128, pp512+tg128, tg128@d4096",
    ),
    Axis(
        name="device",
        part="device",
        columns=("device",),
        parse=parse_name,
        schema=_NAME,
        help="Id or name of the one device that the cell runs on; without it a cell runs on every device selected",
        tag="on",
    ),
)

BY_NAME: dict[str, Axis] = {axis.name: axis for axis in AXES}
ALIASES: dict[str, str] = {axis.alias: axis.name for axis in AXES if axis.alias}
