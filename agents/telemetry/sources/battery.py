"""Batteries and mains on Linux, from /sys/class/power_supply.

The kernel's Documentation/ABI/testing/sysfs-class-power. Power is positive out of the battery. Drivers disagree about
the sign of current_now, so the sign is taken from ``status``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.files import HeldFile, first_line, scaled


class Battery:
    """``battery:BAT0``. Firmware refreshes these figures every few seconds at best."""

    def __init__(self, folder: Path) -> None:
        self.name = f"battery:{folder.name}"
        self._status = HeldFile.open(folder / "status")
        self._power = HeldFile.open(folder / "power_now")
        self._current = HeldFile.open(folder / "current_now")
        self._voltage = HeldFile.open(folder / "voltage_now")
        self._charge = HeldFile.open(folder / "capacity")

    def read(self) -> Sequence[Value]:
        status = (self._status.data() if self._status is not None else None) or b""
        return [
            (Quantity.BATTERY_POWER, signed(status.strip(), self._watts())),
            (Quantity.BATTERY_CHARGE, _number(self._charge)),
        ]

    def _watts(self) -> float | None:
        if self._power is not None:
            return scaled(self._power.number(), 1e-6)
        current, voltage = _number(self._current), _number(self._voltage)
        return None if current is None or voltage is None else current * 1e-6 * voltage * 1e-6

    def close(self) -> None:
        _close(self._status, self._power, self._current, self._voltage, self._charge)


def signed(status: bytes, watts: float | None) -> float | None:
    """Power out of the battery; None where there is some and ``status`` does not say which way. PURE"""
    if watts is None:
        return None
    if status == b"Discharging":
        return abs(watts)
    if status == b"Charging":
        return -abs(watts)
    return 0.0 if watts == 0 else None


class Mains:
    """On mains where one of the supplies is online: barrel plug or USB-C."""

    name = "mains"

    def __init__(self, supplies: Sequence[HeldFile]) -> None:
        self._supplies = supplies

    def read(self) -> Sequence[Value]:
        states = [supply.number() for supply in self._supplies]
        known = [state for state in states if state is not None]
        return [(Quantity.ON_MAINS, float(any(known)) if known else None)]

    def close(self) -> None:
        _close(*self._supplies)


def _number(file: HeldFile | None) -> float | None:
    return None if file is None else file.number()


def _close(*files: HeldFile | None) -> None:
    for file in files:
        if file is not None:
            file.close()


class PowerSupplyFinder:
    name = "battery"

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        sources: list[Source] = []
        mains: list[HeldFile] = []
        for folder in sorted((root / "sys/class/power_supply").glob("*")):
            kind = first_line(folder / "type")
            if first_line(folder / "scope") == "Device":
                continue  # a mouse's or headset's
            if kind == "Battery" and first_line(folder / "present") in {"", "1"}:
                sources.append(Battery(folder))
            elif kind in {"Mains", "USB"} and (file := HeldFile.open(folder / "online")) is not None:
                mains.append(file)
        if mains:
            sources.append(Mains(mains))
        return sources, () if sources else (Missing(self.name, "no battery and no mains supply tells of itself"),)
