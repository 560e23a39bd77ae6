"""Limits that stand in the kernel's files, in microwatts: read, written, and put into words where that fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.power.methods.base import Levels, LimitNotHeld


@dataclass(frozen=True, slots=True)
class MicrowattFiles:
    """One limit in one or several files: all get the same value, and each gets its own back."""

    name: str
    files: Mapping[str, Path]
    range_of: Callable[[Levels], tuple[float, float]]

    def read(self) -> Levels:
        return {key: read_w(path) for key, path in self.files.items()}

    def write(self, levels: Levels) -> None:
        for key, level in levels.items():
            if key not in self.files:
                raise LimitNotHeld(f"{self.name}: {key} is not on this machine now")
            write_w(self.files[key], float(level))

    def bounds(self) -> tuple[float, float]:
        return self.range_of(self.read())

    def levels_for(self, limit_w: float) -> Levels:
        return dict.fromkeys(self.files, limit_w)


def read_w(path: Path) -> float:
    """Raises LimitNotHeld."""
    try:
        return int(path.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError) as error:
        raise LimitNotHeld(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def seen_w(path: Path) -> float | None:
    """The limit in the file; None where there is none, or 0, which is the kernel's word for none."""
    try:
        return read_w(path) or None
    except LimitNotHeld:
        return None


def write_w(path: Path, limit_w: float) -> None:
    """Raises LimitNotHeld."""
    try:
        write_once(path, f"{round(limit_w * 1e6)}\n")
    except OSError as error:
        raise LimitNotHeld(f"{path}: {limit_w:g} W cannot be written: {error.strerror or error}") from error


def write_once(path: Path, text: str) -> None:
    """By one system call, which the kernel takes as one value; never makes a file where it has none. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(file, text.encode("ascii"))
    finally:
        os.close(file)


def why_not_writable(files: Mapping[str, Path]) -> str | None:
    """None where this process may write them all."""
    for path in files.values():
        if not os.access(path, os.R_OK | os.W_OK):
            return f"{path} may not be written: run the agent as root, or give its user the right by a udev rule"
    return None


def hwmon_folders(root: Path, *drivers: str) -> list[tuple[str, Path]]:
    """The sensor folders of the graphics cards of these drivers, each with the card's place on the PCI bus.

    The numbers of cards and hwmon folders may be others after a reboot; the place on the bus stays.
    """
    found = []
    cards = (root / "sys/class/drm").glob("card[0-9]*")
    for card in sorted(cards, key=lambda each: (len(each.name), each.name)):
        device = card / "device"
        if "-" in card.name or (device / "driver").resolve().name not in drivers:
            continue
        place = device.resolve().name if device.is_symlink() else card.name
        found += [(place, folder) for folder in sorted((device / "hwmon").glob("hwmon[0-9]*"))]
    return found
