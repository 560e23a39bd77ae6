"""What a person, or a script, sees while a run goes on: a live display, plain lines, or JSON lines."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from agents.contract.device import Device
from agents.contract.rates import decode_tps, prompt_tps, ttft_s
from agents.contract.report import Failed, Measured, Refused, Report
from orchestrator.cli.words import cell_words, counted, first_line, outcome_words
from orchestrator.dispatch.loop import DeviceSilent, Happening, JobEnded, JobProgress, JobSent, Stopping
from orchestrator.matrix import Matrix
from orchestrator.plan.jobs import PlannedJob
from orchestrator.report.grid import Grid
from orchestrator.report.terminal import print_grid

STOPPING = "stopping: what is measured is kept (Ctrl-C again ends at once)"


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known when the work begins. ``waiting`` counts the jobs of each device that is here, by its id.

    ``total`` jobs has the run, ``done`` of them were done before; ``unplaced`` says for each cell why it fits none.
    """

    run: str
    matrix: Matrix
    devices: tuple[Device, ...]
    total: int
    done: int
    waiting: Mapping[str, int]
    unplaced: tuple[str, ...] = ()

    @property
    def absent(self) -> int:
        """Jobs that wait for devices that are not here."""
        return self.total - self.done - sum(self.waiting.values())

    def pace(self) -> Pace:
        return Pace(total=self.total, done=self.done, waiting=dict(self.waiting))

    def lines(self) -> Iterator[str]:
        names = ", ".join(device.name for device in self.devices)
        begun = f", {self.done} of them done before" if self.done else ""
        yield f"run {self.run}: {counted(self.total, 'job')}{begun} on {counted(len(self.devices), 'device')} ({names})"
        if self.matrix.question:
            yield f"question: {first_line(self.matrix.question)}"
        if self.unplaced:
            fit = "fits" if len(self.unplaced) == 1 else "fit"
            yield f"{counted(len(self.unplaced), 'cell')} {fit} no device, for example: {self.unplaced[0]}"
        if self.absent:
            wait = "waits" if self.absent == 1 else "wait"
            yield f"{counted(self.absent, 'job')} {wait} for devices that are not in the cluster"


@dataclass(frozen=True, slots=True)
class Summary:
    """What is said at the end: the comparison, and a line for each cell without a figure."""

    grids: tuple[Grid, ...]
    failures: tuple[str, ...]


class View(Protocol):
    def say(self, text: str) -> None: ...

    def begin(self, opening: Opening) -> None: ...

    def live(self) -> contextlib.AbstractContextManager[None]:
        """While this is entered, happenings are shown."""
        ...

    def tell(self, happening: Happening) -> None: ...

    def end(self, run: str, folder: Path, summary: Summary, *, complete: bool) -> None: ...


@dataclass
class Pace:
    """How far a run is, and how long it will still take: mean seconds of a job so far, the busiest device decides."""

    total: int = 0
    done: int = 0
    failed: int = 0
    waiting: dict[str, int] = field(default_factory=dict)  # device id -> jobs not ended
    started: float = field(default_factory=time.monotonic)
    _seconds: dict[str, list[float]] = field(default_factory=dict)

    def ended(self, happening: JobEnded) -> None:
        if not happening.final:
            return
        self.done += 1
        self.failed += not isinstance(happening.report.outcome, Measured)
        device = happening.device.device_id
        self.waiting[device] = max(self.waiting.get(device, 1) - 1, 0)
        report = happening.report
        self._seconds.setdefault(device, []).append(report.ended_unix_s - report.started_unix_s)

    def eta_s(self, device_id: str) -> float | None:
        """Seconds left on one device; None before its first job has ended."""
        taken = self._seconds.get(device_id)
        return self.waiting.get(device_id, 0) * sum(taken) / len(taken) if taken else None

    def eta_all_s(self) -> float | None:
        etas = [self.eta_s(device) for device, count in self.waiting.items() if count]
        known = [eta for eta in etas if eta is not None]
        return max(known) if known and len(known) == len(etas) else None


class LinesView:
    """A line for each thing that ends; no line for what merely goes on."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._out = sys.stdout

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def begin(self, opening: Opening) -> None:
        self._pace = opening.pace()
        for line in opening.lines():
            self.say(line)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        yield

    def tell(self, happening: Happening) -> None:
        match happening:
            case JobEnded(planned, device, report, final):
                self._pace.ended(happening)
                place = f"[{self._pace.done}/{self._pace.total}]" if final else "[again]"
                self.say(f"{place} {device.name}  {cell_words(planned)}  {outcome_words(report)}")
            case DeviceSilent(device, detail):
                self.say(f"[lost] {device.name}: {first_line(detail)}")
            case Stopping():
                self.say(STOPPING)
            case _:
                pass

    def end(self, run: str, folder: Path, summary: Summary, *, complete: bool) -> None:
        close(run, folder, summary, self._out, complete=complete)


class JsonView:
    """One JSON object a line: ``event`` names it."""

    def __init__(self) -> None:
        self._out = sys.stdout

    def say(self, text: str) -> None:
        self._put("message", text=text)

    def begin(self, opening: Opening) -> None:
        named = [{"device_id": device.device_id, "name": device.name} for device in opening.devices]
        counts = {"jobs": opening.total, "done": opening.done, "absent": opening.absent}
        unplaced = len(opening.unplaced)
        self._put("begin", run=opening.run, matrix=opening.matrix.name, **counts, unplaced=unplaced, devices=named)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        yield

    def tell(self, happening: Happening) -> None:
        match happening:
            case JobSent(planned, device, attempt):
                self._put("job_sent", device=device.name, **_named(planned), attempt=attempt)
            case JobProgress(device, status):
                view = {"job_id": status.job_id, "phase": status.phase, "tokens_per_s": status.reads_per_s}
                self._put("progress", device=device.name, **view)
            case JobEnded(planned, device, report, final):
                self._put("job_ended", device=device.name, **_named(planned), **_ended(report), final=final)
            case DeviceSilent(device, detail):
                self._put("device_lost", device=device.name, detail=detail)
            case Stopping():
                self._put("stopping")

    def end(self, run: str, folder: Path, summary: Summary, *, complete: bool) -> None:
        self._put("end", run=run, complete=complete, folder=str(folder), failures=list(summary.failures))

    def _put(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "at": round(time.time(), 3), **fields})
        print(line, file=self._out, flush=True)


def _named(planned: PlannedJob) -> dict[str, Any]:
    return {"cell_id": planned.cell.cell_id, "cell": planned.cell.label(), "repeat": planned.repeat}


def _ended(report: Report) -> dict[str, Any]:
    outcome = report.outcome
    told: dict[str, Any] = {"job_id": report.job_id, "attempt": report.attempt, "status": outcome.kind}
    if isinstance(outcome, Failed | Refused):
        return told | {"cause": outcome.cause, "detail": outcome.detail}
    trial = outcome.trials[-1]
    rates = {"ttft_s": ttft_s(trial), "decode_tps": decode_tps(trial), "prompt_tps": prompt_tps(trial)}
    return told | rates | {"flags": list(trial.flags)}


def close(run: str, folder: Path, summary: Summary, out: IO[str], *, complete: bool) -> None:
    """The end, for people: the tables, what failed and why, where the results lie."""
    for grid in summary.grids:
        print(file=out)
        print_grid(grid, out)
    if summary.failures:
        print("\nwithout a figure:", file=out)
        for line in summary.failures:
            print(f"  {line}", file=out)
    print(f"\n{'complete' if complete else 'not complete'}; results: {folder}", file=out)
    print("more:", file=out)
    for command in (f"show {run}", f"compare {run}", f"export {run} FILE"):
        print(f"  orchestrate {command}", file=out, flush=True)
