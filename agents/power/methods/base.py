"""What a method that sets a power limit must do, and the errors that it may raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from agents.contract.device import same_power
from agents.contract.report import Cause
from agents.errors import AgentError, Unsupported

Levels = Mapping[str, float | str]
"""Values of a control by their names, in W or a profile's name. A control may have several: a limit for seconds and one
for minutes, two graphics cards. They are JSON, for the journal keeps them and hands them back."""

LEAST_W = 5.0
"""Where a control has no bound of its own: below it laptops crawl at their lowest clock, and are hard to get back."""


class LimitNotHeld(Unsupported):
    """The limit could not be set, or is not what was set: the cell is refused, for it would measure another state."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, Cause.WRONG_STATE)


class NotRestored(LimitNotHeld):
    """What was set does not go back to what it was. The journal stays, and the device takes no job until it does."""


class LimitLost(AgentError):
    """What was set is not what stands after a trial: somebody or the firmware took it back. The job fails."""

    def __init__(self, detail: str) -> None:
        super().__init__(Cause.WRONG_STATE, detail)


class Control(Protocol):
    """Something on the machine that can be read, written and put back. No call may raise anything but LimitNotHeld."""

    @property
    def name(self) -> str: ...

    def read(self) -> Levels:
        """All that ``write`` changes, as it stands."""
        ...

    def write(self, levels: Levels) -> None: ...


class PowerMethod(Control, Protocol):
    """A control that holds watts."""

    def bounds(self) -> tuple[float, float]:
        """Least and largest limit that it takes, in W; asked while nothing is held."""
        ...

    def levels_for(self, limit_w: float) -> Levels:
        """What to write for this limit."""
        ...


class ProfileMethod(Control, Protocol):
    """A control that holds one of a few named profiles; nobody says how many watts they are."""

    def choices(self) -> tuple[str, ...]: ...

    def levels_for(self, profile: str) -> Levels: ...

    def profile(self) -> str | None:
        """The profile as it stands; None where it cannot be read. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class MethodKind:
    """A kind of power method, as it stands in METHODS.

    ``find`` has the method on this machine, or says why there is none; ``root`` stands for ``/``, and ``most_w`` is the
    owner's own upper bound. ``look`` reads the limit without any permission; None where that cannot be done. ``of``:
    what it limits, each of them where there are several.
    """

    name: str
    find: Callable[[Path, float | None], PowerMethod | str]
    look: Callable[[Path], float | None] | None = None
    of: Literal["package", "gpu"] | None = None


@dataclass(frozen=True, slots=True)
class ProfileKind:
    """A kind of control with named profiles, as it stands in PROFILES.

    ``find`` is called also where nothing is allowed: the profile that stands is a fact of the device.
    """

    name: str
    find: Callable[[Path], ProfileMethod | str]


def difference(wanted: Levels, now: Levels) -> str:
    """What is not as it was wanted, in words; empty where all is. PURE"""
    return ", ".join(
        f"{name} should be {_words(level)} and is {_words(now.get(name))}"
        for name, level in wanted.items()
        if not _same(level, now.get(name))
    )


def _same(wanted: float | str, now: float | str | None) -> bool:
    if isinstance(wanted, str) or isinstance(now, str):
        return wanted == now
    return same_power(wanted, now)


def _words(level: float | str | None) -> str:
    return "not there" if level is None else level if isinstance(level, str) else f"{level:g} W"


def bounds_of(
    least_w: float | None, most_w: float | None, stands_w: float, owners_most_w: float | None
) -> tuple[float, float]:
    """The range of a control whose own bounds are ``least_w`` and ``most_w``; None where it has none. PURE

    A control without an upper bound of its own goes as far as the owner says, and without the owner's word no further
    than it stood: the machine's maker chose that.
    """
    least = max(least_w or 0.0, LEAST_W)
    if most_w is None:
        return least, owners_most_w or stands_w
    return least, most_w if owners_most_w is None else min(most_w, owners_most_w)
