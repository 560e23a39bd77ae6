"""What a person, or a script, sees while a run goes on: a live display, plain lines, or JSON lines."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from orchestrator.cli.texts import first_line, format_cell, format_count, format_outcome
from orchestrator.dispatch.api import RunSnapshot
from orchestrator.dispatch.durations import usual_seconds
from orchestrator.dispatch.notices import (
    AskWithdrawn,
    DeviceAppeared,
    DeviceDisappeared,
    JobEnded,
    JobName,
    JobProgress,
    JobSent,
    Notice,
    OperatorAsked,
    RunEnded,
    RunStopping,
    TroubleReported,
)
from orchestrator.report.terminal import print_table
from orchestrator.report.text_table import TextTable

STOPPING = "stopping: what is measured is kept (Ctrl-C again ends at once)"


def absent(opening: RunSnapshot) -> int:
    """Jobs that wait for devices that are not here."""
    return sum(count for device_id, count in opening.waiting.items() if device_id not in opening.present)


def opening_lines(opening: RunSnapshot) -> Iterator[str]:
    names = ", ".join(name for _, name in opening.devices)
    begun = f", {opening.done} of them done before" if opening.done else ""
    on = f" on {format_count(len(opening.devices), 'device')} ({names})" if opening.devices else ""
    yield f"run {opening.run}: {format_count(opening.total, 'job')}{begun}{on}"
    if opening.question:
        yield f"question: {first_line(opening.question)}"
    if opening.unplaced:
        fit = "fits" if len(opening.unplaced) == 1 else "fit"
        yield f"{format_count(len(opening.unplaced), 'cell')} {fit} no device, for example: {opening.unplaced[0]}"
    if count := absent(opening):
        waits = "waits" if count == 1 else "wait"
        yield f"{format_count(count, 'job')} {waits} for devices that are not in the cluster"
    if opening.trouble:
        yield f"trouble: {opening.trouble}"
    yield from (f"to do: {ask}" for ask in opening.asks)


@dataclass(frozen=True, slots=True)
class RunDigest:
    """What is shown at a run's end: the comparison, and a line for each cell without a figure."""

    tables: tuple[TextTable, ...]
    failures: tuple[str, ...]


class View(Protocol):
    def show_message(self, text: str) -> None: ...

    def begin(self, opening: RunSnapshot) -> None: ...

    def live(self) -> contextlib.AbstractContextManager[None]:
        """While this is entered, notices are shown."""
        ...

    def on_notice(self, notice: Notice) -> None: ...

    def end(self, run: str, folder: Path, summary: RunDigest, *, complete: bool) -> None: ...


def progress_of(opening: RunSnapshot) -> RunProgress:
    return RunProgress(total=opening.total, done=opening.done, failed=opening.failed, waiting=dict(opening.waiting))


@dataclass
class RunProgress:
    """How far a run is, and how long it will still take: usual seconds of a job so far, the busiest device decides."""

    total: int = 0
    done: int = 0
    failed: int = 0
    waiting: dict[str, int] = field(default_factory=dict)  # device id -> jobs not ended
    started: float = field(default_factory=time.monotonic)
    _seconds: dict[str, list[float]] = field(default_factory=dict)

    def ended(self, notice: JobEnded) -> None:
        if not notice.final:
            return
        self.done += 1
        self.failed += notice.cause is not None
        device = notice.device.device_id
        self.waiting[device] = max(self.waiting.get(device, 1) - 1, 0)
        if notice.seconds > 0:  # else it never ran, or an older version took its time by a clock that was set
            self._seconds.setdefault(device, []).append(notice.seconds)

    def eta_s(self, device_id: str) -> float | None:
        """Seconds remaining on one device; None before its first job has ended."""
        taken = self._seconds.get(device_id)
        return self.waiting.get(device_id, 0) * usual_seconds(taken) if taken else None

    def eta_all_s(self) -> float | None:
        etas = [self.eta_s(device) for device, count in self.waiting.items() if count]
        known = [eta for eta in etas if eta is not None]
        return max(known) if known and len(known) == len(etas) else None


def notice_line(notice: Notice) -> str:
    """A line for what is neither a job's beginning nor its end; empty where nothing is shown."""
    line = ""
    match notice:
        case DeviceAppeared(device, words):
            line = f"[device] {device.name} {words}"
        case DeviceDisappeared(device, detail):
            line = f"[lost] {device.name}: {first_line(detail)}"
        case OperatorAsked(_, words):
            line = f"[to do] {words}"
        case AskWithdrawn(device):
            line = f"[done] {device.name} is as it should be, or need not be"
        case TroubleReported(words):
            line = f"[trouble] {first_line(words) or 'over'}"
        case RunStopping():
            line = STOPPING
        case RunEnded(complete=False, text=words):
            line = f"[{words}]"
    return line


class PlainView:
    """A line for each thing that ends; no line for what merely goes on."""

    def __init__(self) -> None:
        self._progress = RunProgress()
        self._out = sys.stdout

    def show_message(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def begin(self, opening: RunSnapshot) -> None:
        self._progress = progress_of(opening)
        for line in opening_lines(opening):
            self.show_message(line)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        yield

    def on_notice(self, notice: Notice) -> None:
        match notice:
            case JobEnded(job, device, final=final):
                self._progress.ended(notice)
                place = f"[{self._progress.done}/{self._progress.total}]" if final else "[again]"
                self.show_message(f"{place} {device.name}  {format_cell(job)}  {format_outcome(notice)}")
            case JobSent() | JobProgress():
                pass
            case _:
                if line := notice_line(notice):
                    self.show_message(line)

    def end(self, run: str, folder: Path, summary: RunDigest, *, complete: bool) -> None:
        print_end(run, folder, summary, self._out, complete=complete)


class JsonView:
    """One JSON object a line: ``event`` names it."""

    def __init__(self) -> None:
        self._out = sys.stdout

    def show_message(self, text: str) -> None:
        self._put("message", text=text)

    def begin(self, opening: RunSnapshot) -> None:
        named = [{"device_id": device_id, "name": name} for device_id, name in opening.devices]
        counts = {"jobs": opening.total, "done": opening.done, "absent": absent(opening)}
        unplaced = len(opening.unplaced)
        asked = {"operator": list(opening.asks)} if opening.asks else {}
        self._put("begin", run=opening.run, matrix=opening.name, **counts, unplaced=unplaced, devices=named, **asked)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        yield

    def on_notice(self, notice: Notice) -> None:
        match notice:
            case JobSent(job, device, attempt):
                self._put("job_sent", device=device.name, **_named(job), attempt=attempt)
            case JobProgress(device, job_id, phase, rate):
                self._put("progress", device=device.name, job_id=job_id, phase=phase, tokens_per_s=rate)
            case JobEnded(job, device):
                self._put("job_ended", device=device.name, **_named(job), **_ended(notice))
            case DeviceAppeared(device, words):
                self._put("device_there", device=device.name, detail=words)
            case DeviceDisappeared(device, detail):
                self._put("device_lost", device=device.name, detail=detail)
            case OperatorAsked(device, words):
                self._put("operator_asked", device=device.name, text=words)
            case AskWithdrawn(device):
                self._put("operator_answered", device=device.name)
            case TroubleReported(words):
                self._put("trouble", text=words)
            case RunStopping():
                self._put("stopping")
            case RunEnded():
                pass

    def end(self, run: str, folder: Path, summary: RunDigest, *, complete: bool) -> None:
        self._put("end", run=run, complete=complete, folder=str(folder), failures=list(summary.failures))

    def _put(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "at": round(time.time(), 3), **fields})
        print(line, file=self._out, flush=True)


def _named(job: JobName) -> dict[str, Any]:
    return {"job_id": job.job_id, "cell_id": job.cell_id, "cell": job.cell, "repeat": job.repeat}


def _ended(end: JobEnded) -> dict[str, Any]:
    fields: dict[str, Any] = {"attempt": end.attempt, "final": end.final, "status": end.status, "seconds": end.seconds}
    if end.cause is not None:
        return fields | {"cause": end.cause, "detail": end.detail}
    return fields | (asdict(end.figures) if end.figures else {})


def print_end(run: str, folder: Path, summary: RunDigest, out: IO[str], *, complete: bool) -> None:
    """The end, for people: the tables, what failed and why, where the results lie."""
    for table in summary.tables:
        print(file=out)
        print_table(table, out)
    if summary.failures:
        print("\nwithout a figure:", file=out)
        for line in summary.failures:
            print(f"  {line}", file=out)
    print(f"\n{'complete' if complete else 'not complete'}; results: {folder}", file=out)
    print("more:", file=out)
    for command in (f"show {run}", f"compare {run}", f"export {run} FILE"):
        print(f"  orchestrate {command}", file=out, flush=True)
