from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.compare.drift import drifts_of
from orchestrator.report.runs import drift_table

START = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)


def row(hours: float, rate: float | None, **more: Any) -> dict[str, Any]:
    return {
        "canary": True,
        "warmup": False,
        "status": "ok",
        "flags": [],
        "device": "strix",
        "device_id": "id",
        "decode_tps": rate,
        "started_at": START + timedelta(hours=hours),
        "dedicated_vram_bytes": None,
        "power_limit_w": None,
        "power_profile": None,
        **more,
    }


def test_the_drift_of_a_device_over_its_hours() -> None:
    (drift,) = drifts_of([row(3, 27.0), row(0, 30.0), row(1.5, 30.3)])
    assert (drift.device, drift.state, drift.n, drift.hours) == ("strix", "as it stands", 3, 3.0)
    assert (drift.first_tps, drift.last_tps, drift.least_tps, drift.most_tps) == (30.0, 27.0, 27.0, 30.3)
    assert drift.share == pytest.approx(-0.1) and drift.drifted
    shown = drift_table([drift])
    assert [cell.text for cell in shown.rows[0]][2:] == ["3", "3.0", "30.00", "27.00", "-10.0%", "27.00 to 30.30"]
    assert all(cell.failed for cell in shown.rows[0]) and shown.notes


def test_another_state_is_another_canary() -> None:
    states: list[dict[str, Any]] = [
        {"dedicated_vram_bytes": 2**29},
        {"dedicated_vram_bytes": 32 * 2**30, "power_limit_w": 80.0},
        {"power_profile": "balanced"},
    ]
    found = drifts_of([row(number, 10.0 + number, **state) for number, state in enumerate(states)])
    assert [each.state for each in found] == ["32 GiB, 80 W", "512 MiB", "balanced"]
    assert not any(each.drifted for each in found)
    assert drift_table(found).notes == ()


@pytest.mark.parametrize(
    "more",
    [
        {"canary": False},
        {"canary": None},
        {"warmup": True},
        {"status": "failed"},
        {"flags": ["disturbed"]},
        {"decode_tps": None},
    ],
)
def test_what_is_no_canary_with_a_figure_does_not_count(more: dict[str, Any]) -> None:
    assert drifts_of([row(0, 30.0) | more]) == ()
