"""What the schedule keeps of campaigns, devices and jobs. PURE"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agents.contract.device import Device
from agents.contract.job import MachineState
from agents.contract.report import Attempt
from orchestrator.dispatch.messages import Ask, Doing
from orchestrator.plan.changes import Change, change_for


@dataclass(slots=True, eq=False)
class CampaignOf:
    """``left`` jobs are not done."""

    campaign_id: str
    priority: int
    created_unix_s: float
    doing: Doing
    left: int = 0

    def rank(self) -> tuple[int, float, str]:
        """The most urgent first, then the oldest."""
        return (-self.priority, self.created_unix_s, self.campaign_id)


@dataclass(slots=True, eq=False)
class JobOf:
    """``attempt`` is the latest that was sent, 0 for none; ``counted``: that it failed stands in ``failures``."""

    job_id: str
    campaign: CampaignOf
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


Groups = dict[MachineState, deque[JobOf]]


@dataclass(slots=True, eq=False)
class DeviceOf:
    """``occupied`` by an attempt that nobody counts on, until its end is told; ``rebooting`` by itself.

    ``chosen_bytes``: the split that the agent chose for this reboot.
    """

    device_id: str
    facts: Device | None = None
    present: bool = False
    running: JobOf | None = None
    occupied: Attempt | None = None
    rebooting: bool = False
    chosen_bytes: int | None = None
    cannot_set: bool = False  # the agent tried to choose the split, and could not
    used: bool = False  # it may hold a loaded engine
    ask: Ask | None = None
    queues: dict[str, Groups] = field(default_factory=dict)  # by campaign; groups in the order of the plan
    _changes: dict[MachineState, Change] = field(default_factory=dict)

    def push(self, job: JobOf) -> None:
        self._group(job).append(job)

    def push_front(self, job: JobOf) -> None:
        """It waits again; one that waits already stays where it is."""
        if not job.waits:
            job.waits = True
            self._group(job).appendleft(job)

    def take(self, job: JobOf) -> None:
        """It waits no more: it runs here."""
        job.waits = False
        self._group(job).remove(job)

    def _group(self, job: JobOf) -> deque[JobOf]:
        return self.queues.setdefault(job.campaign.campaign_id, {}).setdefault(job.state, deque())

    def states(self, campaign: CampaignOf) -> Iterator[MachineState]:
        """States that jobs of ``campaign`` wait for here. What does not wait any more is dropped on the way."""
        groups = self.queues[campaign.campaign_id]
        for state in list(groups):
            queue = groups[state]
            while queue and not queue[0].waits:
                queue.popleft()
            if queue:
                yield state
            else:
                del groups[state]
        if not groups:
            del self.queues[campaign.campaign_id]

    def pop(self, campaign: CampaignOf, state: MachineState) -> JobOf:
        return self.queues[campaign.campaign_id][state].popleft()

    def waiting(self) -> Iterator[JobOf]:
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
