"""How a device's speed drifts while a run goes on: the decode rates of its canaries, in the order of time. PURE"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agents.units import format_size

DRIFTED = 0.05
"""From so much on, of the first canary's rate, figures of the first and the last hour are not to be compared as they
stand. Canaries of one idle machine in a row differ by 1 to 2 %."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Of one device in one state. Rates in tokens/s; ``hours`` from the first canary to the last."""

    device: str
    state: str
    n: int
    first_tps: float
    last_tps: float
    least_tps: float
    most_tps: float
    hours: float

    @property
    def share(self) -> float:
        """(last - first) / first."""
        return self.last_tps / self.first_tps - 1

    @property
    def drifted(self) -> bool:
        return (self.most_tps - self.least_tps) / self.first_tps >= DRIFTED


def drifts_of(rows: Iterable[Mapping[str, Any]]) -> tuple[Drift, ...]:
    """``rows`` of the table ``trials``; those that are no canary's, warm-ups, failures and flagged ones are let pass.

    A canary in another memory split, profile or power limit is another one: that is no drift. Sorted by device.
    """
    found: dict[tuple[str, str], list[tuple[datetime, float]]] = defaultdict(list)
    for row in rows:
        rate = row["decode_tps"]
        if row["canary"] and not row["warmup"] and row["status"] == "ok" and not row["flags"] and rate:
            key = (row["device"] or row["device_id"] or "-", _state(row))
            found[key].append((row["started_at"], rate))
    return tuple(_drift(*key, sorted(found[key])) for key in sorted(found))


def _drift(device: str, state: str, canaries: list[tuple[datetime, float]]) -> Drift:
    rates = [rate for _, rate in canaries]
    hours = (canaries[-1][0] - canaries[0][0]).total_seconds() / 3600
    return Drift(device, state, len(rates), rates[0], rates[-1], min(rates), max(rates), hours)


def _state(row: Mapping[str, Any]) -> str:
    split, limit_w, profile = row["dedicated_vram_bytes"], row["power_limit_w"], row["power_profile"]
    words = (
        None if split is None else format_size(split),
        None if limit_w is None else f"{limit_w:g} W",
        profile,
    )
    return ", ".join(word for word in words if word) or "as it stands"
