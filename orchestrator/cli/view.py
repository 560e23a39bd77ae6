"""What a person, or a script, sees while a run goes on: a live display, plain lines, or JSON lines."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agents.contract.device import Device
from agents.contract.rates import decode_tps, prompt_tps, ttft_s
from agents.contract.report import Failed, Measured, Refused, Report
from orchestrator.cli.words import cell_words, first_line, outcome_words
from orchestrator.dispatch.loop import DeviceSilent, Happening, JobEnded, JobProgress, JobSent
from orchestrator.matrix import Matrix
from orchestrator.plan.jobs import Plan, PlannedJob
from orchestrator.report.grid import Grid
from orchestrator.report.terminal import print_grid


@dataclass(frozen=True, slots=True)
class Summary:
    """What is said at the end: the comparison, and a line for each cell without a figure."""

    grids: tuple[Grid, ...]
    failures: tuple[str, ...]


class View(Protocol):
    def say(self, text: str) -> None: ...

    def begin(
        self, run: str, matrix: Matrix, devices: Sequence[Device], *, total: int, done: int, plan: Plan | None
    ) -> None: ...

    def live(self) -> contextlib.AbstractContextManager[None]:
        """While this is entered, happenings are shown."""
        ...

    def tell(self, happening: Happening) -> None: ...

    def end(self, run: str, folder: Path, summary: Summary, *, complete: bool) -> None: ...


def view_for(as_json: bool) -> View:
    if as_json:
        return JsonView()
    if not sys.stdout.isatty():
        return LinesView()
    from orchestrator.cli.live import LiveView

    return LiveView()


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

    def say(self, text: str) -> None:
        print(text, flush=True)

    def begin(
        self, run: str, matrix: Matrix, devices: Sequence[Device], *, total: int, done: int, plan: Plan | None
    ) -> None:
        self._pace = pace_at_begin(total, done, plan, devices)
        for line in opening(run, matrix, devices, total, done, plan):
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
            case _:
                pass

    def end(self, run: str, folder: Path, summary: Summary, *, complete: bool) -> None:
        close(run, folder, summary, complete=complete)


class JsonView:
    """One JSON object a line: ``event`` names it."""

    def say(self, text: str) -> None:
        self._put("message", text=text)

    def begin(
        self, run: str, matrix: Matrix, devices: Sequence[Device], *, total: int, done: int, plan: Plan | None
    ) -> None:
        named = [{"device_id": device.device_id, "name": device.name} for device in devices]
        unplaced = len(plan.unplaced) if plan else 0
        self._put("begin", run=run, matrix=matrix.name, jobs=total, done=done, unplaced=unplaced, devices=named)

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

    def end(self, run: str, folder: Path, summary: Summary, *, complete: bool) -> None:
        self._put("end", run=run, complete=complete, folder=str(folder), failures=list(summary.failures))

    def _put(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, "at": round(time.time(), 3), **fields}), flush=True)


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


def pace_at_begin(total: int, done: int, plan: Plan | None, devices: Sequence[Device]) -> Pace:
    waiting = {each: len(queue) for each, queue in plan.queues.items()} if plan else {}
    if not waiting and len(devices) == 1:
        waiting = {devices[0].device_id: total - done}
    return Pace(total=total, done=done, waiting=waiting)


def opening(
    run: str, matrix: Matrix, devices: Sequence[Device], total: int, done: int, plan: Plan | None
) -> Iterator[str]:
    names = ", ".join(device.name for device in devices)
    begun = f", {done} of them done before" if done else ""
    yield f"run {run}: {total} jobs{begun} on {len(devices)} device{'s' if len(devices) != 1 else ''} ({names})"
    if matrix.question:
        yield f"question: {first_line(matrix.question)}"
    if plan and plan.unplaced:
        yield f"{len(plan.unplaced)} cells fit no device, for example: {plan.unplaced[0][1]}"


def close(run: str, folder: Path, summary: Summary, *, complete: bool) -> None:
    """The end, for people: the tables, what failed and why, where the results lie."""
    for grid in summary.grids:
        print()
        print_grid(grid, sys.stdout)
    if summary.failures:
        print("\nwithout a figure:")
        for line in summary.failures:
            print(f"  {line}")
    print(f"\n{'complete' if complete else 'not complete'}; results: {folder}")
    print(f"more: orchestrate show {run}; orchestrate compare {run}; orchestrate export {run} FILE")
    sys.stdout.flush()
