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

from agents.agent import Status
from agents.contract.device import Device
from agents.contract.report import Measured
from orchestrator.cli.view import STOPPING, Opening, Pace, Summary, close
from orchestrator.cli.words import cell_words, first_line, hms, outcome_words
from orchestrator.dispatch.loop import DeviceSilent, Happening, JobEnded, JobProgress, JobSent, Stopping
from orchestrator.plan.jobs import PlannedJob


class LiveView:
    """A terminal: a line a device, one for the whole, failures above as they come. Drawn only when there is news."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._out = self._console.file
        self._pace = Pace()
        self._running: dict[str, tuple[Device, PlannedJob | None, Status | None]] = {}
        self._live: Any = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, opening: Opening) -> None:
        self._pace = opening.pace()
        self._running = {device.device_id: (device, None, None) for device in opening.devices}
        for line in opening.lines():
            self.say(line)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        with Live(self._draw(), console=self._console, auto_refresh=False, transient=True) as display:
            self._live = display
            try:
                yield
            finally:
                self._live = None

    def tell(self, happening: Happening) -> None:
        match happening:
            case JobSent(planned, device, _):
                self._running[device.device_id] = (device, planned, None)
            case JobProgress(device, status):
                _, job, _ = self._running.get(device.device_id, (device, None, None))
                self._running[device.device_id] = (device, job, status)
            case JobEnded(planned, device, report, final):
                self._pace.ended(happening)
                if not isinstance(report.outcome, Measured):
                    again = "" if final else " (again)"
                    self.say(f"{device.name}  {cell_words(planned)}  {outcome_words(report)}{again}")
                self._running[device.device_id] = (device, None, None)
            case DeviceSilent(device, detail):
                self.say(f"lost: {device.name}: {first_line(detail)}")
                self._running.pop(device.device_id, None)
            case Stopping():
                self.say(STOPPING)
        if self._live is not None:
            self._live.update(self._draw(), refresh=True)

    def _draw(self) -> Any:
        table = Table(box=None, pad_edge=False)
        for heading in ("device", "cell", "phase", "tok/s", "left"):
            right = heading in ("tok/s", "left")
            widest = {"device": 24, "phase": 32}.get(heading)
            table.add_column(heading, justify="right" if right else "left", no_wrap=True, max_width=widest)
        for device, job, status in self._running.values():
            rate = f"{status.reads_per_s:.1f}" if job and status and status.reads_per_s else ""
            phase = status.phase if status else ("sent" if job else "idle")
            left = hms(self._pace.eta_s(device.device_id))
            table.add_row(device.name, cell_words(job) if job else "", phase, rate, left)
        pace = self._pace
        spent = hms(time.monotonic() - pace.started)
        words = f"{pace.done} of {pace.total} jobs, {pace.failed} failed"
        table.add_row("all", words, f"{spent} so far", "", hms(pace.eta_all_s()), style="bold")
        return table

    def end(self, run: str, folder: Path, summary: Summary, *, complete: bool) -> None:
        close(run, folder, summary, self._out, complete=complete)
