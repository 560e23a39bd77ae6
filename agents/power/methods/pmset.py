"""The energy mode of macOS, through the program ``pmset``. Not yet tried on hardware.

Documents: pmset(1): ``pmset -g custom`` lists the settings under ``Battery Power:`` and ``AC Power:``, ``pmset -c``
and ``-b`` set those of one of them, ``pmset -g`` shows what is in use; root. Macs have ``lowpowermode`` 0 or 1; those
with a high power mode (M1 Max and later) have ``powermode`` 0, 1 or 2 instead, which its manual page does not say. Both
sources are set, and each gets its own value back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from agents.power.methods.base import Levels, LimitNotHeld, ProfileKind, ProfileMethod
from agents.power.methods.program import on_path, output_of

SOURCES = {"AC Power": "-c", "Battery Power": "-b"}
SETTINGS = {"powermode": ("automatic", "low-power", "high-power"), "lowpowermode": ("automatic", "low-power")}
_SETTING = re.compile(r"^\s+(\w+)\s+(\d+)\s*$")


@dataclass(frozen=True, slots=True)
class Pmset:
    program: str
    name: str = "pmset"

    def choices(self) -> tuple[str, ...]:
        try:
            return SETTINGS[_setting(self.read())]
        except LimitNotHeld:
            return ()

    def profile(self) -> str | None:
        """Of the source of power that is in use."""
        try:
            return parse_in_use(output_of((self.program, "-g")))
        except LimitNotHeld:
            return None

    def read(self) -> Levels:
        levels = parse_custom(output_of((self.program, "-g", "custom")))
        if not levels:
            raise LimitNotHeld("pmset -g custom: neither powermode nor lowpowermode: this Mac has one mode only")
        return levels

    def write(self, levels: Levels) -> None:
        words: list[str] = []
        for key, value in levels.items():
            source, _, setting = key.partition("/")
            if source not in SOURCES:
                raise LimitNotHeld(f"pmset: {source!r} is no source of power; there is {', '.join(SOURCES)}")
            words += (SOURCES[source], setting, str(value))
        output_of((self.program, *words))

    def levels_for(self, profile: str) -> Levels:
        levels = self.read()
        return dict.fromkeys(levels, str(SETTINGS[_setting(levels)].index(profile)))


def _setting(levels: Levels) -> str:
    return next(iter(levels)).partition("/")[2]


def parse_custom(text: str) -> Levels:
    """``pmset -g custom`` -> ``{"AC Power/lowpowermode": "0"}``; ``powermode`` where there is one. PURE"""
    found: dict[str, dict[str, str]] = {name: {} for name in SETTINGS}
    source = ""
    for line in text.splitlines():
        if line.rstrip().endswith(":") and not line.startswith(" "):
            source = line.strip().removesuffix(":")
        elif (setting := _SETTING.match(line)) and setting[1] in found and source in SOURCES:
            found[setting[1]][f"{source}/{setting[1]}"] = setting[2]
    return next((levels for levels in found.values() if levels), {})


def parse_in_use(text: str) -> str | None:
    """``pmset -g`` -> the profile; None where it shows none that is known. PURE"""
    for line in text.splitlines():
        setting = _SETTING.match(line)
        names = SETTINGS.get(setting[1], ()) if setting else ()
        if setting and int(setting[2]) < len(names):
            return names[int(setting[2])]
    return None


def find(root: Path) -> ProfileMethod | str:
    if root != Path("/"):
        return "a program tells of this machine only, not of a recorded one"
    program = on_path("pmset")
    if program is None:
        return "no program pmset on the PATH of the agent: it comes with macOS"
    method = Pmset(program)
    try:
        method.read()
    except LimitNotHeld as error:
        return error.detail
    return method


PMSET = ProfileKind("pmset", find)
