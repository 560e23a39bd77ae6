"""An output format is a function that prints pivots and a line in COMPARE_FORMATS; nothing else lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import pytest

from orchestrator.compare.pivot import Pivot
from orchestrator.report import formats
from tests.unit.cli.conftest import Orchestrate, orchestrate

__all__ = ["orchestrate"]  # the fixture


def print_made_up(pivots: Sequence[Pivot], file: IO[str]) -> None:
    for pivot in pivots:
        print(f"made up: {pivot.metric.name}, {len(pivot.row_keys)} rows", file=file)


def test_a_made_up_format_is_one_line(orchestrate: Orchestrate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "COMPARE_FORMATS", (*formats.COMPARE_FORMATS, ("made-up", print_made_up)))
    asked = ("compare", "reference:aimax395-64g", "--rows", "model", "--value", "decode_tps", "--format")
    assert orchestrate(*asked, "made-up").out.startswith("made up: decode_tps, ")
    refused = orchestrate(*asked, "other")
    assert refused.code == 2
    assert "allowed: terminal, markdown, csv, made-up" in refused.err
