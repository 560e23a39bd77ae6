"""Published figures, gathered by hand into a CSV, as rows of ``trials`` (origin = published). PURE but the reading

The columns and their units stand in the page beside each CSV in ``orchestrator/reference/``.
"""

from __future__ import annotations

import csv
import io
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa

from agents.contract.report import Cause
from orchestrator.errors import UsageError
from orchestrator.matrix.problems import BadValue, nearest, quoted
from orchestrator.matrix.units import parse_bytes, parse_tokens
from orchestrator.results import schema

PREFIX = "reference:"
GB = 1_000_000_000
GIB = 1 << 30

HEADER = (
    *(
        "device",
        "engine",
        "model",
        "quant",
        "model_size_gb",
        "context",
        "dedicated_vram",
        "runtime",
        "prompt",
        "status",
    ),
    *("decode_tps", "completion_tokens", "ttft_s", "memory_used_gb", "memory_estimate_lmstudio_gb", "note"),
)

_STATUS = {"ok": "ok", "load_failed": "failed", "estimate_only": "estimate_only", "not_measured": "not_measured"}
_RAM = re.compile(r"not enough memory|\bRAM left\b", re.IGNORECASE)
_IMAGE = re.compile(r"image prompt, (\d+) x (\d+) pixels")


def is_published(header: list[str]) -> bool:
    """Whether a CSV with this first line holds published figures."""
    return tuple(header) == HEADER


def references() -> tuple[str, ...]:
    """Names of the published figures that come with Orchestrate."""
    files = resources.files("orchestrator.reference").iterdir()
    return tuple(sorted(each.name.removesuffix(".csv") for each in files if each.name.endswith(".csv")))


def load_reference(name: str) -> pa.Table:
    """``trials`` of ``reference:NAME`` or ``NAME``. Raises UsageError for a name that is not there."""
    short = name.removeprefix(PREFIX)
    if short not in references():
        near = nearest(short, references()) or "."
        raise UsageError(f"no published figures named {quoted(short)}{near} There are: {', '.join(references())}")
    text = resources.files("orchestrator.reference").joinpath(f"{short}.csv").read_text("utf-8")
    return published(text, run=f"{PREFIX}{short}", file=f"{PREFIX}{short}")


def load_published_csv(path: Path) -> pa.Table:
    return published(path.read_text("utf-8-sig"), run=path.stem, file=str(path))


def published(text: str, run: str, file: str) -> pa.Table:
    """``trials`` from a CSV's text. Raises UsageError that names file, line and column of what cannot be read."""
    lines = list(csv.DictReader(io.StringIO(text), strict=True))
    rows = [_row(line, run, file, number) for number, line in enumerate(lines, start=2)]
    return pa.Table.from_pylist(rows, schema=schema.schema("trials"))


def _row(line: dict[str, str], run: str, file: str, number: int) -> dict[str, Any]:
    def refused(column: str, why: str) -> UsageError:
        return UsageError(f"{file}:{number}: {column}: {why}")

    def read(column: str, parse: Any, scale: float = 1) -> Any:
        written = (line.get(column) or "").strip()
        if not written:
            return None
        try:
            return parse(written) if scale == 1 else round(parse(written) * scale)
        except (ValueError, BadValue) as error:
            raise refused(column, str(error)) from error

    status = line.get("status") or ""
    if status not in _STATUS:
        raise refused("status", f"{quoted(status)} is not allowed. Allowed: {', '.join(_STATUS)}")
    note = line.get("note") or None
    return {
        "run": run,
        "job_id": f"published-{number - 1:03}",
        "cell_id": f"published-{number - 1:03}",
        "attempt": 1,
        "repeat": 0,
        "trial": 0 if status == "ok" else None,
        "warmup": False,
        "origin": "published",
        "status": _STATUS[status],
        **(_failure(note) if status == "load_failed" else {"note": note}),
        **_image(note),
        **{name: read(column, str) for name, column in _TEXTS.items()},
        "model_bytes": read("model_size_gb", float, GB),
        "context_tokens": read("context", parse_tokens),
        "dedicated_vram_bytes": read("dedicated_vram", parse_bytes),
        "decode_tps": read("decode_tps", float),
        "completion_tokens": read("completion_tokens", int),
        "ttft_s": read("ttft_s", float),
        "memory_used_bytes": read("memory_used_gb", float, GIB),
        "memory_estimate_bytes": read("memory_estimate_lmstudio_gb", float, GIB),
        "flags": [],
    }


_TEXTS = {
    "device": "device",
    "engine": "engine",
    "model": "model",
    "quantisation": "quant",
    "runtime": "runtime",
    "workload": "prompt",
}


def _failure(note: str | None) -> dict[str, Any]:
    cause = Cause.RAM if note and _RAM.search(note) else Cause.LOAD_FAILED
    return {"cause": cause, "detail": note}


def _image(note: str | None) -> dict[str, Any]:
    found = _IMAGE.search(note or "")
    return {"image_width_px": int(found[1]), "image_height_px": int(found[2])} if found else {}
