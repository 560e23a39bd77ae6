"""A power control that a test can look into, and that can be deaf, refuse, or die at any step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agents.power.methods.base import Levels, LimitNotHeld, MethodKind
from agents.power.state import PowerControls


@dataclass
class FakePower:
    """The machine's own limits, a sustained one and one for bursts: they outlive every PowerHold, as the hardware does
    a process."""

    name: str = "fake"
    now_w: float = 80.0
    burst_w: float = 95.0
    range_w: tuple[float, float] = (15.0, 120.0)
    deaf: bool = False  # takes every limit, and keeps the one that it has
    refuses: bool = False
    step: Callable[[str], None] = lambda _: None
    """Told of each step before and after it takes effect; what it raises is the end of the process."""
    sets: list[float] = field(default_factory=list)

    def read(self) -> Levels:
        self.step("read")
        return {"sustained": self.now_w, "burst": self.burst_w}

    def bounds(self) -> tuple[float, float]:
        return self.range_w

    def levels_for(self, limit_w: float) -> Levels:
        return {"sustained": limit_w, "burst": limit_w}

    def write(self, levels: Levels) -> None:
        sustained_w = float(levels["sustained"])
        self.step(f"set {sustained_w:g}")
        self.sets.append(sustained_w)
        if self.refuses:
            raise LimitNotHeld(f"{self.name}: refused in its own words")
        if not self.deaf:
            self.now_w = sustained_w
            self.step(f"half set {sustained_w:g}")
            self.burst_w = float(levels["burst"])
        self.step(f"has set {sustained_w:g}")

    @property
    def stands_w(self) -> tuple[float, float]:
        return self.now_w, self.burst_w


def kind_of(power: FakePower) -> MethodKind:
    """As it would stand in METHODS; its limit is seen by nobody who may not set it."""
    return MethodKind(power.name, lambda root, most_w: power)


@dataclass
class FakeProfiles:
    """A control of named profiles."""

    now: str = "balanced"
    names: tuple[str, ...] = ("low-power", "balanced", "performance")
    name: str = "fake-profile"
    sets: list[str] = field(default_factory=list)

    def choices(self) -> tuple[str, ...]:
        return self.names

    def profile(self) -> str | None:
        return self.now

    def read(self) -> Levels:
        return {"profile": self.now}

    def levels_for(self, profile: str) -> Levels:
        return {"profile": profile}

    def write(self, levels: Levels) -> None:
        self.now = str(levels["profile"])
        self.sets.append(self.now)


def found_of(*methods: FakePower, profiles: FakeProfiles | None = None, may_set_profile: bool = False) -> PowerControls:
    """What a machine with these controls finds; recorded nowhere, so nothing of the real one is looked at."""
    from pathlib import Path

    allowed = (profiles,) if profiles is not None and may_set_profile else ()
    return PowerControls(Path("/nowhere"), methods, allowed, (), profiles)
