"""Names of axes and metrics, and their values in people's units. PURE

An axis is a column of ``trials`` that says what was asked for (or, last in ``AXES``, what was found); a metric is a
number that was measured. People may use the matrix's short names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow.types as kinds

from agents.contract.job import Runtime
from agents.contract.report import MachineSeen
from agents.units import format_size, format_tokens
from orchestrator.compare.energy import DERIVED
from orchestrator.errors import UsageError
from orchestrator.matrix import axes as matrix_axes
from orchestrator.matrix.problems import BadValue, nearest, quoted
from orchestrator.matrix.units import parse_bytes, parse_switch, parse_tokens, parse_watts
from orchestrator.results import schema

KV_TYPE = "kv_type"
"""An axis of its own: ``kv_type_k`` and ``kv_type_v`` in one word, ``q8_0``, or ``f16/q8_0`` where they differ."""

_OWN = (
    "load_timeout_s",
    "first_token_timeout_s",
    "trial_timeout_s",
    "workload_kind",
    "image_width_px",
    "image_height_px",
)
WORKLOAD_AXES = tuple(each.name for each in schema.WORKLOAD if each.name not in _OWN)
_SEEN = tuple(each.name for each in schema.contract_columns(MachineSeen))
_SETTINGS = tuple(
    KV_TYPE if each.name == "kv_type_k" else each.name
    for each in schema.SETTINGS
    if each.name not in ("kv_type_v", *_SEEN)
)
FOUND = ("engine_version", "model_sha256", "fingerprint", "origin", *_SEEN)
"""What was found, not asked for: a null says nothing, and it need not be the same between columns."""

AXES = ("run", "device", *_SETTINGS, *WORKLOAD_AXES, *FOUND)
"""What can make two rows differ beyond chance: a pivot never takes a median over two values of one of these."""

NAMED = (*AXES, "kv_type_k", "kv_type_v", "engine_runtime", "model_architecture", "stop_reason", "repeat", "boot_id")
"""What may stand in rows and columns."""

SHORT = {axis.name: axis.columns[0] for axis in matrix_axes.AXES if len(axis.columns) == 1 and axis.columns[0] in NAMED}
"""The matrix's name of an axis -> its column."""
_SAME = {axis.alias: axis.name for axis in matrix_axes.AXES if axis.alias} | {"quant": "quantisation"}
_LONG = {column: short for short, column in SHORT.items()}

COLUMN = {each.name: each for each in schema.TRIALS} | {
    KV_TYPE: schema.Column(KV_TYPE, schema.TRIALS[0].type, "Type of the K and V cache")
}

_BETTER = {
    "ttft_s": "lower",
    "duration_s": "lower",
    "seconds_per_image": "lower",
    "model_load_s": "lower",
    "load_s": "lower",
    "memory_used_bytes": "lower",
    "kv_bytes": "lower",
    **dict.fromkeys((f"{pool}_used_by_model_bytes" for pool in ("vram", "gtt", "ram", "swap")), "lower"),
    **dict.fromkeys((f"{phase}_energy_j" for phase in ("prompt", "decode")), "lower"),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """``better`` is ``higher``, ``lower`` or empty: then none is marked as best."""

    name: str
    unit: str
    definition: str
    better: str


def _is_number(column: schema.Column) -> bool:
    return kinds.is_integer(column.type) or kinds.is_floating(column.type)


METRICS: dict[str, Metric] = {
    each.name: Metric(
        each.name, each.unit, each.definition, "higher" if each.unit.endswith("/s") else _BETTER.get(each.name, "")
    )
    for each in (*schema.MEASURED, *schema.LOADED, *schema.USED)
    if _is_number(each)
} | {name: Metric(name, each.unit, each.definition, each.better) for name, each in DERIVED.items()}


def axis_named(word: str) -> str:
    """``context`` -> ``context_tokens``. Raises UsageError with the nearest and the allowed ones."""
    name = _SAME.get(word, word)
    name = SHORT.get(name, name)
    if name in NAMED:
        return name
    allowed = [short_name(each) for each in NAMED]
    raise UsageError(f"unknown axis {quoted(word)}{nearest(word, allowed) or '.'} Allowed: {', '.join(allowed)}")


def metric_named(word: str) -> Metric:
    if word in METRICS:
        return METRICS[word]
    raise UsageError(f"unknown metric {quoted(word)}{nearest(word, METRICS) or '.'} Allowed: {', '.join(METRICS)}")


def short_name(axis: str) -> str:
    return _LONG.get(axis, axis)


def label(axis: str, value: Any) -> str:
    """An axis's value as people write it: ``16K``, ``32 GiB``, ``80 W``, ``on``; ``-`` for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    unit = COLUMN[axis].unit
    if unit == "tokens":
        return format_tokens(value)
    if unit == "bytes":
        return format_size(value, 2)
    if isinstance(value, float):
        return f"{value:g}" + (f" {unit}" if unit else "")
    text = f"{value} {unit}" if unit else str(value)
    return text[:10] if axis in ("fingerprint", "prompt_sha256", "workflow_sha256", "model_sha256", "boot_id") else text


_RUNTIMES = tuple(Runtime)


def sort_key(axis: str, value: Any) -> tuple[Any, ...]:
    """Numbers by size, runtimes as the contract lists them, words with their numbers by size, none last."""
    if value is None:
        return (3,)
    if isinstance(value, (bool, int, float)):
        return (0, value)
    if axis == "runtime" and value in _RUNTIMES:
        return (1, _RUNTIMES.index(value))
    parts = re.split(r"(\d+)", str(value).casefold())
    return (2, [(int(part), "") if part.isdigit() else (-1, part) for part in parts if part])


_NONE = ("-", "none", "null", "default")


def choose(axis: str, text: str, there: Iterable[Any]) -> Any:
    """The value of ``there`` that a person means by ``text``: by its label, as in a matrix, or as the table has it.

    Raises UsageError that lists what there is.
    """
    there = sorted(set(there), key=lambda value: sort_key(axis, value))
    meant = _parsed(axis, text)
    for value in there:
        same = meant is not None and value == meant
        if same or _plain(text) in (_plain(label(axis, value)), _plain(str(value))):
            return value
        if value is None and text.casefold() in _NONE:
            return value
    labels = [label(axis, value) for value in there]
    near = nearest(text, labels) or "."
    raise UsageError(f"{short_name(axis)}: no value {quoted(text)}{near} There are: {', '.join(labels) or 'none'}")


def _plain(text: str) -> str:
    return text.replace(" ", "").casefold()


def _parsed(axis: str, text: str) -> Any:
    column = COLUMN[axis]
    try:
        if kinds.is_boolean(column.type):
            return parse_switch(text)
        if column.unit == "tokens":
            return parse_tokens(text, least=0)
        if column.unit == "bytes":
            return parse_bytes(text)
        if column.unit == "W":
            return parse_watts(text)
        return float(text) if _is_number(column) else None
    except (BadValue, ValueError):
        return None


def split_choice(written: str, what: str) -> tuple[str, tuple[str, ...]]:
    """``"runtime=vulkan,rocm"`` -> ``("runtime", ("vulkan", "rocm"))``. Raises UsageError."""
    axis, equals, values = written.partition("=")
    chosen = tuple(value.strip() for value in values.split(",") if value.strip())
    if not equals or not chosen:
        raise UsageError(f"{what} {quoted(written)}: AXIS=VALUE is wanted, such as runtime=vulkan or context=16K,64K")
    return axis_named(axis.strip()), chosen
