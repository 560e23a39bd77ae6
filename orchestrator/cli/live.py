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

from orchestrator.cli.texts import format_cell, format_count, format_duration, format_outcome
from orchestrator.cli.view import RunDigest, RunProgress, notice_line, opening_lines, print_end, progress_of
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
        self._progress = RunProgress()
        self._running: dict[str, tuple[DeviceName, JobName | None, JobProgress | None]] = {}
        self._live: Any = None

    def show_message(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, opening: RunSnapshot) -> None:
        self._progress = progress_of(opening)
        self._running = {key: (DeviceName(key, name), None, None) for key, name in opening.devices}
        for line in opening_lines(opening):
            self.show_message(line)
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

    def on_notice(self, notice: Notice) -> None:
        match notice:
            case JobSent(job, device, _):
                self._running[device.device_id] = (device, job, None)
            case JobProgress(device):
                _, known, _ = self._running.get(device.device_id, (device, None, None))
                self._running[device.device_id] = (device, known, notice)
            case JobEnded(job, device, final=final):
                self._progress.ended(notice)
                if notice.cause is not None:
                    again = "" if final else " (again)"
                    self.show_message(f"{device.name}  {format_cell(job)}  {format_outcome(notice)}{again}")
                self._running[device.device_id] = (device, None, None)
            case _:
                if isinstance(notice, DeviceDisappeared):
                    self._running.pop(notice.device.device_id, None)
                if line := notice_line(notice):
                    self.show_message(line)
        if self._live is not None:
            self._live.update(self._draw(), refresh=True)

    def _draw(self) -> Any:
        table = Table(box=None, pad_edge=False)
        for heading in ("device", "cell", "stage", "tok/s", "remaining"):
            right = heading in ("tok/s", "remaining")
            widest = {"device": 24, "phase": 32}.get(heading)
            table.add_column(heading, justify="right" if right else "left", no_wrap=True, max_width=widest)
        shown = sorted(self._running.values(), key=lambda each: (each[1] is None, each[0].name))
        for device, job, status in shown[:MOST_SHOWN]:
            rate = f"{status.reads_per_s:.1f}" if job and status and status.reads_per_s else ""
            phase = status.stage if status else ("sent" if job else "idle")
            remaining = format_duration(self._progress.eta_s(device.device_id))
            table.add_row(device.name, format_cell(job) if job else "", phase, rate, remaining)
        if len(shown) > MOST_SHOWN:
            table.add_row("...", f"and {format_count(len(shown) - MOST_SHOWN, 'more device')}", "", "", "")
        progress = self._progress
        spent = format_duration(time.monotonic() - progress.started)
        words = f"{progress.done} of {progress.total} jobs, {progress.failed} failed"
        table.add_row("all", words, f"{spent} so far", "", format_duration(progress.eta_all_s()), style="bold")
        return table

    def end(self, run: str, folder: Path, summary: RunDigest, *, complete: bool) -> None:
        print_end(run, folder, summary, self._out, complete=complete)
