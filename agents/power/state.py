"""The power state that a job asks for, a limit, a profile, both or neither: entered, checked, reported, and put back.

Only through the controls that the owner of the device allows and that the machine has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.contract.device import Device, StateSource, same_power
from agents.contract.job import MachineState
from agents.device_file import Allow
from agents.power.holding import PowerHold, ProfileHold
from agents.power.methods import METHODS, PROFILES
from agents.power.methods.base import LimitLost, LimitNotHeld, PowerMethod, ProfileMethod


@dataclass(frozen=True, slots=True)
class PowerControls:
    """``missing``: what the owner allows and this machine does not have, ``NAME: why``.

    ``methods`` and ``profiles`` may be set; ``profile`` may be read, whether it may be set or not.
    """

    root: Path
    methods: tuple[PowerMethod, ...] = ()
    profiles: tuple[ProfileMethod, ...] = ()
    missing: tuple[str, ...] = ()
    profile: ProfileMethod | None = None

    def seen_w(self) -> float | None:
        """The limit that the machine shows to anybody: the first of METHODS that has one. Never raises."""
        looks = (kind.look for kind in METHODS if kind.look is not None)
        return next((watts for look in looks if (watts := look(self.root)) is not None), None)

    def profile_choices(self) -> tuple[str, ...]:
        """Of all controls that may be set; where none may, of the one that is read."""
        controls = self.profiles or (() if self.profile is None else (self.profile,))
        return tuple(dict.fromkeys(name for each in controls for name in each.choices()))

    def seen_profile(self) -> str | None:
        return None if self.profile is None else self.profile.profile()


def find_power(allow: Allow, root: Path) -> PowerControls:
    """Raises ValueError where the owner's file names a method that is none."""
    known = [*(kind.name for kind in METHODS), *(kind.name for kind in PROFILES)]
    for name in allow.power:
        if name not in known:
            raise ValueError(
                f"device.yaml: allow.power: {name!r} is no method to hold power; there is {', '.join(known)}"
            )
    missing = []
    methods: list[PowerMethod] = []
    for kind in METHODS:
        if kind.name in allow.power:
            method = kind.find(root, allow.power_most)
            if isinstance(method, str):
                missing.append(f"{kind.name}: {method}")
            else:
                methods.append(method)
    profiles: list[ProfileMethod] = []
    profile: ProfileMethod | None = None
    for each in PROFILES:
        allowed = each.name in allow.power
        if not allowed and profile is not None:
            continue
        found = each.find(root)
        if isinstance(found, str):
            missing += [f"{each.name}: {found}"] if allowed else []
            continue
        if allowed:
            profiles.append(found)
        profile = profile or found
    return PowerControls(root, tuple(methods), tuple(profiles), tuple(missing), profiles[0] if profiles else profile)


class PowerState:
    """A profile is entered before a limit and left after it: firmware sets limits of its own with each profile."""

    def __init__(self, controls: PowerControls, folder: Path) -> None:
        self.controls = controls
        self.limit = PowerHold(controls.methods, folder / "power-journal.json", controls.missing)
        self.profile = ProfileHold(controls.profiles, folder / "profile-journal.json", controls.missing)

    def restore_from_journal(self) -> None:
        """Puts back what an earlier process set and did not put back. Raises NotRestored."""
        self.limit.restore_from_journal()
        self.profile.restore_from_journal()

    def release(self) -> None:
        """Puts both back. Raises NotRestored; the next start then tries again."""
        try:
            self.limit.release()
        finally:  # a limit that does not go back is no reason to keep the profile
            self.profile.release()

    def enter(self, wanted: MachineState, device: Device) -> None:
        """Raises LimitNotHeld where the machine is not in the state, and cannot be brought there."""
        # The limit goes first where the profile will change: its old value belongs to the old profile.
        if self.profile.methods and wanted.power_profile != self.profile.profile:
            self.limit.release()
        self._enter_profile(wanted.power_profile, device)
        self._enter_limit(wanted.power_limit_w, device)

    def _enter_profile(self, wanted: str | None, device: Device) -> None:
        if wanted is None:
            self.profile.release()
        elif self.profile.methods:
            self.profile.at(wanted)
        elif (now := self.controls.seen_profile()) != wanted:
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
        return f" ({'; '.join(self.controls.missing)})" if self.controls.missing else ""

    def check(self) -> None:
        """Raises LimitLost where what is held does not stand any more."""
        for hold in (self.limit, self.profile):
            if words := hold.deviation():
                raise LimitLost(f"the power state was not held to the end: {words}")

    @property
    def limit_of(self) -> str | None:
        """What the held limit applies to: package or gpu; None where none is held, or the method does not state it."""
        return next((kind.of for kind in METHODS if kind.name == self.limit.held_by), None)

    def now(self, device: Device) -> tuple[float | None, StateSource | None, str | None, StateSource | None]:
        """Power limit in W and profile as they stand, each with where it is known from."""
        limit_w, limit_source = self._limit(device)
        held = self.profile.profile
        profile = held or self.controls.seen_profile()
        profile_source = None if profile is None else StateSource.SEEN if held is None else StateSource.HELD
        return limit_w, limit_source, profile, profile_source

    def _limit(self, device: Device) -> tuple[float | None, StateSource | None]:
        """Read again: what was there when the agent started may have changed since."""
        if (held_w := self.limit.limit_w) is not None:
            return held_w, StateSource.HELD
        if device.power_source is StateSource.SEEN and (seen_w := self.controls.seen_w()) is not None:
            return seen_w, StateSource.SEEN
        return device.power_limit_w, device.power_source
