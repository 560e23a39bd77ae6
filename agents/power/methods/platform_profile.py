"""The firmware's power profile, ``/sys/firmware/acpi/platform_profile``. Not yet tried on hardware.

Documents: Documentation/ABI/testing/sysfs-platform_profile: ``platform_profile_choices`` lists names (``low-power``,
``cool``, ``quiet``, ``balanced``, ``balanced-performance``, ``performance``), ``platform_profile`` holds one and takes
one; root. A hotkey, the firmware or power-profiles-daemon may choose another one. Newer kernels read ``custom`` where
several drivers differ, which is no choice: nothing is held then, for it could not be put back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.power.methods.base import Levels, LimitNotHeld, ProfileKind, ProfileMethod
from agents.power.methods.sysfs import write_once

KEY = "platform_profile"


@dataclass(frozen=True, slots=True)
class PlatformProfile:
    folder: Path
    name: str = "platform_profile"

    def choices(self) -> tuple[str, ...]:
        try:
            return tuple((self.folder / f"{KEY}_choices").read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return ()

    def profile(self) -> str | None:
        try:
            return str(self.read()[KEY])
        except LimitNotHeld:
            return None

    def read(self) -> Levels:
        path = self.folder / KEY
        try:
            return {KEY: path.read_text(encoding="ascii").strip()}
        except (OSError, ValueError) as error:
            raise LimitNotHeld(f"{path}: cannot be read: {error}") from error

    def write(self, levels: Levels) -> None:
        path = self.folder / KEY
        try:
            write_once(path, f"{levels[KEY]}\n")
        except (OSError, KeyError, ValueError) as error:
            raise LimitNotHeld(f"{path}: {levels.get(KEY)} cannot be written: {error}") from error

    def levels_for(self, profile: str) -> Levels:
        return {KEY: profile}


def find(root: Path) -> ProfileMethod | str:
    folder = root / "sys/firmware/acpi"
    if not (folder / KEY).exists():
        return "the firmware offers no platform_profile"
    return PlatformProfile(folder)


PLATFORM_PROFILE = ProfileKind("platform_profile", find)
