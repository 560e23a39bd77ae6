from __future__ import annotations

import pytest

from agents.device.bandwidth import above_bound, peak_bandwidth


@pytest.mark.parametrize(
    ("names", "gb_s"),
    [
        (["AMD RYZEN AI MAX+ 395 w/ Radeon 8060S"], 256),
        (["AMD Ryzen AI 9 HX 370 w/ Radeon 890M"], 120),
        (["Intel(R) Core(TM) Ultra 7 258V"], 136.5),
        (["Apple M4 Max"], 546),
        (["Apple M4"], 120),
        (["Apple M3 Ultra"], 819),
        (["AMD RYZEN AI MAX+ 395", "NVIDIA GeForce RTX 4090"], 1008),
        (["Some CPU"], None),
        (["AMD RYZEN AI MAX+ 395", "a card that is not known"], None),
        ([], None),
    ],
)
def test_the_makers_figures(names: list[str], gb_s: float | None) -> None:
    assert peak_bandwidth(names) == (None if gb_s is None else gb_s * 1e9)


@pytest.mark.parametrize(
    ("tps", "active_bytes", "bandwidth", "above"),
    [
        (118.0, 2_170_000_000, 256e9, True),  # 256.06 GB a second
        (117.9, 2_170_000_000, 256e9, False),
        (None, 10, 1e9, False),
        (1e9, None, 1e9, False),
        (1e9, 10, None, False),
    ],
)
def test_the_bound(tps: float | None, active_bytes: int | None, bandwidth: float | None, above: bool) -> None:
    assert above_bound(tps, active_bytes, bandwidth) is above
