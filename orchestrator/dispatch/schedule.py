"""What happens next on a fleet that works on several runs: events in, commands out. PURE; no clock, no I/O.

A job belongs to one device. It waits, is sent (with an attempt number), and is done. One attempt is current: the
latest; the report of any other is discarded. A device runs one job at a time, from the runs by priority, then
age; what fits the state that the machine is in comes first, and only when nothing of that priority does, another
state is asked for. So a run costs each device the fewest reboots, and a device that waits for its operator keeps no
other waiting. The states of a job and a device as a chart, and the races: docs/architecture.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from agents.contract.device import Blocked, Device, same_split
from agents.contract.job import MachineState
from agents.contract.report import DISK_CAUSES, RETRIED, Attempt, Cause, Failed, Refused, Report
from agents.units import format_size
from orchestrator.dispatch.messages import (
    AskOperator,
    AttemptEnded,
    BlockChanged,
    Cancel,
    Command,
    CompleteRun,
    DeviceJoined,
    DeviceLost,
    DeviceSkipped,
    Discard,
    Event,
    GiveUp,
    Keep,
    PendingJob,
    PutBack,
    Retry,
    RunAdded,
    RunChanged,
    RunStatus,
    Send,
    SetAside,
    SetSplit,
    StateRefused,
    Unload,
    WithdrawAsk,
)
from orchestrator.dispatch.state import DeviceState, JobState, RunState
from orchestrator.plan.changes import Change

MAX_FAILURES = 3
"""A job is done when it failed so often for causes that say nothing of its cell; the last one is then its result."""
MAX_HANGS = 2
"""So often a cell may hang on a device, in all of its jobs; the last hang is its result: each costs minutes."""

SPLIT_NOT_APPLIED = "the agent chose the split, and the machine came back without it"


class Schedule:
    def __init__(self) -> None:
        self._runs: dict[str, RunState] = {}
        self._devices: dict[str, DeviceState] = {}
        self._jobs: dict[str, JobState] = {}

    @property
    def is_busy(self) -> bool:
        """Something runs, or a device is on its way through a reboot of its own."""
        return any(device.running or device.stray or device.is_rebooting for device in self._devices.values())

    @property
    def has_work(self) -> bool:
        """A run goes on, or something of it still does."""
        return self.is_busy or any(each.remaining and each.status is RunStatus.RUNNING for each in self._runs.values())

    @property
    def absent_devices(self) -> tuple[str, ...]:
        """Devices that have work and are not there."""
        return tuple(key for key, device in self._devices.items() if not device.is_present and any(device.pending()))

    def jobs_of_absent(self) -> dict[str, Counter[str]]:
        """By device that is not there: how many jobs of each running run wait for it."""
        return {
            key: Counter(job.run.run_id for job in device.pending() if job.run.status is RunStatus.RUNNING)
            for key, device in self._devices.items()
            if not device.is_present
        }

    def running_attempts(self) -> dict[str, Attempt]:
        """What each device runs."""
        return {
            key: (device.running.job_id, device.running.attempt)
            for key, device in self._devices.items()
            if device.running
        }

    def current_attempt(self, device_id: str) -> Attempt | None:
        """What one device runs."""
        device = self._devices.get(device_id)
        return device.running.key if device is not None and device.running is not None else None

    def asks(self) -> dict[str, AskOperator]:
        """What is asked of operators, by device."""
        return {key: device.ask for key, device in self._devices.items() if device.ask}

    def blocked(self) -> dict[str, Blocked]:
        """Why devices that are there take no job for now."""
        return {key: device.blocked for key, device in self._devices.items() if device.is_present and device.blocked}

    def blocked_of(self, device_id: str) -> Blocked | None:
        device = self._devices.get(device_id)
        return device.blocked if device is not None and device.is_present else None

    def handle(self, event: Event) -> list[Command]:
        return list(self._commands(event))

    def _commands(self, event: Event) -> Iterator[Command]:
        match event:
            case RunAdded():
                yield from self._on_run_added(event)
            case RunChanged(run_id, status, priority):
                yield from self._on_run_changed(run_id, status, priority)
            case DeviceJoined():
                yield from self._on_device_joined(event)
            case BlockChanged(device_id, blocked):
                yield from self._on_block_changed(device_id, blocked)
            case DeviceLost():
                yield from self._on_device_lost(event)
            case AttemptEnded(report):
                # ``_on_attempt_ended`` sends nothing by itself: a greeting brings many reports, and its device gets
                # its next job only when all of them are known
                yield from self._on_attempt_ended(report)
                yield from self._send_next(self._devices[report.device_id])
            case StateRefused():
                yield from self._on_state_refused(event)
            case DeviceSkipped():
                yield from self._on_device_skipped(event)

    def _on_run_added(self, event: RunAdded) -> Iterator[Command]:
        """A run, or more jobs of one that is known."""
        run = self._runs.get(event.run_id)
        if run is None:
            run = RunState(event.run_id, event.priority, event.created_unix_s, event.status)
            self._runs[event.run_id] = run
        touched = dict.fromkeys(self._queue(run, pending) for pending in event.jobs)  # in order, each once
        if run.remaining == 0:
            yield from self._complete(run)
        # before anything is sent: a job whose report is here must not run again
        for report in event.reports:
            yield from self._on_attempt_ended(report)
        for device in touched:
            yield from self._send_next(device)

    def _queue(self, run: RunState, pending: PendingJob) -> DeviceState:
        device = self._devices.setdefault(pending.device_id, DeviceState(pending.device_id))
        job = JobState(pending.job_id, run, pending.device_id, pending.state, pending.attempt, pending.failures)
        job.failure_counted, job.cell_id = pending.failure_counted, pending.cell_id
        device.hangs[job.cell_id] += pending.hangs
        self._jobs[job.job_id] = job
        device.push(job)
        run.remaining += 1
        return device

    def _on_run_changed(self, run_id: str, status: RunStatus, priority: int | None) -> Iterator[Command]:
        run = self._runs.get(run_id)
        if run is None:
            return
        run.status = status
        run.priority = run.priority if priority is None else priority
        for device in self._devices.values():
            if device.running is not None and device.running.run is run and status is RunStatus.CANCELLED:
                # the job is taken back by its report, not here: it may have been measured by now
                yield Cancel(device.device_id)
            elif run_id in device.queues:
                yield from self._send_next(device)

    def _on_device_joined(self, event: DeviceJoined) -> Iterator[Command]:
        facts, running = event.device, event.running
        device = self._devices.setdefault(facts.device_id, DeviceState(facts.device_id))
        device.blocked = event.blocked
        # reports before the rest: what the device ran when it was lost may be among them, and then it is not taken back
        for report in event.reports:
            yield from self._on_attempt_ended(report)
        before, device.facts = device.facts, facts
        device.is_present, device.is_rebooting = True, False
        device.forget_changes()  # they were computed for the facts of before
        # the boot id alone tells a reboot: an agent that was killed joins again in the same boot
        rebooted = before is not None and before.boot_id != facts.boot_id
        chosen, device.chosen_split_bytes = device.chosen_split_bytes, None
        not_applied = rebooted and chosen is not None and not same_split(chosen, facts.dedicated_vram_bytes)
        if rebooted:
            # an agent that set it in vain is not asked a second time in this boot: its operator is
            device.cannot_set_split = not_applied
        yield from self._reconcile_running(device, running)
        if device.blocked is not None:
            yield from self._send_next(device)
            return
        if device.ask is not None and device.change_needed(device.ask.state) in (Change.NONE, Change.NEVER):
            device.ask = None
            yield WithdrawAsk(device.device_id)
        elif device.ask is not None and rebooted:
            yield from self._send_next(device, note=_describe_split_seen(facts), ask_again=True)
            return
        yield from self._send_next(device, note=SPLIT_NOT_APPLIED if not_applied else "")

    def _on_block_changed(self, device_id: str, blocked: Blocked | None) -> Iterator[Command]:
        device = self._devices.get(device_id)
        if device is None or not device.is_present:
            return
        device.blocked = blocked
        yield from self._send_next(device)

    def _reconcile_running(self, device: DeviceState, running: Attempt | None) -> Iterator[Command]:
        """What the device reports to run, against what it was sent."""
        device.stray = None
        if device.running is not None and device.running.key != running:  # how it ended never reached us
            yield from self._take_back(device, "its agent began anew while the job ran")
        if running is not None and device.running is None:
            device.may_hold_engine = True
            job = self._jobs.get(running[0])
            if job is not None and job.is_pending and job.key == running and job.device_id == device.device_id:
                # the job was pending for the coordinator alone (it was restarted, or the link was down): the attempt
                # goes on, and is not sent twice
                device.take(job)
                device.running = job
            else:  # of a run that is done or not open here: it must end before the device is ours
                device.stray = running
                yield Cancel(device.device_id)
        if device.running is not None and device.running.run.status is RunStatus.CANCELLED:
            yield Cancel(device.device_id)  # it was away, or the first one got lost

    def _on_device_lost(self, event: DeviceLost) -> Iterator[Command]:
        device = self._devices.get(event.device_id)
        if device is None or not device.is_present:
            return
        device.is_present, device.stray = False, None
        yield from self._take_back(device, event.detail, event.undelivered)

    def _take_back(self, device: DeviceState, detail: str, undelivered: Attempt | None = None) -> Iterator[Command]:
        """The job of a lost device is pending again, at the front; the report of its attempt counts if it comes."""
        job, device.running = device.running, None
        if job is None:
            return
        # an attempt counts once, however often its device is lost, and not at all where it never reached the device
        job.failures += not job.failure_counted and job.key != undelivered
        job.failure_counted = True
        if job.failures >= MAX_FAILURES:
            yield from self._give_up(job, Cause.DEVICE_LOST, f"{detail} ({MAX_FAILURES} times while it ran this job)")
        else:
            device.push_front(job)
            yield Retry(job.run.run_id, job.job_id, job.attempt, job.failures, Cause.DEVICE_LOST, detail)

    def _on_attempt_ended(self, report: Report) -> Iterator[Command]:
        job = self._jobs.get(report.job_id)
        device = self._devices.setdefault(report.device_id, DeviceState(report.device_id))
        # not only its own job's: whatever kept the device occupied has ended
        if device.stray == (report.job_id, report.attempt):
            device.stray = None
        if job is None:
            yield SetAside(report)
        elif job.done or job.attempt != report.attempt or job.device_id != report.device_id:
            yield Discard(report)
        else:
            if device.running is job:  # else it was taken back, and the report came after all
                device.running = None
            yield from self._on_current_ended(job, device, report)

    def _on_current_ended(self, job: JobState, device: DeviceState, report: Report) -> Iterator[Command]:
        outcome = report.outcome
        cause = outcome.cause if isinstance(outcome, Failed | Refused) else None
        if cause is Cause.CANCELLED:
            device.push_front(job)
            yield PutBack(report)
            return
        # reported before, or its device was lost
        if cause in RETRIED | DISK_CAUSES and job.is_pending and job.failure_counted:
            yield Discard(report)
            return
        if cause in DISK_CAUSES and device.blocked is not None:
            # each job would fail alike: the device waits, and this one with it. Repeated, the report says no more
            job.failure_counted = True
            device.push_front(job)
            yield PutBack(report)
            return
        failures = job.failures + (not job.failure_counted)
        if isinstance(outcome, Failed) and outcome.hung_stage:
            device.hangs[job.cell_id] += 1
            if device.hangs[job.cell_id] >= MAX_HANGS:
                failures = MAX_FAILURES
        if cause in RETRIED and failures < MAX_FAILURES:
            job.failures, job.failure_counted = failures, True
            device.push_front(job)
            detail = outcome.detail if isinstance(outcome, Failed | Refused) else ""
            run_id = job.run.run_id
            yield Retry(run_id, job.job_id, job.attempt, job.failures, cause, detail, report)
            return
        # the last failure is kept as the result: a row says why there is no figure
        yield Keep(report)
        yield from self._mark_done(job)

    def _give_up(self, job: JobState, cause: Cause, detail: str) -> Iterator[Command]:
        """A row without a report of the device."""
        # a job that was never sent is given up as attempt 1: rows and ledger have no attempt 0
        yield GiveUp(job.run.run_id, job.job_id, max(job.attempt, 1), job.device_id, cause, detail)
        yield from self._mark_done(job)

    def _mark_done(self, job: JobState) -> Iterator[Command]:
        job.done, job.is_pending = True, False
        job.run.remaining -= 1
        if job.run.remaining == 0:
            yield from self._complete(job.run)

    def _complete(self, run: RunState) -> Iterator[Command]:
        # nothing of a complete run is kept: a report that still comes is unknown here, and the ledger knows it as done
        del self._runs[run.run_id]
        for device in self._devices.values():
            device.queues.pop(run.run_id, None)
        self._jobs = {key: job for key, job in self._jobs.items() if job.run is not run}
        yield CompleteRun(run.run_id)

    def _on_state_refused(self, event: StateRefused) -> Iterator[Command]:
        device = self._devices.get(event.device_id)
        if device is None:
            return
        if event.by_agent:  # it could not set the split: the operator is asked
            device.is_rebooting, device.cannot_set_split, device.chosen_split_bytes = False, True, None
            device.forget_changes()
            yield from self._send_next(device, note=event.why)
            return
        for job in [job for job in device.pending() if _same_state(job.state, event.state)]:
            yield from self._give_up(job, Cause.WRONG_STATE, event.why)
        if device.ask is not None and _same_state(device.ask.state, event.state):
            device.ask = None
            yield WithdrawAsk(device.device_id)
        yield from self._send_next(device)

    def _on_device_skipped(self, event: DeviceSkipped) -> Iterator[Command]:
        device = self._devices.get(event.device_id)
        if device is None:
            return
        for job in [job for job in device.pending() if event.run_id in (None, job.run.run_id)]:
            yield from self._give_up(job, Cause.DEVICE_LOST, event.why)
        # ``_send_next`` does nothing for a device that is away, of whose operator something may be asked
        if device.ask is not None and not any(device.pending()):
            device.ask = None
            yield WithdrawAsk(device.device_id)
        yield from self._send_next(device)

    def _send_next(self, device: DeviceState, note: str = "", ask_again: bool = False) -> Iterator[Command]:
        """The next job, or what must happen before it. ``note`` is an ask's; ``ask_again``: even one that stands."""
        if not device.is_present or device.running or device.stray or device.is_rebooting:
            return
        if device.blocked is not None:
            yield from self._wait_unblocked(device, device.blocked)
            return
        job, wanted = self._choose(device)
        if job is not None:
            if device.ask is not None:  # nobody should reboot it now
                device.ask = None
                yield WithdrawAsk(device.device_id)
            job.attempt += 1
            job.is_pending = job.failure_counted = False
            device.running, device.may_hold_engine = job, True
            yield Send(job.run.run_id, job.job_id, job.attempt, device.device_id)
            return
        if device.may_hold_engine:  # nothing follows at once: a model must not stay in memory while people wait
            device.may_hold_engine = False
            yield Unload(device.device_id)
        yield from self._ask_for_state(device, wanted, note, ask_again)

    def _wait_unblocked(self, device: DeviceState, blocked: Blocked) -> Iterator[Command]:
        """Nothing is sent. Where only a reboot helps, the operator is asked for it, once a run needs the device."""
        if device.may_hold_engine:
            device.may_hold_engine = False
            yield Unload(device.device_id)
        wanting = [run for run in self._candidates(device) if any(True for _ in device.pending_states(run))]
        if not blocked.needs_reboot or not wanting:
            if device.ask is not None:
                device.ask = None
                yield WithdrawAsk(device.device_id)
            return
        run_id = min(wanting, key=RunState.rank).run_id
        ask = AskOperator(device.device_id, run_id, MachineState(), Change.OPERATOR_REBOOT, blocked.why)
        is_asked = device.ask is not None and replace(device.ask, run_id=run_id) == ask
        device.ask = ask
        if not is_asked:
            yield ask

    def _choose(self, device: DeviceState) -> tuple[JobState | None, tuple[RunState, MachineState, Change] | None]:
        """The job to send now; else the state to ask for, with the run that wants it."""
        wanted: tuple[RunState, MachineState, Change] | None = None
        for run in sorted(self._candidates(device), key=RunState.rank):
            if wanted is not None and run.priority < wanted[0].priority:
                break  # what is more urgent waits for another state: the device is kept free for it
            for state in device.pending_states(run):
                change = device.change_needed(state)
                # NEVER is sent as well: the agent refuses it, with a reason that stands in the row
                if change in (Change.NONE, Change.NEVER):
                    return device.pop(run, state), None
                if wanted is None or (wanted[0] is run and _cost_rank(change) < _cost_rank(wanted[2])):
                    wanted = (run, state, change)
        return None, wanted

    def _candidates(self, device: DeviceState) -> Iterable[RunState]:
        for run_id in list(device.queues):
            run = self._runs.get(run_id)
            if run is not None and run.status is RunStatus.RUNNING:
                yield run

    def _ask_for_state(
        self, device: DeviceState, wanted: tuple[RunState, MachineState, Change] | None, note: str, ask_again: bool
    ) -> Iterator[Command]:
        run, state, change = wanted or (None, MachineState(), Change.NONE)
        split = state.dedicated_vram_bytes if change is Change.AGENT_REBOOT else None
        if device.ask is not None and (run is None or split is not None):
            device.ask = None
            yield WithdrawAsk(device.device_id)
        if run is None:
            return
        if split is not None:
            device.is_rebooting, device.chosen_split_bytes = True, split
            yield SetSplit(device.device_id, split, run.run_id)
            return
        # the same thing is asked once, whichever run wants it: an operator is not notified for each event
        if device.ask is not None and (device.ask.state, device.ask.change) == (state, change) and not ask_again:
            device.ask = replace(device.ask, run_id=run.run_id)
            return
        device.ask = AskOperator(device.device_id, run.run_id, state, change, note)
        yield device.ask


def _describe_split_seen(facts: Device) -> str:
    split = facts.dedicated_vram_bytes
    return "it came back " + ("and its split cannot be seen" if split is None else f"with {format_size(split)}")


def _cost_rank(change: Change) -> int:
    # ``Change`` lists the cheapest first: an agent's own reboot before an operator's
    return list(Change).index(change)


def _same_state(one: MachineState, other: MachineState) -> bool:
    """``other`` names a split, a power limit, or both: whether ``one`` asks for just that."""
    split = other.dedicated_vram_bytes
    if split is not None and (one.dedicated_vram_bytes is None or not same_split(split, one.dedicated_vram_bytes)):
        return False
    return other.power_limit_w is None or one.power_limit_w == other.power_limit_w
