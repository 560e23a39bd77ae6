"""What devices lack of the models that a run asks for, in lines for people. PURE"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.contract.model_need import DISK_MARGIN_BYTES, ModelNeed
from agents.units import format_size

MOST_DEVICES = 8
"""With more devices that lack something there is one line for all of them, beside the warnings."""

_MOST_DETAILS = 3


@dataclass(frozen=True, slots=True)
class DeviceNeeds:
    """``needs`` by ``agents.models.needs.needs``, ``free_bytes`` of the disk that the models go to."""

    name: str
    free_bytes: int
    needs: tuple[ModelNeed, ...]

    @property
    def missing(self) -> tuple[ModelNeed, ...]:
        return tuple(need for need in self.needs if not need.here)

    @property
    def missing_bytes(self) -> int:
        """Of the models whose size is known."""
        return sum(need.missing_bytes or 0 for need in self.missing)

    @property
    def lacked_bytes(self) -> int:
        """What the disk is too small by; 0 where all fits."""
        short = self.missing_bytes + DISK_MARGIN_BYTES - self.free_bytes
        return max(0, short) if self.missing_bytes else 0


def needs_lines(by_device: Mapping[str, DeviceNeeds]) -> list[str]:
    """Nothing where nothing is missing; else a line a device, or one for all, and a warning for each that cannot do."""
    lacking = [device for device in by_device.values() if device.missing]
    few = len(lacking) <= MOST_DEVICES
    lines = [_line(device) for device in lacking] if few else [_total(lacking, len(by_device))]
    warnings = [warning for device in lacking for warning in _warnings(device)]
    more = len(warnings) - MOST_DEVICES
    return lines + warnings[:MOST_DEVICES] + ([f"models: and {more} more warnings"] if more > 0 else [])


def _line(device: DeviceNeeds) -> str:
    return (
        f"models: {device.name} lacks {len(device.missing)} of {len(device.needs)}, "
        f"{_size([device])} of {format_size(device.free_bytes)} free"
    )


def _total(lacking: Sequence[DeviceNeeds], devices: int) -> str:
    most = max(lacking, key=lambda device: device.missing_bytes)
    return (
        f"models: {len(lacking)} of {devices} devices lack {sum(len(device.missing) for device in lacking)} in all, "
        f"{_size(lacking)}; the most: {most.name}, {_size([most])} of {format_size(most.free_bytes)} free"
    )


def _size(devices: Sequence[DeviceNeeds]) -> str:
    unknown = sum(need.missing_bytes is None for device in devices for need in device.missing)
    known = format_size(sum(device.missing_bytes for device in devices))
    return f"{known} and {unknown} of unknown size" if unknown else known


def _warnings(device: DeviceNeeds) -> list[str]:
    warnings = []
    if device.lacked_bytes:
        warnings.append(
            f"models: warning: {device.name} has room for {format_size(device.free_bytes)} and lacks "
            f"{format_size(device.missing_bytes)}: {format_size(device.lacked_bytes)} too little"
        )
    unsized = [need for need in device.missing if need.missing_bytes is None]
    if unsized:
        shown = ", ".join(f"{_name(need)} ({need.detail or 'size unknown'})" for need in unsized[:_MOST_DETAILS])
        more = f" and {len(unsized) - _MOST_DETAILS} more" if len(unsized) > _MOST_DETAILS else ""
        warnings.append(f"models: warning: {device.name}: {shown}{more}")
    return warnings


def _name(need: ModelNeed) -> str:
    return f"{need.model} {need.quantisation}" if need.quantisation else need.model
