"""A fleet as tables: its runs and its devices. PURE"""

from __future__ import annotations

from agents.contract.device import Device, StateSource
from agents.units import format_size
from orchestrator.cli.texts import format_duration
from orchestrator.dispatch.api import DeviceView, StatusView
from orchestrator.report.text_table import TableCell, TextTable

MOST_NAMED = 3


def status_table(page: StatusView) -> TextTable:
    """A line a run, the newest first."""
    headers = ("run", "state", "priority", "jobs", "done", "failed", "remaining", "at work")
    rows = []
    for view in page.runs:
        row = view.row
        doing = "done" if row.remaining == 0 else row.status.value
        if row.remaining and view.asks and not view.busy:
            doing = "waits for operator"
        texts = (row.id, doing, *(str(each) for each in (row.priority, row.jobs, row.done, row.failed, row.remaining)))
        rows.append(tuple(TableCell(text) for text in (*texts, _listed(view.busy))))
    return TextTable("Runs", headers, tuple(rows), 2, () if rows else ("No runs.",))


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (", ".join(names[:MOST_NAMED]) + more) or "-"


def devices_table(views: list[DeviceView], now_unix_s: float) -> TextTable:
    """A line a device; hosts that are none in notes."""
    headers = ("device", "doing", "memory", "RAM", "VRAM", "power", "CPU", "GPU", "engines", "OS", "address", "seen")
    rows = []
    for view in views:
        if view.device is not None:
            texts = _device_texts(view, view.device, now_unix_s)
            rows.append(tuple(TableCell(text, failed=view.status == "away") for text in texts))
    notes = tuple(f"refused: {view.status}" for view in views if view.device is None)
    return TextTable("Devices", headers, tuple(rows), len(headers), (*notes, *(() if rows else ("No devices.",))))


def _device_texts(view: DeviceView, device: Device, now_unix_s: float) -> tuple[str, ...]:
    away_s = now_unix_s - view.seen_unix_s
    return (
        device.name,
        view.status,
        device.memory_kind.value,
        format_size(device.ram_bytes),
        _split(device),
        _power(device),
        device.cpu,
        ", ".join(gpu.name for gpu in device.gpus) or "-",
        ", ".join(f"{each.name} {each.version}" for each in device.engines) or "-",
        device.os,
        view.address or "-",
        "now" if away_s < 5 else f"{format_duration(away_s)} ago",
    )


def _split(device: Device) -> str:
    if device.dedicated_vram_bytes is None:
        return "-"
    text = format_size(device.dedicated_vram_bytes)
    return f"{text} (stated)" if device.split_source is StateSource.STATED else text


def _power(device: Device) -> str:
    """The limit and who says so, the methods that may set it, and the profile."""
    words = [] if device.power_limit_w is None else [f"{device.power_limit_w:g} W ({device.power_source})"]
    if device.power_methods:
        words.append(f"set by {', '.join(device.power_methods)}")
    if device.power_profile is not None:
        words.append(device.power_profile)
    return ", ".join(words) or "-"
