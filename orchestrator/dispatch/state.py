"""What the schedule keeps of runs, devices and jobs. PURE"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agents.contract.device import Device
from agents.contract.job import MachineState
from agents.contract.report import Attempt
from orchestrator.dispatch.messages import AskOperator, RunStatus
from orchestrator.plan.changes import Change, change_for


@dataclass(slots=True, eq=False)
class RunState:
    """``left`` jobs are not done."""

    run_id: str
    priority: int
    created_unix_s: float
    status: RunStatus
    left: int = 0

    def rank(self) -> tuple[int, float, str]:
        """The most urgent first, then the oldest."""
        return (-self.priority, self.created_unix_s, self.run_id)


@dataclass(slots=True, eq=False)
class JobState:
    """``attempt`` is the latest that was sent, 0 for none; ``counted``: that it failed stands in ``failures``."""

    job_id: str
    run: RunState
    device_id: str
    state: MachineState
    attempt: int = 0
    failures: int = 0
    counted: bool = False
    waits: bool = True
    done: bool = False

    @property
    def key(self) -> Attempt:
        return (self.job_id, self.attempt)


Groups = dict[MachineState, deque[JobState]]


@dataclass(slots=True, eq=False)
class DeviceState:
    """``occupied`` by an attempt that nobody counts on, until its end is told; ``rebooting`` by itself.

    ``chosen_bytes``: the split that the agent chose for this reboot.
    """

    device_id: str
    facts: Device | None = None
    present: bool = False
    running: JobState | None = None
    occupied: Attempt | None = None
    rebooting: bool = False
    chosen_bytes: int | None = None
    cannot_set: bool = False  # the agent tried to choose the split, and could not
    used: bool = False  # it may hold a loaded engine
    ask: AskOperator | None = None
    queues: dict[str, Groups] = field(default_factory=dict)  # by run; groups in the order of the plan
    _changes: dict[MachineState, Change] = field(default_factory=dict)

    def push(self, job: JobState) -> None:
        self._group(job).append(job)

    def push_front(self, job: JobState) -> None:
        """It waits again; one that waits already stays where it is."""
        if not job.waits:
            job.waits = True
            self._group(job).appendleft(job)

    def take(self, job: JobState) -> None:
        """It waits no more: it runs here."""
        job.waits = False
        self._group(job).remove(job)

    def _group(self, job: JobState) -> deque[JobState]:
        return self.queues.setdefault(job.run.run_id, {}).setdefault(job.state, deque())

    def states(self, run: RunState) -> Iterator[MachineState]:
        """States that jobs of ``run`` wait for here. What does not wait any more is dropped on the way."""
        groups = self.queues[run.run_id]
        for state in list(groups):
            queue = groups[state]
            while queue and not queue[0].waits:
                queue.popleft()
            if queue:
                yield state
            else:
                del groups[state]
        if not groups:
            del self.queues[run.run_id]

    def pop(self, run: RunState, state: MachineState) -> JobState:
        return self.queues[run.run_id][state].popleft()

    def waiting(self) -> Iterator[JobState]:
        for groups in self.queues.values():
            for queue in groups.values():
                yield from (job for job in queue if job.waits)

    def change(self, state: MachineState) -> Change:
        """What must happen before a job in ``state``, as the device stands now."""
        assert self.facts is not None
        if state not in self._changes:
            facts = replace(self.facts, sets_split=False) if self.cannot_set else self.facts
            self._changes[state] = change_for(state, facts)
        return self._changes[state]

    def forget_changes(self) -> None:
        self._changes.clear()
