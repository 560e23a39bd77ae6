"""Whatever happens to devices, operators, runs and the coordinator, in any order: what must always hold."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from agents.contract.device import Blocked, Device, MemoryKind
from agents.contract.job import MachineState
from agents.contract.report import RETRIED, Attempt, Cause, Failed, Measured, Outcome, Refused, Report
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
from orchestrator.dispatch.schedule import MAX_FAILURES, Schedule
from orchestrator.plan.changes import Change, change_for
from tests.unit.dispatch.schedule_messages import (
    CANCELLED,
    CRASHED,
    ENGINE_LOST,
    GIB,
    LEASE_ENDED,
    machine,
    report,
    state,
)
from tests.unit.results.made_attempts import LOADED

DEVICES = ("a", "b", "c")
STATES = (state(), state(1), state(32), state(32, 55), state(16), state(None, 55))
MEASURED = Measured(LOADED, ())
SKIPPED = "skipped by its operator"
DISK_FULL = Failed(Cause.DISK_FULL, "no room")
OUTCOMES = (MEASURED, DISK_FULL, ENGINE_LOST, CRASHED, CANCELLED, LEASE_ENDED, Refused(Cause.RAM, "too big"))
MOST_RUNS = 5
STEPS_TO_THE_END = 2_000


@dataclass
class Line:
    """A job as the ledger has it. ``failed``: attempts that were told to have failed."""

    job_id: str
    run_id: str
    device_id: str
    state: MachineState
    attempt: int = 0
    sent: bool = False  # and its end is not told
    done: Cause | str | None = None
    failed: set[int] = field(default_factory=set)

    def waiting(self) -> PendingJob:
        failures = len(self.failed)
        return PendingJob(
            self.job_id, self.device_id, self.state, self.attempt, failures, failure_counted=not self.sent
        )


@dataclass
class Run:
    run_id: str
    priority: int
    created_unix_s: float
    status: RunStatus = RunStatus.RUNNING
    completed: bool = False


@dataclass
class Truth:
    """A device as it really is, whatever the schedule thinks of it."""

    facts: Device
    boot: int = 1
    running: Attempt | None = None
    spool: dict[Attempt, Report] = field(default_factory=dict)
    present: bool = False  # the schedule was told so
    sets: int | None = None  # the agent was told to choose this split, and has not rebooted
    asked: AskOperator | None = None
    blocked: Blocked | None = None
    warm: bool = False  # the schedule knows that an engine may be loaded


job_lists = st.lists(st.tuples(st.sampled_from(DEVICES), st.sampled_from(STATES)), max_size=5)


class AnyOrderOfEvents(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.schedule = Schedule()
        self.runs: dict[str, Run] = {}
        self.lines: dict[str, Line] = {}
        self.old: list[Report] = []
        self.truths = {
            "a": Truth(machine("a", watts=80)),
            "b": Truth(machine("b", sets=True, options=(1, 16, 32), holds_power=True)),
            "c": Truth(machine("c", kind=MemoryKind.DISCRETE, watts=80)),
        }

    # what the schedule says

    def handle(self, event: Event) -> None:
        for command in self.schedule.handle(event):
            self.check(command)
        for device_id, truth in self.truths.items():
            self.check_device(device_id, truth)

    def check(self, command: Command) -> None:  # noqa: PLR0912, PLR0915  one branch a command
        match command:
            case Send():
                self.check_send(command)
            case Keep(told):
                self.check_keep(told)
            case GiveUp(_, job_id, attempt, _, cause, detail):
                line = self.ends(job_id, cause)
                assert attempt == max(line.attempt, 1)
                if cause is Cause.DEVICE_LOST and detail != SKIPPED:
                    assert len(line.failed | {attempt}) == MAX_FAILURES, "given up too early"
            case Retry(_, job_id, attempt, failures, _, _, told):
                line = self.lines[job_id]
                assert line.done is None and line.attempt == attempt
                line.failed.add(attempt)
                line.sent = False
                assert failures == len(line.failed) < MAX_FAILURES, "an attempt counts once"
                self.acknowledge(told)
            case PutBack(told):
                line = self.lines[told.job_id]
                assert line.done is None and line.attempt == told.attempt
                line.sent = False
                self.acknowledge(told)
            case Discard(told):
                line = self.lines[told.job_id]
                current = line.done is None and line.attempt == told.attempt and line.device_id == told.device_id
                assert not current or told.attempt in line.failed, "a report that counts is discarded"
                self.acknowledge(told)
            case SetAside(told):
                assert self.lines[told.job_id].done is not None, "a job that is open is not known"
                self.acknowledge(told)
            case Cancel(device_id):
                assert self.truths[device_id].running is not None
            case Unload(device_id):
                truth = self.truths[device_id]
                assert truth.present and truth.running is None and truth.warm, "it rests once"
                truth.warm = False
            case SetSplit(device_id, size, run_id):
                truth = self.truths[device_id]
                assert truth.present and truth.running is None and truth.sets is None and truth.blocked is None
                assert truth.facts.sets_split and self.runs[run_id].status is RunStatus.RUNNING
                truth.sets = size
            case AskOperator(device_id, run_id, wanted):
                truth = self.truths[device_id]
                assert truth.present and truth.running is None
                assert self.runs[run_id].status is RunStatus.RUNNING
                if truth.blocked is not None:
                    assert truth.blocked.needs_reboot and wanted == state()
                else:
                    assert change_for(wanted, truth.facts) not in (Change.NONE, Change.NEVER)
                truth.asked = command
            case WithdrawAsk(device_id):
                assert self.truths[device_id].asked is not None
                self.truths[device_id].asked = None
            case CompleteRun(run_id):
                run = self.runs[run_id]
                assert not run.completed and not self.left(run_id)
                run.completed = True

    def check_send(self, send: Send) -> None:
        line, truth = self.lines[send.job_id], self.truths[send.device_id]
        assert truth.present, "sent to a device that is not there"
        assert truth.running is None, "two jobs on one device"
        assert truth.sets is None, "sent to a device that is about to reboot"
        assert truth.blocked is None, "sent to a device that takes no jobs"
        assert line.device_id == send.device_id and line.done is None
        assert send.attempt == line.attempt + 1
        assert self.runs[line.run_id].status is RunStatus.RUNNING
        assert change_for(line.state, truth.facts) in (Change.NONE, Change.NEVER), "sent in a wrong state"
        mine = self.rank(line)
        for other in self.waiting_on(send.device_id):
            if other is not line:
                assert self.rank(other)[0] >= mine[0], "a more urgent run wants this device"
                assert self.rank(other) >= mine or not self.fits(other), "an older run has work that fits"
        line.attempt, line.sent = send.attempt, True
        truth.running, truth.warm = (send.job_id, send.attempt), True

    def check_keep(self, told: Report) -> None:
        cause = told.outcome.cause if isinstance(told.outcome, Failed | Refused) else None
        line = self.ends(told.job_id, cause or "measured")
        assert told.attempt == line.attempt, "a stale attempt is kept"
        assert cause is not Cause.CANCELLED
        if cause in RETRIED:
            assert len(line.failed | {told.attempt}) == MAX_FAILURES, "it could have been tried again"
        self.acknowledge(told)

    def check_device(self, device_id: str, truth: Truth) -> None:
        assert (truth.asked is not None) == (device_id in self.schedule.asks())
        if not truth.present:
            assert self.schedule.current_attempt(device_id) is None
            return
        if truth.running is not None:
            line = self.lines[truth.running[0]]
            counts = line.done is None and (line.job_id, line.attempt) == truth.running
            assert self.schedule.current_attempt(device_id) == (truth.running if counts else None)
            return
        assert self.schedule.current_attempt(device_id) is None
        if truth.sets is not None:
            return
        assert not truth.warm, "an idle device keeps its engine"
        waiting = self.waiting_on(device_id)
        if truth.blocked is not None:
            assert (truth.asked is not None) == (truth.blocked.needs_reboot and bool(waiting))
            return
        first = min((self.rank(line)[0] for line in waiting), default=0)
        urgent = [line for line in waiting if self.rank(line)[0] == first]
        assert not any(map(self.fits, urgent)), "idle, and there is work that fits"
        assert bool(urgent) == (truth.asked is not None), "nobody is asked for what is wanted, or for what is not"
        if truth.asked is not None:
            assert truth.asked.state in {line.state for line in urgent}

    # what the ledger knows

    def ends(self, job_id: str, how: Cause | str) -> Line:
        line = self.lines[job_id]
        assert line.done is None, "done twice"
        line.done, line.sent = how, False
        return line

    def left(self, run_id: str) -> list[Line]:
        return [each for each in self.lines.values() if each.run_id == run_id and each.done is None]

    def rank(self, line: Line) -> tuple[int, float, str]:
        run = self.runs[line.run_id]
        return (-run.priority, run.created_unix_s, run.run_id)

    def fits(self, line: Line) -> bool:
        return change_for(line.state, self.truths[line.device_id].facts) in (Change.NONE, Change.NEVER)

    def waiting_on(self, device_id: str) -> list[Line]:
        """Jobs of running runs that wait for the device."""
        return [
            line
            for line in self.lines.values()
            if line.device_id == device_id
            and line.done is None
            and (line.job_id, line.attempt) != self.truths[device_id].running
            and self.runs[line.run_id].status is RunStatus.RUNNING
        ]

    def acknowledge(self, told: Report | None) -> None:
        if told is not None:
            self.truths[told.device_id].spool.pop((told.job_id, told.attempt), None)

    # what happens

    @rule(priority=st.integers(0, 1), wanted=job_lists)
    def is_submitted(self, priority: int, wanted: list[tuple[str, MachineState]]) -> None:
        number = len(self.runs)
        if number >= MOST_RUNS:
            return
        run = Run(f"c{number}", priority, float(number))
        lines = [Line(f"{run.run_id}j{place}", run.run_id, *each) for place, each in enumerate(wanted)]
        self.runs[run.run_id] = run
        self.lines |= {line.job_id: line for line in lines}
        self.handle(self.added(run, lines))

    def added(self, run: Run, lines: list[Line]) -> RunAdded:
        jobs = [line.waiting() for line in lines]
        return RunAdded(run.run_id, run.priority, run.created_unix_s, jobs, run.status)

    @precondition(lambda self: any(not each.completed for each in self.runs.values()))
    @rule(data=st.data(), status=st.sampled_from(RunStatus), priority=st.none() | st.integers(0, 2))
    def is_switched(self, data: st.DataObject, status: RunStatus, priority: int | None) -> None:
        open_ones = [each for each in self.runs.values() if not each.completed]
        run = data.draw(st.sampled_from(open_ones))
        run.status = status
        run.priority = run.priority if priority is None else priority
        self.handle(RunChanged(run.run_id, status, priority))

    @precondition(lambda self: any(isinstance(each.done, Cause) for each in self.lines.values()))
    @rule(data=st.data())
    def failures_are_tried_again(self, data: st.DataObject) -> None:
        failed = [line for line in self.lines.values() if isinstance(line.done, Cause)]
        run = self.runs[data.draw(st.sampled_from(failed)).run_id]
        again = [line for line in failed if line.run_id == run.run_id]
        for line in again:
            line.done, line.failed, line.attempt = None, set(), line.attempt + 1
        run.completed, run.status = False, RunStatus.RUNNING
        for command in self.schedule.handle(self.added(run, again)):
            self.check(command)  # it may still be paused
        self.handle(RunChanged(run.run_id, RunStatus.RUNNING))

    @rule(device_id=st.sampled_from(DEVICES))
    def joins(self, device_id: str) -> None:
        """Also one that is there: it is greeted again."""
        truth = self.truths[device_id]
        truth.sets, truth.present = None, True
        truth.warm = truth.warm or truth.running is not None
        self.handle(DeviceJoined(truth.facts, truth.running, tuple(truth.spool.values()), truth.blocked))

    @rule(device_id=st.sampled_from(DEVICES), needs_reboot=st.booleans())
    def is_blocked(self, device_id: str, needs_reboot: bool) -> None:
        truth = self.truths[device_id]
        if truth.sets is None and not (needs_reboot and truth.running):
            self.block(device_id, Blocked("why", needs_reboot))

    @rule(device_id=st.sampled_from(DEVICES))
    def its_disk_has_room(self, device_id: str) -> None:
        blocked = self.truths[device_id].blocked
        if blocked is not None and not blocked.needs_reboot:
            self.block(device_id, None)

    def block(self, device_id: str, blocked: Blocked | None) -> None:
        self.truths[device_id].blocked = blocked
        if self.truths[device_id].present:
            self.handle(BlockChanged(device_id, blocked))

    @rule(device_id=st.sampled_from(DEVICES))
    def is_lost(self, device_id: str) -> None:
        self.truths[device_id].present = False
        self.handle(DeviceLost(device_id, "silent"))

    @rule(device_id=st.sampled_from(DEVICES), outcome=st.sampled_from(OUTCOMES))
    def ends_its_job(self, device_id: str, outcome: Outcome) -> None:
        truth = self.truths[device_id]
        if truth.running is None:
            return
        job_id, attempt = truth.running
        truth.running = None
        told = report(job_id, attempt, device_id, outcome)
        truth.spool[job_id, attempt] = told
        self.old.append(told)
        if truth.present:
            self.handle(AttemptEnded(told))

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def tells_again(self, data: st.DataObject) -> None:
        self.handle(AttemptEnded(data.draw(st.sampled_from(self.old))))

    @rule(device_id=st.sampled_from(DEVICES))
    def its_agent_dies(self, device_id: str) -> None:
        self.truths[device_id].running = None
        self.is_lost(device_id)

    @rule(device_id=st.sampled_from(DEVICES), gib=st.sampled_from((1, 8, 16, 32)), seen=st.booleans())
    def reboots(self, device_id: str, gib: int, seen: bool) -> None:
        """``seen``: its silence is noticed before it is back."""
        truth = self.truths[device_id]
        if seen:
            truth.present = False
            self.handle(DeviceLost(device_id, "silent"))
        truth.boot += 1
        truth.running = None
        if truth.blocked is not None and truth.blocked.needs_reboot:
            truth.blocked = None
        split = truth.facts.dedicated_vram_bytes if device_id == "c" else gib * GIB
        truth.facts = replace(truth.facts, boot_id=f"boot-{truth.boot}", dedicated_vram_bytes=split)
        self.joins(device_id)

    @rule(right=st.booleans())
    def the_agent_reboots_as_told(self, right: bool) -> None:
        told = self.truths["b"].sets
        if told is not None:
            self.reboots("b", told // GIB if right else 8, seen=True)

    @precondition(lambda self: self.truths["b"].sets is not None)
    @rule()
    def the_agent_cannot(self) -> None:
        truth = self.truths["b"]
        wanted, truth.sets = MachineState(truth.sets), None
        self.handle(StateRefused("b", wanted, "no right to", by_agent=True))

    @rule(device_id=st.sampled_from(DEVICES), right=st.booleans())
    def the_operator_does_it(self, device_id: str, right: bool) -> None:
        truth = self.truths[device_id]
        if truth.asked is None:
            return
        wanted = truth.asked.state
        if wanted == state():
            self.reboots(device_id, (truth.facts.dedicated_vram_bytes or 0) // GIB, seen=True)
        elif truth.asked.change is Change.OPERATOR_REBOOT:
            assert wanted.dedicated_vram_bytes is not None
            self.reboots(device_id, wanted.dedicated_vram_bytes // GIB if right else 8, seen=True)
        elif truth.present:
            truth.facts = replace(truth.facts, power_limit_w=wanted.power_limit_w if right else 70.0)
            self.joins(device_id)

    @rule(device_id=st.sampled_from(DEVICES), wanted=st.sampled_from((state(32), state(16), state(None, 55))))
    def the_operator_skips_it(self, device_id: str, wanted: MachineState) -> None:
        self.handle(StateRefused(device_id, wanted, "it cannot be done"))
        left = [line for line in self.lines.values() if line.device_id == device_id and line.done is None]
        for line in left:
            named = wanted.dedicated_vram_bytes or wanted.power_limit_w
            asks = (line.state.dedicated_vram_bytes, line.state.power_limit_w)
            assert named not in asks or self.schedule.current_attempt(device_id) == (line.job_id, line.attempt)

    @rule(device_id=st.sampled_from(DEVICES))
    def the_device_is_skipped(self, device_id: str) -> None:
        self.handle(DeviceSkipped(device_id, SKIPPED))
        left = [line for line in self.lines.values() if line.device_id == device_id and line.done is None]
        running = self.schedule.current_attempt(device_id)
        assert [(line.job_id, line.attempt) for line in left] == [running] * len(left), "only what runs there remains"

    @rule()
    def the_coordinator_restarts(self) -> None:
        self.schedule = Schedule()
        for truth in self.truths.values():
            truth.present, truth.asked, truth.sets, truth.warm = False, None, None, False
        for run in self.runs.values():
            if not run.completed:
                self.handle(self.added(run, self.left(run.run_id)))

    def teardown(self) -> None:
        """Everybody comes back and all goes well: then each job is done, and each run says so."""
        for run in self.runs.values():
            if not run.completed:
                run.status = RunStatus.RUNNING
                self.handle(RunChanged(run.run_id, RunStatus.RUNNING))
        for device_id in DEVICES:
            self.joins(device_id)
            self.its_disk_has_room(device_id)
        for _ in range(STEPS_TO_THE_END):
            if all(line.done is not None for line in self.lines.values()):
                break
            for device_id in DEVICES:
                self.ends_its_job(device_id, MEASURED)
                self.the_operator_does_it(device_id, right=True)
                self.the_agent_reboots_as_told(right=True)
        assert all(line.done is not None for line in self.lines.values()), "something is lost"
        assert all(run.completed for run in self.runs.values())
        assert not self.schedule.absent_devices


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=120, stateful_step_count=50, deadline=None, database=None)
