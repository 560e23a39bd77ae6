"""What a method that sets a power limit must do, and the errors that it may raise."""

from __future__ import annotations

from typing import Protocol

from agents.contract.report import Cause
from agents.errors import Unsupported


class LimitNotHeld(Unsupported):
    """The limit could not be set, or is not what was set: the cell is refused, for it would measure another state."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, Cause.WRONG_STATE)


class PowerMethod(Protocol):
    """One control of the machine's power. All limits in W. No call may raise anything but LimitNotHeld."""

    name: str

    def read(self) -> float:
        """The limit as it stands."""
        ...

    def bounds(self) -> tuple[float, float]:
        """Least and largest limit that the control takes."""
        ...

    def set(self, limit_w: float) -> None: ...
