"""Nodes, agents and calls in simulated time, under the real ``NodeMachine`` and the real ``Schedule``.

A call is carried out when the test wants it, and answered when the test wants it: late, twice, or never. An agent is an
actor found by the name of its node, as with Ray: two numbers of the machine may be one actor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from agents.agent.calls import AgentStatus, Grant, Hello
from agents.contract.device import Device
from agents.contract.job import Job, MachineState
from agents.contract.report import Attempt, Cause, Failed, Measured, Outcome, Report
from orchestrator.dispatch.fleet import DeviceGreeted, DeviceUnreachable, FleetEvent, StatusReceived
from orchestrator.dispatch.messages import (
    AttemptEnded,
    Cancel,
    Command,
    DeviceJoined,
    DeviceLost,
    Discard,
    Event,
    GiveUp,
    Keep,
    PendingJob,
    PutBack,
    Retry,
    RunAdded,
    Send,
    SetAside,
)
from orchestrator.dispatch.nodes.calls import Output
from orchestrator.dispatch.nodes.machine import CHECK_S, TICK_S, NodeFacts, NodeMachine
from orchestrator.dispatch.nodes.node import Call, CallError, CallKind, Failure, KillAgent, MakeAgent, NodePhase
from orchestrator.dispatch.schedule import Schedule
from tests.fakes.reports import report_of
from tests.unit.results.made_attempts import DEVICE, LOADED
from tests.unit.results.made_attempts import job as job_of

VERSION = "1"
MEASURED = Measured(LOADED, ())


@dataclass
class Host:
    """``disk``: reports that were not acknowledged; it is the device's, whichever node it is."""

    device: Device
    disk: dict[Attempt, Report]
    actor: Actor | None = None


@dataclass(eq=False, repr=False)
class Actor:
    host: Host
    is_alive: bool = True
    is_hung: bool = False
    is_closed: bool = False
    job: Job | None = None
    started: Attempt | None = None  # the latest

    def __repr__(self) -> str:
        return f"an agent of {self.host.device.device_id}"

    def status(self) -> AgentStatus:
        job = (self.job.job_id, self.job.attempt) if self.job else None
        return AgentStatus(job, "measuring" if job else "idle", 0, None, tuple(self.host.disk.values()))

    def carry_out(self, call: Call) -> Any:
        if self.is_closed and call.kind in (CallKind.HELLO, CallKind.START):
            return Failure(CallError.CLOSED, "this agent has been closed")
        match call.kind:
            case CallKind.HELLO:
                return Hello(self.host.device, self.status())
            case CallKind.START:
                return self._start(call.arguments[0])
            case CallKind.CLOSE:
                self.is_closed, self.job = True, None
            case CallKind.CANCEL:
                self.end_job(Failed(Cause.CANCELLED, "cancelled"))
        return self.status()

    def _start(self, job: Job) -> AgentStatus | Failure:
        attempt = (job.job_id, job.attempt)
        if self.job is not None and self.job != job:
            return Failure(CallError.FAILED, f"busy with {self.job.job_id}")
        if attempt not in self.host.disk and attempt != self.started:
            self.job, self.started = job, attempt
        return self.status()

    def die(self) -> None:
        self.is_alive, self.job = False, None

    def end_job(self, outcome: Outcome = MEASURED) -> None:
        if self.job is not None:
            report = report_of(self.job, outcome, self.host.device)
            self.host.disk[self.job.job_id, self.job.attempt] = report
            self.job = None


@dataclass(eq=False, repr=False)
class Flight:
    """A call on its way. ``answer`` is there once it was carried out."""

    call: Call
    actor: Actor | None
    asked_s: float
    answer: Any = None
    is_carried_out: bool = False
    deliveries: int = 0

    def __repr__(self) -> str:
        return f"{self.call.kind} {self.call.number} of {self.call.node_id}"


@dataclass
class World:
    now_s: float = 1000.0
    machine: NodeMachine = field(default_factory=lambda: NodeMachine(VERSION))
    schedule: Schedule = field(default_factory=Schedule)
    hosts: dict[str, Host] = field(default_factory=dict)
    agents: dict[int, Actor] = field(default_factory=dict)
    flights: list[Flight] = field(default_factory=list)
    disks: dict[str, dict[Attempt, Report]] = field(default_factory=dict)
    events: list[FleetEvent] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    word_s: dict[str, float] = field(default_factory=dict)  # when something was last reported of a device
    jobs: dict[str, PendingJob] = field(default_factory=dict)  # that are not done, as a ledger has them

    def __post_init__(self) -> None:
        self.machine.begin(1)

    # what happens to hosts

    def join(self, node_id: str, device_id: str, version: str = VERSION) -> None:
        device = replace(DEVICE, device_id=device_id, name=device_id, agent_version=version)
        self.hosts[node_id] = Host(device, self.disks.setdefault(device_id, {}))

    def leave(self, node_id: str) -> None:
        host = self.hosts.pop(node_id)
        if host.actor is not None:
            host.actor.die()

    # time

    def advance(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while True:
            facts = {node_id: NodeFacts(node_id, node_id) for node_id in self.hosts}
            self.carry_out(self.machine.nodes_listed(self.now_s, facts))
            self.carry_out(self.machine.time_passed(self.now_s))
            self.check()
            if self.now_s >= until_s:
                return
            self.now_s = min(max(self.machine.due_s, self.now_s + 0.1), until_s)

    # what the machine wants

    def carry_out(self, outputs: Iterable[Output]) -> None:
        events: list[FleetEvent] = []
        for output in outputs:
            match output:
                case Call():
                    self._call(output)
                case MakeAgent(node_id, agent):
                    self._make(node_id, agent)
                case KillAgent(agent):
                    self._kill(agent)
                case _:
                    events.append(output)
        self.events += events
        for event in events:
            self._on_event(event)

    def _make(self, node_id: str, agent: int) -> None:
        host = self.hosts.get(node_id)
        if host is None:
            return
        if host.actor is None or not host.actor.is_alive:
            host.actor = Actor(host)
        self.agents[agent] = host.actor

    def _kill(self, agent: int) -> None:
        actor = self.agents.pop(agent, None)
        if actor is None or not actor.is_alive:
            return
        for node in self.machine.nodes.values():
            present = node.agent is not None and self.agents.get(node.agent) is actor
            assert not (present and node.phase is NodePhase.UP), "the agent of a device that is up is killed"
        actor.die()

    def _call(self, call: Call) -> None:
        if call.kind is CallKind.HELLO:
            for each in self.flights:
                younger = self.now_s - each.asked_s < CHECK_S
                same = each.call.kind is CallKind.HELLO and each.call.agent == call.agent
                assert not (same and younger and not each.deliveries), "two greetings of one node"
        self.flights.append(Flight(call, self.agents.get(call.agent), self.now_s))

    # what becomes of calls

    def execute(self, flight: Flight) -> None:
        actor = flight.actor
        if flight.is_carried_out or (actor is not None and actor.is_alive and actor.is_hung):
            return
        alive = actor is not None and actor.is_alive
        flight.answer = actor.carry_out(flight.call) if actor and alive else Failure(CallError.DIED, "dead")
        flight.is_carried_out = True

    def answer(self, flight: Flight, failure: Failure | None = None) -> None:
        if failure is None and not flight.is_carried_out:
            return
        flight.deliveries += 1
        if flight.call.number:
            answer = flight.answer if failure is None else failure
            self.carry_out(self.machine.answered(self.now_s, flight.call, answer))

    def settle(self) -> None:
        """All that is out is carried out and answered."""
        while out := [each for each in self.flights if not each.deliveries and not (each.actor and each.actor.is_hung)]:
            polls = [each for each in out if each.call.kind is CallKind.POLL]
            for flight in out if len(polls) < len(out) else polls:
                if flight.call.kind is not CallKind.POLL or len(polls) == len(out):
                    self.execute(flight)
                    self.answer(flight)
            if len(polls) == len(out):
                return  # each poll is followed by another one

    # the coordinator

    def submit(self, run_id: str, job_ids: Iterable[tuple[str, str]]) -> None:
        """``job_ids`` with the devices that they are for."""
        jobs = [PendingJob(job_id, device_id, MachineState()) for job_id, device_id in job_ids]
        self.jobs |= {job.job_id: job for job in jobs}
        self.machine.wake_devices(self.now_s)
        self.handle(RunAdded(run_id, 0, 0.0, jobs))

    def restart(self) -> None:
        """Another coordinator, which the agents obey: calls of the one before do nothing any more."""
        for flight in self.flights:
            if flight.call.kind is CallKind.CLOSE:
                self.execute(flight)
        self.flights, self.agents, self.word_s, self.commands = [], {}, {}, []
        self.machine, self.schedule = NodeMachine(VERSION), Schedule()
        self.machine.begin(2)
        if self.jobs:
            self.handle(RunAdded("all", 0, 0.0, list(self.jobs.values())))

    def handle(self, event: Event) -> None:
        for command in self.schedule.handle(event):
            self.commands.append(command)
            match command:
                case Send(_, job_id, attempt, device_id):
                    self.word_s[device_id] = self.now_s
                    self.jobs[job_id] = replace(self.jobs[job_id], attempt=attempt, failure_counted=False)
                    job = replace(job_of(job_id), attempt=attempt, device_id=device_id)
                    self.carry_out(self.machine.send(self.now_s, device_id, job, Grant(1)))
                case Cancel(device_id):
                    agent = self.machine.agent_of(device_id)
                    if agent is not None:
                        self._call(Call(0, "", agent, CallKind.CANCEL))
                case Keep(report) | PutBack(report) | Discard(report) | SetAside(report):
                    self.disks[report.device_id].pop((report.job_id, report.attempt), None)
                    if isinstance(command, Keep):
                        del self.jobs[report.job_id]
                case GiveUp(_, job_id):
                    del self.jobs[job_id]
                case Retry():
                    self._retry(command)
                case _:
                    pass

    def _retry(self, retry: Retry) -> None:
        job = self.jobs[retry.job_id]
        counted = retry.failures > job.failures
        self.jobs[retry.job_id] = replace(job, failures=retry.failures, failure_counted=True)
        if retry.report is not None:
            self.disks[retry.report.device_id].pop((retry.job_id, retry.attempt), None)
            return
        starts = [each for each in self.flights if each.call.kind is CallKind.START]
        starts = [each for each in starts if each.call.arguments[0].job_id == retry.job_id]
        starts = [each for each in starts if each.call.arguments[0].attempt == retry.attempt]
        sent_here = any(
            isinstance(each, Send) and (each.job_id, each.attempt) == (retry.job_id, retry.attempt)
            for each in self.commands
        )
        assert not counted or starts or not sent_here, "an attempt that was never sent counts as a failure"
        if counted and "began anew" in retry.detail:
            on_its_way = [each for each in starts if not each.is_carried_out and each.actor and each.actor.is_alive]
            assert not on_its_way, "a start that is on its way counts as a failure"

    def _on_event(self, event: FleetEvent) -> None:
        match event:
            case DeviceGreeted(device, status):
                self.word_s[device.device_id] = self.now_s
                self.handle(DeviceJoined(device, status.job, status.reports))
            case StatusReceived(device_id, status):
                self.word_s[device_id] = self.now_s
                for report in status.reports:
                    self.handle(AttemptEnded(report))
            case DeviceUnreachable(device_id, detail, undelivered):
                self.word_s[device_id] = self.now_s
                self.handle(DeviceLost(device_id, detail, undelivered))
            case _:
                pass

    # what must always hold

    def check(self) -> None:
        for node in self.machine.nodes.values():
            if node.phase is NodePhase.UP:
                assert node.agent is not None
                polled = CallKind.POLL in node.pending or CallKind.START in node.pending
                assert node.awaited is None or polled, "a device runs a job, and nobody asks it"
            unending = node.until_s == float("inf")
            assert node.until_s > self.now_s - TICK_S, f"{node.phase} has outlived its end"
            assert not unending or node.phase in (NodePhase.UP, NodePhase.ASLEEP, NodePhase.DUPLICATE), node.phase
