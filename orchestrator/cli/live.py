"""The live display of a run on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.cli.texts import cell_words, counted, hms, outcome_words
from orchestrator.cli.view import Pace, Summary, close, news_line, opening_lines, pace_of
from orchestrator.dispatch.api import RunSnapshot
from orchestrator.dispatch.notices import (
    DeviceDisappeared,
    DeviceName,
    JobEnded,
    JobName,
    JobProgress,
    JobSent,
    Notice,
)

MOST_SHOWN = 20  # devices, those that work first


class LiveView:
    """A terminal: a line a device, one for the whole, failures above as they come. Drawn only when there is news."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._out = self._console.file
        self._pace = Pace()
        self._running: dict[str, tuple[DeviceName, JobName | None, JobProgress | None]] = {}
        self._live: Any = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, opening: RunSnapshot) -> None:
        self._pace = pace_of(opening)
        self._running = {key: (DeviceName(key, name), None, None) for key, name in opening.devices}
        for line in opening_lines(opening):
            self.say(line)
        for sent in opening.running:
            self._running[sent.device.device_id] = (sent.device, sent.job, None)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        with Live(self._draw(), console=self._console, auto_refresh=False, transient=True) as display:
            self._live = display
            try:
                yield
            finally:
                self._live = None

    def tell(self, notice: Notice) -> None:
        match notice:
            case JobSent(job, device, _):
                self._running[device.device_id] = (device, job, None)
            case JobProgress(device):
                _, known, _ = self._running.get(device.device_id, (device, None, None))
                self._running[device.device_id] = (device, known, notice)
            case JobEnded(job, device, final=final):
                self._pace.ended(notice)
                if notice.cause is not None:
                    again = "" if final else " (again)"
                    self.say(f"{device.name}  {cell_words(job)}  {outcome_words(notice)}{again}")
                self._running[device.device_id] = (device, None, None)
            case _:
                if isinstance(notice, DeviceDisappeared):
                    self._running.pop(notice.device.device_id, None)
                if line := news_line(notice):
                    self.say(line)
        if self._live is not None:
            self._live.update(self._draw(), refresh=True)

    def _draw(self) -> Any:
        table = Table(box=None, pad_edge=False)
        for heading in ("device", "cell", "phase", "tok/s", "left"):
            right = heading in ("tok/s", "left")
            widest = {"device": 24, "phase": 32}.get(heading)
            table.add_column(heading, justify="right" if right else "left", no_wrap=True, max_width=widest)
        shown = sorted(self._running.values(), key=lambda each: (each[1] is None, each[0].name))
        for device, job, status in shown[:MOST_SHOWN]:
            rate = f"{status.reads_per_s:.1f}" if job and status and status.reads_per_s else ""
            phase = status.stage if status else ("sent" if job else "idle")
            left = hms(self._pace.eta_s(device.device_id))
            table.add_row(device.name, cell_words(job) if job else "", phase, rate, left)
        if len(shown) > MOST_SHOWN:
            table.add_row("...", f"and {counted(len(shown) - MOST_SHOWN, 'more device')}", "", "", "")
        pace = self._pace
        spent = hms(time.monotonic() - pace.started)
        words = f"{pace.done} of {pace.total} jobs, {pace.failed} failed"
        table.add_row("all", words, f"{spent} so far", "", hms(pace.eta_all_s()), style="bold")
        return table

    def end(self, run: str, folder: Path, summary: Summary, *, complete: bool) -> None:
        close(run, folder, summary, self._out, complete=complete)
