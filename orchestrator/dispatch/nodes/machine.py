"""How nodes become devices, and what is called when: inputs with the time, actions and fleet events out. PURE

The problem: a node is not a device. A laptop that reboots is a new node, while Ray believes for a minute in the old
one; two nodes may claim one device id (a copied disk); an agent dies, hangs, or is of another version; any answer may
come late, twice, or never. So each node goes through phases (``NodePhase``, a chart in docs/architecture.md), each with
its end, and three rules hold:

- Each agent and each call has a number. An answer counts for the call of its kind that is out at the node, so a late
  one of an earlier agent changes nothing. What ends an agent drops its calls.
- One greeting of a node is out at a time. One that was asked before a job was sent, or before the agent spoke again,
  is old: the node is asked once more. A job that the agent does not know, though its start was never answered, is sent
  once more: the agent starts an attempt once.
- A node that runs a job and is silent for ``SILENT_POLLS`` is asked what it is at; where that is not answered either,
  its agent is killed, the device is reported lost, and greeted again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from agents.agent.calls import AgentStatus, Grant, Hello
from agents.contract.job import Job
from agents.contract.report import Attempt
from agents.log import Entry
from orchestrator.dispatch.fleet import (
    DeviceUnreachable,
    NodeTroubleChanged,
    StatusReceived,
)
from orchestrator.dispatch.nodes.calls import AGAIN_S, GREET_S, Output
from orchestrator.dispatch.nodes.identity import NodeIdentity
from orchestrator.dispatch.nodes.node import (
    SLEEPING,
    UNSETTLED,
    Awaited,
    Call,
    CallError,
    CallKind,
    Failure,
    Node,
    NodePhase,
)

log = logging.getLogger(__name__)

SILENT_POLLS = 20
"""A device that runs a job and has not answered in the time of so many polls is asked what it is at."""
TICK_S = 2.0
"""Between two looks at the nodes' times."""
CHECK_S = 60.0  # an agent whose job runs answers at once; a link that is down longer is noticed by Ray after 64 s
AGAIN_MOST_S = 600.0  # between two greetings of a node that is refused: each pause is twice the one before
AGAIN_SOON_S = 2.0  # after an agent died
CLOSE_S = 10.0
SENDS = 3
"""So often a job is sent to one agent that does not get it."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    address: str
    host: str


class NodeMachine(NodeIdentity):
    """All inputs are of one thread. What they return must be used up before the next input."""

    def __init__(self, version: str) -> None:
        """``version``: of orchestrate, here."""
        super().__init__(version)
        self._are_listed = False

    @property
    def device_count(self) -> int:
        return len(self._by_device)

    @property
    def awaits_reports(self) -> bool:
        return any(node.awaited is not None for node in self._by_device.values())

    def agent_of(self, device_id: str) -> int | None:
        """For calls that the machine has no part in."""
        node = self._by_device.get(device_id)
        return None if node is None else node.agent

    def nodes_listed(self, now_s: float, alive: Mapping[str, NodeFacts]) -> Iterator[Output]:
        """All nodes that are alive and may be devices."""
        self._are_listed = True
        for node in [each for each in self.nodes.values() if each.node_id not in alive]:
            yield from self._on_node_gone(now_s, node)
        for node_id, facts in alive.items():
            if node_id not in self.nodes:
                node = self.nodes[node_id] = Node(node_id, facts.address, facts.host)
                log.info(Entry("NodeJoined", **node.ids))
                yield from self._greet(now_s, node)

    def time_passed(self, now_s: float) -> Iterator[Output]:
        silent_s = self._silent_s()
        for node in list(self.nodes.values()):
            if now_s >= node.until_s:
                yield from self._on_phase_timeout(now_s, node)
            elif node.phase in (NodePhase.GREETING, NodePhase.CHECKING):
                yield from self._ask(now_s, node)  # the agent was not reached the last time
            elif node.phase is NodePhase.UP and node.awaited is not None:
                if now_s - node.spoke_s < silent_s and now_s < node.awaited.until_s:
                    continue
                words = f"its agent has been silent for {now_s - node.spoke_s:.0f} s: it is asked what it is at"
                yield NodeTroubleChanged(node.key, f"node {node.label}: {words}")
                yield from self._check(now_s, node)
        self.settled = self._are_listed and all(node.phase not in UNSETTLED for node in self.nodes.values())
        self.due_s = min((node.until_s for node in self.nodes.values()), default=inf)
        self.due_s = min(self.due_s, now_s + TICK_S)

    def answered(self, now_s: float, call: Call, answer: Any) -> Iterator[Output]:
        """``answer``: what the agent returned, or a ``Failure``."""
        node = self.nodes.get(call.node_id)
        if node is None or node.pending.get(call.kind) != call.number:
            return  # late: whom it concerns is gone
        del node.pending[call.kind]
        match call.kind:
            case CallKind.START | CallKind.POLL if isinstance(answer, AgentStatus):
                yield from self._on_status(now_s, node, answer)
            case CallKind.START | CallKind.POLL:
                yield from self._on_call_failed(now_s, node, answer)
            case CallKind.HELLO:
                yield from self._on_hello_answered(now_s, node, answer)
            case CallKind.CLAIM:
                yield from self._on_claim_answered(now_s, node, answer)
            case CallKind.CLOSE:
                yield from self._on_closed(now_s, node)

    def send(self, now_s: float, device_id: str, job: Job, grant: Grant) -> Iterator[Output]:
        node, attempt = self._by_device.get(device_id), (job.job_id, job.attempt)
        if node is None:
            yield DeviceUnreachable(device_id, "it is not in the cluster any more", attempt)
        elif node.phase is NodePhase.UP:
            node.awaited = Awaited(attempt, (job, grant), now_s + self._silent_s() + GREET_S)
            yield from self._start(now_s, node)
        else:
            asleep = node.phase in SLEEPING
            yield from self._withdraw(node, "its agent sleeps" if asleep else "its agent is silent", attempt)
            if asleep:
                self._wake(now_s, node)
            else:
                self._enter(node, NodePhase.GREETING, node.until_s)

    def sleep_devices(self, now_s: float) -> Iterator[Output]:
        for node in self.nodes.values():
            if node.phase is NodePhase.UP and node.awaited is None:
                self._enter(node, NodePhase.CLOSING, now_s + CLOSE_S)
                yield self._call(node, CallKind.CLOSE)

    def wake_devices(self, now_s: float) -> None:
        for node in self.nodes.values():
            if node.phase in (NodePhase.CLOSING, NodePhase.ASLEEP):
                self._wake(now_s, node)

    def _on_status(self, now_s: float, node: Node, status: AgentStatus) -> Iterator[Output]:
        """An answer to a start or a poll."""
        assert node.device is not None
        awaited = node.awaited
        if awaited is not None and not _knows(status, awaited.attempt):
            yield from self._check(now_s, node)
            return
        node.spoke_s = now_s
        node.turn += 1
        if node.phase is not NodePhase.UP:
            self._enter(node, NodePhase.UP)
            yield NodeTroubleChanged(node.key, "")
        yield from self._await_job(node, status)
        yield StatusReceived(node.device.device_id, status)

    def _start(self, now_s: float, node: Node) -> Iterator[Output]:
        assert node.awaited is not None and node.awaited.job is not None
        node.awaited.sends += 1
        node.spoke_s = now_s
        node.turn += 1
        # the answer to the start is a status: polling goes on from there, and a poll that is out knows less
        node.pending.pop(CallKind.POLL, None)
        yield self._call(node, CallKind.START, *node.awaited.job)

    def _silent_s(self) -> float:
        return SILENT_POLLS * self._poll_wait_s()

    def _on_call_failed(self, now_s: float, node: Node, failure: Failure) -> Iterator[Output]:
        """Of a start or a poll."""
        match failure.error:
            case CallError.UNAVAILABLE:
                if node.phase is NodePhase.UP:
                    yield from self._check(now_s, node)
            case CallError.DIED:
                yield from self._on_agent_died(now_s, node, failure.detail)
            case CallError.FAILED | CallError.CLOSED:  # the agent lives, and cannot do its work
                yield from self._set_unusable(now_s, node, failure.detail)

    def _on_agent_died(self, now_s: float, node: Node, detail: str) -> Iterator[Output]:
        """Another one is made in a moment, if the node is still there."""
        yield from self._end_agent(now_s, node)
        yield from self._withdraw(node, f"its agent ended: {detail}")
        self._enter(node, NodePhase.UNUSABLE, now_s + AGAIN_SOON_S)

    def _check(self, now_s: float, node: Node) -> Iterator[Output]:
        """Asks a device what it is at. An agent that has not taken its job yet may be waiting for its job process."""
        if node.phase is NodePhase.CHECKING:
            return
        until_s = now_s + CHECK_S
        if node.awaited is not None and not node.awaited.is_delivered:
            until_s = node.awaited.until_s
        self._enter(node, NodePhase.CHECKING, until_s)
        if now_s - node.greeted_s >= CHECK_S:
            node.pending.pop(CallKind.HELLO, None)  # of an earlier silence: it is not answered any more
        yield from self._ask(now_s, node)

    def _on_hello_answered(self, now_s: float, node: Node, answer: Hello | Failure) -> Iterator[Output]:
        if node.phase not in (NodePhase.GREETING, NodePhase.CHECKING):
            return  # it has spoken since
        match answer:
            case Failure(CallError.UNAVAILABLE):
                pass  # asked again with the next look, until the phase is over
            case Failure(CallError.DIED, detail):
                yield from self._on_agent_died(now_s, node, detail)
            case Failure(CallError.CLOSED, detail):
                yield from self._end_agent(now_s, node)
                yield from self._withdraw(node, detail)
                self._enter(node, NodePhase.UNUSABLE, now_s + AGAIN_SOON_S)
            case Failure(CallError.FAILED, detail):
                yield from self._set_unusable(now_s, node, detail)
            case Hello() if node.greeted_turn != node.turn:
                yield from self._ask(now_s, node)
            case Hello(device) if device.agent_version != self._version:
                # before the device id counts: jobs are pickled, and another version may not read them
                node.device = device
                yield from self._refuse(now_s, node, device.agent_version)
            case Hello() if node.phase is NodePhase.CHECKING:
                yield from self._on_checked(now_s, node, answer)
            case Hello(device, status):
                node.device, node.status = device, status
                yield from self._identify(now_s, node)

    def _on_checked(self, now_s: float, node: Node, hello: Hello) -> Iterator[Output]:
        awaited = node.awaited
        if awaited is None or _knows(hello.status, awaited.attempt):
            yield from self._on_status(now_s, node, hello.status)
        elif awaited.is_delivered or hello.status.job is not None:
            # how the job ended never reached us, or another one runs: the schedule must judge it
            node.device, node.status = hello.device, hello.status
            yield from self._accept(now_s, node)
        elif awaited.sends < SENDS and now_s < awaited.until_s:
            self._enter(node, NodePhase.UP)
            yield NodeTroubleChanged(node.key, "")
            yield from self._start(now_s, node)
        else:
            yield from self._set_unusable(now_s, node, f"it was sent a job {awaited.sends} times, and has not taken it")

    def _refuse(self, now_s: float, node: Node, version: str) -> Iterator[Output]:
        """Nothing is kept on a device of another version: its agent ends with all that it started."""
        why = f"it has version {version} of orchestrate, the head {self._version}"
        yield from self._withdraw(node, why)
        node.refusals += 1
        self._enter(node, NodePhase.REFUSED, now_s + CLOSE_S)
        yield self._call(node, CallKind.CLOSE)
        yield NodeTroubleChanged(node.key, f"node {node.label}: {why}")

    def _on_node_gone(self, now_s: float, node: Node) -> Iterator[Output]:
        del self.nodes[node.node_id]
        log.info(Entry("NodeLeft", **node.ids, device=node.device.device_id if node.device else None))
        yield NodeTroubleChanged(node.key, "")
        yield from self._withdraw(node, f"its host {node.label} left the cluster")
        yield from self._end_agent(now_s, node)
        if node.phase is NodePhase.DUPLICATE:  # the other one may be the device
            for other in self._same_device(node):
                if other.phase is NodePhase.DUPLICATE:
                    yield NodeTroubleChanged(other.key, "")
                    yield from self._greet(now_s, other)

    def _on_phase_timeout(self, now_s: float, node: Node) -> Iterator[Output]:
        match node.phase:
            case NodePhase.GREETING:
                yield from self._end_agent(now_s, node)
                yield from self._set_unusable(now_s, node, f"its agent did not answer within {GREET_S:g} s")
            case NodePhase.CHECKING:
                yield from self._end_agent(now_s, node)
                silent_s = now_s - node.spoke_s
                yield from self._set_unusable(now_s, node, f"its agent has been silent for {silent_s:.0f} s")
            case NodePhase.CLAIMING:  # the other one says nothing: it is this machine as it was before
                node.pending.pop(CallKind.CLAIM, None)
                yield from self._supersede(now_s, node)
            case NodePhase.CLOSING | NodePhase.WAKING | NodePhase.REFUSED if node.agent is not None:
                yield from self._on_closed(now_s, node)  # it had its time
            case NodePhase.UNUSABLE | NodePhase.WAKING | NodePhase.REFUSED:
                yield from self._greet(now_s, node)
            case _:  # those without an end
                pass

    def _on_closed(self, now_s: float, node: Node) -> Iterator[Output]:
        yield from self._end_agent(now_s, node)
        match node.phase:
            case NodePhase.CLOSING:
                self._enter(node, NodePhase.ASLEEP)
            case NodePhase.REFUSED:
                pause_s = min(AGAIN_S * 2 ** (node.refusals - 1), AGAIN_MOST_S)
                self._enter(node, NodePhase.REFUSED, now_s + pause_s)
            case NodePhase.WAKING:
                self._enter(node, NodePhase.WAKING, node.name_free_s)
            case _:  # refused as a duplicate since, or superseded
                pass


def _knows(status: AgentStatus, attempt: Attempt) -> bool:
    """The agent runs the attempt, or has its report."""
    return status.job == attempt or any((each.job_id, each.attempt) == attempt for each in status.reports)
