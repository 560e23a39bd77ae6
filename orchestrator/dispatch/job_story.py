"""One job's story, for ``show --why``: what it is, how each attempt went, and what it waits for. From the ledger alone,
or with what a coordinator at work knows beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agents.contract.device import Blocked, Device
from agents.contract.job import MachineState
from agents.contract.report import CAUSES
from agents.log import flat
from orchestrator.dispatch.api import JobStory
from orchestrator.dispatch.ledger.ledger import AttemptRow, JobRow, Ledger, RunRow, SeenDevice, TermRow
from orchestrator.dispatch.machine_log import LogFilter, read_log
from orchestrator.dispatch.messages import AskOperator, RunStatus
from orchestrator.dispatch.operator_text import describe_ask, describe_state
from orchestrator.dispatch.runs import Run, run_of_ledger
from orchestrator.dispatch.schedule import MAX_FAILURES
from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.plan.changes import Change, change_for
from orchestrator.results.store import Store

SHOWN_JOBS, SHOWN_LINES, DETAIL_CHARS = 8, 200, 500


@dataclass(frozen=True, slots=True)
class FleetState:
    """What a coordinator at work knows. ``present``: devices that are there; ``asks``: of operators, by device.
    ``blocked``: devices that are there, and why they take no jobs."""

    present: frozenset[str]
    asks: Mapping[str, AskOperator] = field(default_factory=dict)
    rebooting: frozenset[str] = frozenset()
    blocked: Mapping[str, Blocked] = field(default_factory=dict)


def job_named(name: str, run_id: str, jobs: Sequence[JobRow]) -> JobRow:
    """By its id, or a beginning that only one job of the run has. Raises UsageError."""
    found = [job for job in jobs if job.job_id == name] or [job for job in jobs if job.job_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(job.job_id for job in (found or jobs)[:SHOWN_JOBS])
    more = " ..." if len(found or jobs) > SHOWN_JOBS else ""
    if found:
        raise UsageError(f"job {name!r}: could be {shown}{more}")
    raise UsageError(f"job {name!r}: not in run {run_id}. Allowed: a job's id or its beginning: {shown}{more}")


def story_of(
    ledger: Ledger, store: Store, run_id: str, name: str, fleet: FleetState | None, at_work: bool = True
) -> JobStory:
    """``fleet`` None: no coordinator is asked; ``at_work``: one works on the ledger all the same.

    Raises UsageError for a job that is not there.
    """
    jobs = ledger.jobs(run_id)
    job = job_named(name, run_id, jobs)
    facts = _JobFacts(ledger, ledger.run(run_id), job, jobs, fleet, at_work)
    detail = _stored_detail(store, run_id, job) if job.state == "done" and job.cause is not None else ""
    return JobStory(
        run=run_id,
        job_id=job.job_id,
        cell=facts.cell(),
        device=facts.device_name(job.device_id),
        now=tuple(facts.now(detail)),
        attempts=tuple(facts.attempts()),
    )


def with_log(story: JobStory, root: Path) -> JobStory:
    """With what this machine's log files still hold of it."""
    return replace(story, log=read_log(root, LogFilter(run_id=story.run, job_id=story.job_id), SHOWN_LINES).lines)


def _stored_detail(store: Store, run_id: str, job: JobRow) -> str:
    """Why the job has no figure, in the words of its result."""
    if run_id not in store.runs():
        return ""
    columns = ("job_id", "attempt", "detail")
    rows = store.read(run_id, columns=columns).table.select(columns).to_pylist()
    found = [row["detail"] for row in rows if (row["job_id"], row["attempt"]) == (job.job_id, job.attempt)]
    return next(filter(None, found), "")


class _JobFacts:
    def __init__(
        self,
        ledger: Ledger,
        run: RunRow,
        job: JobRow,
        jobs: Sequence[JobRow],
        fleet: FleetState | None,
        at_work: bool,
    ) -> None:
        self._ledger, self._run, self._job, self._jobs = ledger, run, job, jobs
        self._fleet, self._at_work = fleet, at_work
        self._seen: dict[str, SeenDevice] = {each.device.device_id: each for each in ledger.seen_devices()}
        self._made: Run | None = None
        with suppress(OrchestrateError):  # made by another version: its cells are known by their ids alone
            self._made = run_of_ledger(ledger, run.id)

    def cell(self) -> str:
        if self._made is None:
            return f"cell {self._job.cell_id} #{self._job.repeat + 1}"
        name, job = self._made.name_of(self._job.job_id), self._made.job(self._job.job_id, self._job.attempt)
        return f"{job.load.engine} {job.load.model} {job.workload.name}, {name.cell} #{name.repeat + 1}"

    def device_name(self, device_id: str) -> str:
        seen = self._seen.get(device_id)
        return seen.device.name if seen else device_id

    def attempts(self) -> Iterator[str]:
        terms, last = self._ledger.terms(), 0
        for row in self._ledger.attempts(self._job.job_id):
            yield from self._retried(last, row.attempt)
            yield self._attempt(row, terms.get(row.term))
            last = row.attempt
        if self._job.state == "waiting":
            yield from self._retried(last, self._job.attempt + 1)

    def _retried(self, before: int, after: int) -> Iterator[str]:
        for number in range(before + 1, after):
            yield f"attempt {number}: never sent; `orchestrate retry` put the job into the queue again"

    def _attempt(self, row: AttemptRow, term: TermRow | None) -> str:
        by = f"term {row.term}" if row.term else "a coordinator whose term is not known"  # after a repair
        by += f" ({term.host}, process {term.pid})" if term else ""
        text = f"attempt {row.attempt}: sent {_when(row.sent_unix_s)} to {self.device_name(row.device_id)}, by {by}; "
        if row.ended_unix_s is None:
            return text + "its end has not been reported"
        words = "measured" if row.ending == "measured" else _cause(row.ending)
        ended = f"ended after {row.ended_unix_s - row.sent_unix_s:.0f} s: {words}"
        return text + ended + (f": {flat(row.detail, DETAIL_CHARS)}" if row.detail else "")

    def now(self, detail: str) -> Iterator[str]:
        job = self._job
        if job.state == "done":
            if job.cause is None:
                yield f"measured, in {job.seconds or 0.0:.1f} s"
                return
            yield f"no figure: {_cause(job.cause)}" + (f": {flat(detail, DETAIL_CHARS)}" if detail else "")
            return
        if job.failures:
            yield f"failed {job.failures} of {MAX_FAILURES} times for causes that say nothing of its cell"
        if self._fleet is None:
            yield (
                "a submit with a cluster of its own is at work on this machine"
                if self._at_work
                else f"no coordinator is at work: go on with: orchestrate resume {self._run.id}"
            )
        reasons = list(self._sent() if job.state == "sent" else self._pending())
        yield from reasons or ["it is the next that its device gets"]

    def _sent(self) -> Iterator[str]:
        name = self.device_name(self._job.device_id)
        yield f"sent to {name} (attempt {self._job.attempt}), and its report has not come"
        if self._fleet is not None and self._job.device_id not in self._fleet.present:
            yield f"{name} is not there: {self._last_seen()}; if it measured the job, its report counts when it is back"

    def _pending(self) -> Iterator[str]:
        if self._run.status is not RunStatus.RUNNING:
            yield f"the run is {self._run.status.value}: go on with: orchestrate resume {self._run.id}"
        device_id = self._job.device_id
        if self._fleet is not None and device_id not in self._fleet.present:
            yield f"its device {self.device_name(device_id)} is not there: {self._last_seen()}"
        elif self._fleet is None:
            yield f"its device {self.device_name(device_id)}: {self._last_seen()}"
        elif (blocked := self._fleet.blocked.get(device_id)) is not None:
            need = "needs a reboot" if blocked.needs_reboot else "takes no jobs for now"
            yield f"its device {self.device_name(device_id)} {need}: {blocked.why}"
        yield from self._other_state()
        yield from self._others_first()

    def _last_seen(self) -> str:
        seen = self._seen.get(self._job.device_id)
        if seen is None:
            return "never seen by this coordinator"
        trouble = f", {flat(seen.trouble, DETAIL_CHARS)}" if seen.trouble else ""
        return f"last seen {_when(seen.seen_unix_s)}{trouble}"

    def _other_state(self) -> Iterator[str]:
        """The job wants a state in which its device does not stand."""
        device_id = self._job.device_id
        seen, ask = self._seen.get(device_id), self._fleet.asks.get(device_id) if self._fleet else None
        if self._made is None or seen is None:
            return
        state = self._made.jobs[self._job.job_id].needed_state
        change = change_for(state, seen.device)
        if self._fleet is not None and device_id in self._fleet.rebooting:
            yield f"{seen.device.name} reboots"
        elif change is Change.AGENT_REBOOT:
            yield f"it wants {describe_state(state)}: the agent sets that and reboots, after the jobs that fit now"
        elif change in (Change.OPERATOR, Change.OPERATOR_REBOOT):
            yield from self._by_operator(state, change, seen.device, ask)

    def _by_operator(
        self, state: MachineState, change: Change, device: Device, ask: AskOperator | None
    ) -> Iterator[str]:
        yield f"it wants {describe_state(state)}, and {device.name} does not stand so"
        if ask is not None and ask.state == state:
            yield f"its operator was asked: {describe_ask(ask, device)}"
        else:
            wanted = AskOperator(device.device_id, self._run.id, state, change)
            yield f"its operator is asked when nothing is left there that fits: {describe_ask(wanted, device)}"

    def _others_first(self) -> Iterator[str]:
        device_id, job = self._job.device_id, self._job
        lease = self._ledger.leases().get(device_id)
        if lease is not None and lease[0] != job.job_id:
            yield f"its device runs job {lease[0]} (attempt {lease[1]})"
        own = (-self._run.priority, self._run.created_unix_s, self._run.id)
        for run in self._ledger.runs():
            first = run.remaining and run.status is RunStatus.RUNNING
            if not first or (-run.priority, run.created_unix_s, run.id) >= own:
                continue
            if count := sum(each.device_id == device_id and each.state != "done" for each in self._ledger.jobs(run.id)):
                yield f"run {run.id} (priority {run.priority}) goes first there; its jobs on this device: {count}"
        before = sum(
            each.device_id == device_id and each.state == "waiting" and each.position < job.position
            for each in self._jobs
        )
        if before:
            yield f"jobs of this run that come before it on its device: {before}"


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))


def _cause(value: str | None) -> str:
    known = {cause.value: policy.description for cause, policy in CAUSES.items()}
    return known.get(value or "", value or "for an unknown reason")  # another version may have had other causes
