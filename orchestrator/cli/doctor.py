"""``orchestrate doctor``: what an agent would find on this machine, what not, and what to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from agents.device.doctor import ControlSeen, EngineSeen, Examined, examine
from agents.places import data_root, device_root
from agents.units import format_size
from orchestrator.errors import UsageError
from orchestrator.report.terminal import print_table
from orchestrator.report.text_table import TableCell, TextTable

if TYPE_CHECKING:
    from agents.contract.device import Device
    from agents.device.doctor import SensorSeen
    from agents.telemetry.sources.base import Missing


def show_doctor(*, as_json: bool) -> None:
    folder = device_root(data_root())
    try:
        examined = examine(folder)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if as_json:
        print(json.dumps(asdict(examined)))
        return
    for table in tables(examined):
        print_table(table, sys.stdout)
        print()


def tables(examined: Examined) -> list[TextTable]:
    return [
        machine_table(examined.device, examined.device_file + ("" if examined.has_device_file else " (not there)")),
        engines_table(examined.engines),
        sensors_table(examined.sensors, examined.missing),
        controls_table(examined.controls),
    ]


def machine_table(device: Device, device_file: str) -> TextTable:
    """A line for each fact; ``device_file`` in words. PURE"""
    gpus = ", ".join(f"{gpu.name} ({gpu.driver or 'no driver'})" for gpu in device.gpus)
    split = device.dedicated_vram_bytes
    bandwidth = device.memory_bandwidth_bytes_per_s
    modules = device.ram_modules or "modules not told: no udev here, or one older than 248"
    unknown = "not known; say it in device.yaml: memory_bandwidth: 256GB/s"
    facts = (
        ("name", device.name),
        ("model", " ".join(filter(None, (device.product or "not told", device.bios and f"(BIOS {device.bios})")))),
        ("system", f"{device.os}, kernel {device.kernel}, {device.arch}"),
        ("CPU", f"{device.cpu} ({device.physical_cores or '?'} cores, {device.logical_cores or '?'} threads)"),
        ("GPU", gpus or "none that the kernel shows"),
        ("NPU", ", ".join(device.npus) or "none that the kernel shows"),
        ("memory", f"{device.memory_kind.value}, {format_size(device.ram_bytes)} of RAM ({modules})"),
        ("dedicated VRAM", "-" if split is None else f"{format_size(split)} ({device.split_source})"),
        (
            "bandwidth",
            unknown if bandwidth is None else f"{bandwidth / 1e9:g} GB/s",
        ),
        ("fingerprint", device.fingerprint),
        ("device.yaml", device_file),
    )
    rows = tuple((TableCell(name), TableCell(text)) for name, text in facts)
    return TextTable("This machine", ("what", "as found"), rows, 2)


def engines_table(engines: Sequence[EngineSeen]) -> TextTable:
    """A line for each engine that there is an adapter for. PURE"""
    rows = [tuple(TableCell(text, failed=each.found is None) for text in _texts(each)) for each in engines]
    return TextTable("Engines", ("engine", "version", "runtimes", "where, or why not"), tuple(rows), 4)


def _texts(seen: EngineSeen) -> tuple[str, str, str, str]:
    found = seen.found
    if found is None:
        return seen.name, "-", "-", seen.why
    return seen.name, found.version or "not told", ", ".join(found.runtimes) or "not told", found.where


def sensors_table(sensors: Sequence[SensorSeen], missing: Sequence[Missing]) -> TextTable:
    """What telemetry reads, then what it does not, why, and what to do. PURE"""
    rows = [(TableCell(each.source), TableCell(", ".join(each.quantities)), TableCell("")) for each in sensors]
    rows += [
        (
            TableCell(each.source, failed=True),
            TableCell(f"not there: {each.why}", failed=True),
            TableCell(each.todo or "-"),
        )
        for each in missing
    ]
    return TextTable("Sensors", ("source", "tells", "to do"), tuple(rows), 3)


def controls_table(controls: Sequence[ControlSeen]) -> TextTable:
    """A line for each power method and profile. PURE"""
    rows = tuple(
        tuple(
            TableCell(text, failed=bool(each.why))
            for text in (each.name, "yes" if each.allowed else "no", each.why or "there")
        )
        for each in controls
    )
    note = "A control is used only where device.yaml allows it: allow: {power: [NAME]}; else the operator sets limits."
    return TextTable("Power controls", ("control", "allowed", "as found"), rows, 3, (note,))
