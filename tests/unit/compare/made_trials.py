"""Tables of trials for the tests of this folder: what a test does not name is the same in every row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from orchestrator.results import schema

SAME = {
    "run": "r",
    "attempt": 1,
    "trial": 1,
    "warmup": False,
    "status": "ok",
    "origin": "measured",
    "device": "laptop",
    "engine": "embedded",
    "model": "m",
    "workload": "tg128",
    "stop": "exact",
    "flags": [],
}


def trials(*rows: dict[str, Any]) -> pa.Table:
    """Each row is a job of its own unless it names one."""
    numbered = [{"job_id": f"j{number}", "repeat": number} | SAME | row for number, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, schema=schema.schema())
