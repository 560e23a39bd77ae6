"""The power state that a job asks for: a limit, a profile, both or neither; entered, watched, told, and taken back."""

from __future__ import annotations

from pathlib import Path

from agents.contract.device import Device, StateSource, same_power
from agents.contract.job import MachineState
from agents.power import METHODS
from agents.power.base import LimitLost, LimitNotHeld
from agents.power.found import PowerFound
from agents.power.holding import PowerHold, ProfileHold


class PowerState:
    """A profile is entered before a limit and left after it: firmware sets limits of its own with each profile."""

    def __init__(self, found: PowerFound, folder: Path) -> None:
        self.found = found
        self.limit = PowerHold(found.methods, folder / "power-journal.json", found.missing)
        self.profile = ProfileHold(found.profiles, folder / "profile-journal.json", found.missing)

    def restore_left(self) -> None:
        """What an earlier process did not take back. Raises LimitNotHeld."""
        self.limit.restore_left()
        self.profile.restore_left()

    def release(self) -> None:
        """Raises LimitNotHeld; what could not be taken back is taken back at the next start."""
        try:
            self.limit.release()
        finally:
            self.profile.release()

    def enter(self, wanted: MachineState, device: Device) -> None:
        """Raises LimitNotHeld where the machine is not in the state, and cannot be brought there."""
        if self.profile.methods and wanted.power_profile != self.profile.profile:
            self.limit.release()
        self._enter_profile(wanted.power_profile, device)
        self._enter_limit(wanted.power_limit_w, device)

    def _enter_profile(self, wanted: str | None, device: Device) -> None:
        if wanted is None:
            self.profile.release()
        elif self.profile.methods:
            self.profile.at(wanted)
        elif (now := self.found.seen_profile()) != wanted:
            raise LimitNotHeld(
                f"the power profile of {device.name} {'cannot be seen' if now is None else f'is {now}'}; the cell asks"
                f" for {wanted}: choose it there, or let device.yaml allow a method that holds it{self._missing()}"
            )

    def _enter_limit(self, wanted_w: float | None, device: Device) -> None:
        if wanted_w is None:
            self.limit.release()
        elif self.limit.methods:
            self.limit.at(wanted_w)
        else:
            now_w, source = self._limit(device)
            if same_power(wanted_w, now_w):
                return
            stands = "none is stated" if now_w is None else f"{now_w:g} W is {source}"
            raise LimitNotHeld(
                f"no method is allowed to hold {device.name} at {wanted_w:g} W, and {stands}:"
                f" set it and say so with: orchestrate state {device.name} --power-limit {wanted_w:g}W{self._missing()}"
            )

    def _missing(self) -> str:
        return f" ({'; '.join(self.found.missing)})" if self.found.missing else ""

    def check(self) -> None:
        """Raises LimitLost where what is held does not stand any more."""
        for hold in (self.limit, self.profile):
            if words := hold.still_held():
                raise LimitLost(f"the power state was not held to the end: {words}")

    @property
    def limit_of(self) -> str | None:
        """What the limit that is held limits: package or gpu; None where none is held, or nobody says."""
        return next((kind.of for kind in METHODS if kind.name == self.limit.held_by), None)

    def now(self, device: Device) -> tuple[float | None, StateSource | None, str | None, StateSource | None]:
        """Limit and profile as they stand, each with who says so."""
        limit_w, limit_source = self._limit(device)
        held = self.profile.profile
        profile = held or self.found.seen_profile()
        profile_source = None if profile is None else StateSource.SEEN if held is None else StateSource.HELD
        return limit_w, limit_source, profile, profile_source

    def _limit(self, device: Device) -> tuple[float | None, StateSource | None]:
        """Read again: what was there when the agent started may have changed since."""
        if (held_w := self.limit.limit_w) is not None:
            return held_w, StateSource.HELD
        if device.power_source is StateSource.SEEN and (seen_w := self.found.seen_w()) is not None:
            return seen_w, StateSource.SEEN
        return device.power_limit_w, device.power_source
