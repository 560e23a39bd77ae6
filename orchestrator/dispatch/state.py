"""What the schedule keeps of runs, devices and jobs. PURE"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agents.contract.device import Blocked, Device
from agents.contract.job import MachineState
from agents.contract.report import Attempt
from orchestrator.dispatch.messages import AskOperator, RunStatus
from orchestrator.plan.changes import Change, change_for


@dataclass(slots=True, eq=False)
class RunState:
    """A run that is not complete; ``remaining``: how many of its jobs are not done."""

    run_id: str
    priority: int
    created_unix_s: float
    status: RunStatus
    remaining: int = 0

    def rank(self) -> tuple[int, float, str]:
        """The most urgent first, then the oldest."""
        return (-self.priority, self.created_unix_s, self.run_id)


@dataclass(slots=True, eq=False)
class JobState:
    """``attempt``: the latest that was sent, 0 for none; ``failure_counted``: ``failures`` counts it already."""

    job_id: str
    run: RunState
    device_id: str
    state: MachineState
    attempt: int = 0
    failures: int = 0
    failure_counted: bool = False
    is_pending: bool = True
    done: bool = False
    cell_id: str = ""

    @property
    def key(self) -> Attempt:
        return (self.job_id, self.attempt)


Groups = dict[MachineState, deque[JobState]]


@dataclass(slots=True, eq=False)
class DeviceState:
    """A device that was ever present, or that has jobs.

    ``facts``: what it last said of itself. ``stray``: an attempt that runs there and that no run counts on (its job
    was given up, or is another ledger's); nothing is sent before it has ended. ``ask``: what its operator is asked.
    ``blocked``: why it takes no job for now. ``hangs``: how often its job process hung, by cell.
    """

    device_id: str
    facts: Device | None = None
    is_present: bool = False
    running: JobState | None = None
    stray: Attempt | None = None
    is_rebooting: bool = False  # by its agent, which set the split
    chosen_split_bytes: int | None = None  # the split that the agent set for this reboot
    cannot_set_split: bool = False  # the agent tried, and could not
    may_hold_engine: bool = False
    ask: AskOperator | None = None
    blocked: Blocked | None = None
    hangs: Counter[str] = field(default_factory=Counter)
    queues: dict[str, Groups] = field(default_factory=dict)  # by run; groups in the order of the plan
    _changes: dict[MachineState, Change] = field(default_factory=dict)

    def push(self, job: JobState) -> None:
        self._group(job).append(job)

    def push_front(self, job: JobState) -> None:
        """The job is pending again, before all others of its state; one that is pending stays where it is."""
        if not job.is_pending:
            job.is_pending = True
            self._group(job).appendleft(job)

    def take(self, job: JobState) -> None:
        """The job is pending no more: it runs here."""
        job.is_pending = False
        self._group(job).remove(job)

    def _group(self, job: JobState) -> deque[JobState]:
        return self.queues.setdefault(job.run.run_id, {}).setdefault(job.state, deque())

    def pending_states(self, run: RunState) -> Iterator[MachineState]:
        """States that pending jobs of ``run`` need here. Jobs that are pending no more are dropped on the way."""
        groups = self.queues[run.run_id]
        for state in list(groups):
            queue = groups[state]
            while queue and not queue[0].is_pending:
                queue.popleft()
            if queue:
                yield state
            else:
                del groups[state]
        if not groups:
            del self.queues[run.run_id]

    def pop(self, run: RunState, state: MachineState) -> JobState:
        return self.queues[run.run_id][state].popleft()

    def pending(self) -> Iterator[JobState]:
        for groups in self.queues.values():
            for queue in groups.values():
                yield from (job for job in queue if job.is_pending)

    def change_needed(self, state: MachineState) -> Change:
        """What must happen before a job in ``state``, as the device stands now."""
        assert self.facts is not None
        if state not in self._changes:
            facts = replace(self.facts, sets_split=False) if self.cannot_set_split else self.facts
            self._changes[state] = change_for(state, facts)
        return self._changes[state]

    def forget_changes(self) -> None:
        self._changes.clear()
