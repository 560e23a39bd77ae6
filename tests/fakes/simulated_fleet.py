"""Devices, their links and their coordinators in simulated time, with every fault that can be had between them.

What is simulated is what Ray, the kernel and the agents do (docs/faults.md): a cut link goes unnoticed for a minute;
then the coordinator hears that the agent is dead, while the device goes on until its lease ends or the link heals, and
all on it dies then; a reboot kills what runs and keeps the disk; a coordinator that dies leaves agents running.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from agents.agent.calls import AgentStatus, Grant
from agents.contract.device import Blocked, Device, same_split
from agents.contract.job import Job
from agents.contract.report import HUNG, Attempt, Cause, Failed, Outcome, Refused, Report
from orchestrator.dispatch.fleet import DeviceGone, DeviceGreeted, DeviceUnreachable, FleetEvent, StatusReceived
from tests.fakes.reports import report_of

NOTICED_S = 64.0  # from a link's end to the word that its agent is dead
HELLO_S = 2.0


@dataclass(order=True)
class _Timed:
    at_s: float
    number: int
    act: Callable[[], None] = field(compare=False)


class World:
    """The clock, and what happens when it comes to it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[_Timed] = []
        self._count = 0

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, _Timed(self.now_s + seconds, self._count, act))

    def advance(self, until_s: float) -> bool:
        """To the next event, or to ``until_s`` where none comes before; whether one happened."""
        if not self._events or self._events[0].at_s > until_s:
            self.now_s = max(self.now_s, until_s)
            return False
        event = heapq.heappop(self._events)
        self.now_s = max(self.now_s, event.at_s)
        event.act()
        return True


@dataclass
class Violation(AssertionError):
    """What must never happen, did."""

    what: str


class SimulatedDevice:
    """A machine: its disk (``spool``) outlives reboots, its agent does not."""

    def __init__(self, world: World, facts: Device, outcome: Callable[[Job], tuple[Outcome, float]]) -> None:
        self.world = world
        self.facts = facts
        self.spool: dict[Attempt, Report] = {}
        self.untold: dict[Attempt, Report] = {}  # reports that only the agent's memory holds
        self.aside: set[Attempt] = set()
        self.running: Job | None = None
        self.linked = True
        self.disk_full = False  # for the spool; what ran counts all the same
        self.disk_fails = False  # takes no writes at all: each job fails at once
        self.blocked: Blocked | None = None
        self.ran: list[Attempt] = []
        self.reboots = 0
        self.fleet: SimulatedFleet | None = None
        self._outcome = outcome
        self._life = 0  # counts agents: what an earlier one planned does not happen
        self._heard_s = 0.0
        self._lease_s = 0.0

    @property
    def device_id(self) -> str:
        return self.facts.device_id

    def status(self) -> AgentStatus:
        self._heard_s = self.world.now_s
        running = (self.running.job_id, self.running.attempt) if self.running else None
        reports = {**self.spool, **self.untold}
        reported = tuple(report for key, report in reports.items() if key not in self.aside)
        return AgentStatus(running, "measuring" if running else "idle", 0, None, reported, self.blocked)

    def recheck(self) -> AgentStatus:
        if self.blocked is not None and not self.blocked.needs_reboot and not self.disk_fails:
            self.blocked = None
        return self.status()

    def hangs_in_driver(self) -> None:
        """Its agent gives the job process up: only a reboot ends it."""
        if self.running is not None:
            job, self.blocked = self.running, Blocked("process 7 hangs", needs_reboot=True)
            self._ends(job, Failed(Cause.ENGINE_LOST, f"{HUNG} at x", hung_stage="x"), self._life)

    def start(self, job: Job, grant: Grant) -> None:
        if self.running is not None:
            if (self.running.job_id, self.running.attempt) == (job.job_id, job.attempt):
                return
            raise Violation(f"{self.device_id} runs {self.running.job_id} and is given {job.job_id}")
        if self.blocked is not None and self.blocked.needs_reboot:
            outcome: Outcome = Failed(Cause.CANCELLED, "not tried")
            seconds = 0.1
        elif self.disk_fails:
            outcome, seconds = Failed(Cause.DISK_FULL, "No space left on device"), 4.0
        elif job.state.dedicated_vram_bytes is not None and not same_split(
            job.state.dedicated_vram_bytes, self.facts.dedicated_vram_bytes
        ):
            outcome, seconds = Refused(Cause.WRONG_STATE, "another split"), 0.1
        else:
            outcome, seconds = self._outcome(job)
        self.running = job
        self.ran.append((job.job_id, job.attempt))
        self._heard_s, self._lease_s = self.world.now_s, grant.lease_s
        life = self._life
        self.world.after(seconds, lambda: self._ends(job, outcome, life))
        self.world.after(grant.lease_s, lambda: self._lease(job, life))

    def _lease(self, job: Job, life: int) -> None:
        """A coordinator that lives polls all the time; where none was heard for the length of a lease the job ends."""
        if life != self._life or self.running is not job:
            return
        if self.fleet is not None and self.fleet.reaches(self):
            self._heard_s = self.world.now_s
        left_s = self._heard_s + self._lease_s - self.world.now_s
        if left_s > 0:
            self.world.after(left_s, lambda: self._lease(job, life))
            return
        self._ends(job, Failed(Cause.DEVICE_LOST, "the lease ended"), life, spooled=False)

    def _ends(self, job: Job, outcome: Outcome, life: int, *, spooled: bool = True) -> None:
        if life != self._life or self.running is not job:
            return
        self.running = None
        if isinstance(outcome, Failed) and outcome.cause is Cause.DISK_FULL and self.disk_fails:
            self.blocked = self.blocked or Blocked("its disk is full: No space left on device")
        report = replace(report_of(job, outcome, self.facts), boot_id=self.facts.boot_id)
        keep = self.spool if spooled and not self.disk_full else self.untold
        keep[job.job_id, job.attempt] = report
        if self.fleet is not None:
            self.fleet.says(self)

    def agent_dies(self) -> None:
        """The agent, its job process and its engine; the disk stays."""
        self._life += 1
        self.running = None
        self.untold.clear()
        self.aside.clear()
        if self.blocked is not None and not self.blocked.needs_reboot:
            self.blocked = None  # another agent learns of it at its first job

    def agent_is_killed(self) -> None:
        self.agent_dies()
        if self.fleet is not None:
            self.fleet.lost(self, "its agent was killed")

    def reboot(self, split_bytes: int | None = None) -> None:
        self.agent_dies()
        self.blocked = None
        self.reboots += 1
        split = self.facts.dedicated_vram_bytes if split_bytes is None else split_bytes
        self.facts = replace(self.facts, boot_id=f"boot-{self.reboots}", dedicated_vram_bytes=split)
        if self.fleet is not None:
            self.fleet.lost(self, "it reboots", back_s=30.0)

    def cut(self, seconds: float) -> None:
        if not self.linked:
            return
        self.linked = False
        if self.fleet is not None:
            self.fleet.cut(self)
        self.world.after(seconds, self._heal)

    def _heal(self) -> None:
        self.linked = True
        if self.fleet is not None:
            self.fleet.healed(self)


class SimulatedFleet:
    """What one coordinator has of the devices. A new coordinator makes a new one, over the same devices."""

    address = "head"

    def __init__(self, world: World, devices: Sequence[SimulatedDevice]) -> None:
        self.world = world
        self.devices = {device.device_id: device for device in devices}
        self.up: set[str] = set()
        self.closed = False
        self.asks: list[tuple[str, str, tuple[Any, ...]]] = []
        self.slept_s: list[float] = []
        self._news: list[FleetEvent] = []
        self._stuck: dict[str, list[Callable[[], None]]] = {}  # calls to a device whose link is cut

    @property
    def settled(self) -> bool:
        return len(self.up) == len(self.devices)

    def begin(self, term: int) -> None:
        for device in self.devices.values():
            device.fleet = self
            self.world.after(HELLO_S, lambda device=device: self._greet(device))  # type: ignore[misc]

    def close(self) -> None:
        """The coordinator is gone: agents hear nothing more."""
        self.closed = True
        for device in self.devices.values():
            if device.fleet is self:
                device.fleet = None

    def interrupt(self) -> None: ...

    def sleep_devices(self) -> None:
        self.slept_s.append(self.world.now_s)

    def wake_devices(self) -> None: ...

    def listen(self, wait_s: float) -> Sequence[FleetEvent]:
        deadline_s = self.world.now_s + wait_s
        while not self._news and self.world.advance(deadline_s):
            pass
        news, self._news = self._news, []
        return news

    def reaches(self, device: SimulatedDevice) -> bool:
        return not self.closed and device.linked and device.device_id in self.up

    def _greet(self, device: SimulatedDevice) -> None:
        if self.closed or device.device_id in self.up:
            return
        if not device.linked:
            self.world.after(HELLO_S, lambda: self._greet(device))
            return
        self.up.add(device.device_id)
        self._news.append(DeviceGreeted(device.facts, device.status(), "address"))

    def says(self, device: SimulatedDevice) -> None:
        if device.device_id not in self.up:
            return
        if device.linked:
            self._news.append(StatusReceived(device.device_id, device.status()))
        else:
            self._later(device, lambda: self.says(device))

    def _later(self, device: SimulatedDevice, call: Callable[[], None]) -> None:
        self._stuck.setdefault(device.device_id, []).append(call)

    def lost(self, device: SimulatedDevice, detail: str, back_s: float = HELLO_S) -> None:
        self._stuck.pop(device.device_id, None)
        if device.device_id in self.up:
            self.up.discard(device.device_id)
            self._news.append(DeviceUnreachable(device.device_id, detail))
        self.world.after(back_s, lambda: self._greet(device))

    def cut(self, device: SimulatedDevice) -> None:
        def noticed() -> None:
            if not device.linked and device.device_id in self.up and not self.closed:
                self.up.discard(device.device_id)
                self._stuck.pop(device.device_id, None)
                self._news.append(DeviceUnreachable(device.device_id, "ActorDiedError"))

        self.world.after(NOTICED_S, noticed)

    def healed(self, device: SimulatedDevice) -> None:
        if device.device_id in self.up:
            for call in self._stuck.pop(device.device_id, []):
                call()
        else:  # the head had called it dead: its raylet aborts, and everything on it ends
            device.agent_dies()
            self.world.after(HELLO_S, lambda: self._greet(device))

    def _call(self, device_id: str, call: Callable[[SimulatedDevice], None]) -> None:
        device = self.devices[device_id]
        if device_id not in self.up:
            return
        if device.linked:
            call(device)
        else:
            self._later(device, lambda: call(device))

    def send(self, device_id: str, job: Job, grant: Grant) -> None:
        self._call(device_id, lambda device: device.start(job, grant))

    def acknowledge(self, device_id: str, attempt: Attempt) -> None:
        def forget(device: SimulatedDevice) -> None:
            device.spool.pop(attempt, None)
            device.untold.pop(attempt, None)

        self._call(device_id, forget)

    def set_aside(self, device_id: str, attempt: Attempt) -> None:
        self._call(device_id, lambda device: device.aside.add(attempt))

    def cancel(self, device_id: str) -> None:
        def end(device: SimulatedDevice) -> None:
            if device.running is not None:
                device._ends(device.running, Failed(Cause.CANCELLED, "cancelled"), device._life)

        self._call(device_id, end)

    def call(self, device_id: str, method: str, *arguments: Any) -> Future[Any]:
        self.asks.append((device_id, method, arguments))
        future: Future[Any] = Future()
        if method == "set_split" and device_id in self.up and self.devices[device_id].linked:
            self.devices[device_id].reboot(arguments[0])
        if method == "recheck" and device_id in self.up and self.devices[device_id].linked:
            future.set_result(self.devices[device_id].recheck())
            return future
        future.set_exception(DeviceGone("simulated"))
        return future


def some_outcome(rng: random.Random, troubled: float) -> Callable[[Job], tuple[Outcome, float]]:
    """Mostly figures; with probability ``troubled`` a failure, of the cell or in passing."""
    from tests.unit.results.made_attempts import FAILED, MEASURED, REFUSED

    def outcome(_: Job) -> tuple[Outcome, float]:
        seconds = rng.uniform(5.0, 120.0)
        if rng.random() >= troubled:
            return MEASURED, seconds
        passing = Failed(rng.choice([Cause.ENGINE_LOST, Cause.STREAM_BROKEN]), "in passing")
        outcomes: list[Outcome] = [FAILED, REFUSED, passing]
        return rng.choice(outcomes), seconds / 2

    return outcome
