"""`orchestrate top`: what this device does now, from the sources that a benchmark's telemetry has."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agents.telemetry.sources.base import Missing, Quantity, Source
from agents.units import format_size

EVERY_S = 0.5
Now = tuple[str, Quantity, float | None]
"""Source, quantity, value."""


def show_top(*, once: bool, as_json: bool, root: Path = Path("/"), wait: Callable[[float], None] = time.sleep) -> None:
    """Until Ctrl-C; with ``once`` (and where no terminal is) the second reading, in which rates have values."""
    from agents.telemetry.sampler import find
    from agents.telemetry.sources import SOURCES

    sources, missing = find(SOURCES, root)
    try:
        _read(sources)
        wait(EVERY_S)
        if as_json:
            _json_lines(sources, once=once, wait=wait)
        elif once or not sys.stdout.isatty():
            Console(file=sys.stdout, highlight=False).print(_drawn(_read(sources), missing))
        else:
            _live(sources, missing, wait)
    finally:
        for source in sources:
            source.close()


def _live(sources: Sequence[Source], missing: Sequence[Missing], wait: Callable[[float], None]) -> None:
    with Live(console=Console(highlight=False), auto_refresh=False) as display:
        while True:
            display.update(_drawn(_read(sources), missing), refresh=True)
            wait(EVERY_S)


def _json_lines(sources: Sequence[Source], *, once: bool, wait: Callable[[float], None]) -> None:
    while True:
        now = [{"source": source, "quantity": str(kind), "value": value} for source, kind, value in _read(sources)]
        units = [{**each, "unit": Quantity(str(each["quantity"])).unit} for each in now]
        print(json.dumps({"unix_s": time.time(), "readings": units}), flush=True)
        if once:
            return
        wait(EVERY_S)


def _read(sources: Iterable[Source]) -> list[Now]:
    return [(source.name, quantity, value) for source in sources for quantity, value in source.read()]


def _drawn(now: Sequence[Now], missing: Sequence[Missing]) -> Any:
    table = Table(box=None, pad_edge=False)
    for heading in ("source", "what", "now"):
        table.add_column(heading, justify="right" if heading == "now" else "left", no_wrap=True)
    before = ""
    for source, quantity, value in now:
        table.add_row(source if source != before else "", quantity.replace("_", " "), in_units(quantity, value))
        before = source
    helped = [each for each in missing if each.todo]  # `orchestrate doctor` shows all
    return Group(table, *(Text(f"{each.source}: {each.why}; {each.todo}", style="dim") for each in helped))


def in_units(quantity: Quantity, value: float | None) -> str:
    """``57 %``, ``1.21 GiB``, ``2.90 GHz``, ``on``; ``-`` where it cannot be known just now. PURE"""
    if value is None:
        return "-"
    unit = quantity.unit
    if unit in ("bytes", "bytes/s"):
        per = "/s" if unit.endswith("/s") else ""
        return f"{format_size(value, 2)}{per}"
    if unit == "Hz":
        return f"{value / 1e9:.2f} GHz"
    if unit == "":
        return "on" if value else "off"
    return f"{value:.1f} {unit}" if unit in ("W", "J") else f"{value:.0f} {unit}"
