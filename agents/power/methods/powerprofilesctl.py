"""The profile of power-profiles-daemon, through its program ``powerprofilesctl``. Not yet tried on hardware.

Documents: its README and D-Bus interface (org.freedesktop.UPower.PowerProfiles): ``get``, ``list``, ``set NAME`` with
``power-saver``, ``balanced`` and, where a driver offers it, ``performance``. polkit lets the user of an active session
set it; a service needs root or a rule. ``set`` ends the holds that programs have on a profile, and a hold that comes
later changes the profile: what was set is looked at after every trial.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from agents.power.methods.base import Levels, LimitNotHeld, ProfileKind, ProfileMethod
from agents.power.methods.program import on_path, output_of

KEY = "profile"
_LISTED = re.compile(r"^[* ] ([a-z-]+):\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PowerProfilesDaemon:
    program: str
    name: str = "powerprofilesctl"

    def choices(self) -> tuple[str, ...]:
        try:
            return parse_list(output_of((self.program, "list")))
        except LimitNotHeld:
            return ()

    def profile(self) -> str | None:
        try:
            return str(self.read()[KEY])
        except LimitNotHeld:
            return None

    def read(self) -> Levels:
        return {KEY: output_of((self.program, "get")).strip()}

    def write(self, levels: Levels) -> None:
        output_of((self.program, "set", str(levels.get(KEY))))

    def levels_for(self, profile: str) -> Levels:
        return {KEY: profile}


def parse_list(text: str) -> tuple[str, ...]:
    """The profiles of ``powerprofilesctl list``, which marks the active one with an asterisk. PURE"""
    return tuple(_LISTED.findall(text))


def find(root: Path) -> ProfileMethod | str:
    if root != Path("/"):
        return "a program tells of this machine only, not of a recorded one"
    program = on_path("powerprofilesctl")
    if program is None:
        return "no program powerprofilesctl on the PATH of the agent"
    method = PowerProfilesDaemon(program)
    try:
        method.read()
    except LimitNotHeld as error:
        return error.detail
    return method


POWERPROFILESCTL = ProfileKind("powerprofilesctl", find)
