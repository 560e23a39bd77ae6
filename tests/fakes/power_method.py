"""A power control that a test can look into, and that can be deaf, refuse, or die at any step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agents.power.base import LimitNotHeld


@dataclass
class FakePower:
    """The machine's own limit stands in ``now_w``: it outlives every PowerHold, as the hardware does a process."""

    name: str = "fake"
    now_w: float = 80.0
    range_w: tuple[float, float] = (15.0, 120.0)
    deaf: bool = False  # takes every limit, and keeps the one that it has
    refuses: bool = False
    step: Callable[[str], None] = lambda _: None
    """Told of each step before and after it takes effect; what it raises is the end of the process."""
    sets: list[float] = field(default_factory=list)

    def read(self) -> float:
        self.step("read")
        return self.now_w

    def bounds(self) -> tuple[float, float]:
        return self.range_w

    def set(self, limit_w: float) -> None:
        self.step(f"set {limit_w:g}")
        self.sets.append(limit_w)
        if self.refuses:
            raise LimitNotHeld(f"{self.name}: refused in its own words")
        if not self.deaf:
            self.now_w = limit_w
        self.step(f"has set {limit_w:g}")
