"""What all parts of ``machine`` share: the nodes, their calls that are out, how one ceases to be a device. PURE"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import inf
from typing import Any

from agents.agent.calls import AgentStatus
from agents.contract.report import Attempt
from orchestrator.dispatch.fleet import DeviceUnreachable, FleetEvent, NodeTroubleChanged
from orchestrator.dispatch.nodes.node import (
    UNSETTLED,
    Action,
    Awaited,
    Call,
    CallKind,
    KillAgent,
    MakeAgent,
    Node,
    NodePhase,
)

POLL_S = 1.0
"""How long an agent holds a poll back when it has no news: the pace of the live view."""
POLLS_A_SECOND = 200.0
"""Above so many devices they are polled less often: a poll costs the coordinator 0.6 ms."""
GREET_S = 130.0  # the agent's own limit for its job process, and a little
AGAIN_S = 10.0  # between two greetings of a node that cannot be used
NAME_FREE_S = 1.0
"""So long Ray may take to give away the name of an actor that was ended."""

Output = Action | FleetEvent


class NodeCalls:
    """``nodes`` by their ids; ``settled``: each of them has become a device, or said why not."""

    def __init__(self, version: str) -> None:
        """``version``: of orchestrate, here."""
        self.nodes: dict[str, Node] = {}
        self.settled = False
        self.due_s = 0.0
        """When ``time_passed`` is to be called at the latest."""
        self._by_device: dict[str, Node] = {}
        self._version = version
        self._term = 0
        self._numbers = itertools.count(1)

    def begin(self, term: int) -> None:
        self._term = term

    def _greet(self, now_s: float, node: Node) -> Iterator[Output]:
        """Finds the node's agent, or makes it, and asks who it is."""
        self._enter(node, NodePhase.GREETING, now_s + GREET_S)
        if node.agent is None:
            node.agent = next(self._numbers)
            yield MakeAgent(node.node_id, node.agent)
        yield from self._ask(now_s, node)

    def _ask(self, now_s: float, node: Node) -> Iterator[Output]:
        if CallKind.HELLO not in node.pending:
            node.greeted_turn, node.greeted_s = node.turn, now_s
            yield self._call(node, CallKind.HELLO, self._term)

    def _await_job(self, node: Node, status: AgentStatus) -> Iterator[Output]:
        """The job that the agent runs now is polled for; an idle device is not: it costs nobody anything."""
        if status.job is None:
            node.awaited = None
            return
        if node.awaited is None or node.awaited.attempt != status.job or not node.awaited.is_delivered:
            node.awaited = Awaited(status.job)
        yield from self._poll(node)

    def _poll(self, node: Node) -> Iterator[Output]:
        if CallKind.POLL not in node.pending and CallKind.START not in node.pending:
            yield self._call(node, CallKind.POLL, self._poll_wait_s(), self._term)

    def _poll_wait_s(self) -> float:
        return max(POLL_S, len(self._by_device) / POLLS_A_SECOND)

    def _call(self, node: Node, kind: CallKind, *arguments: Any) -> Call:
        assert node.agent is not None
        number = node.pending[kind] = next(self._numbers)
        return Call(number, node.node_id, node.agent, kind, arguments)

    def _end_agent(self, now_s: float, node: Node) -> Iterator[Output]:
        """With it go its calls: what they still answer concerns nobody."""
        if node.agent is not None:
            yield KillAgent(node.agent)
        node.agent, node.name_free_s = None, now_s + NAME_FREE_S
        node.pending.clear()

    def _set_unusable(self, now_s: float, node: Node, why: str) -> Iterator[Output]:
        yield from self._withdraw(node, why)
        self._enter(node, NodePhase.UNUSABLE, now_s + AGAIN_S)
        yield NodeTroubleChanged(node.key, f"node {node.label}: {why}")

    def _withdraw(self, node: Node, why: str, undelivered: Attempt | None = None) -> Iterator[Output]:
        """The node is no device for now."""
        node.awaited, node.claimed = None, None
        node.turn += 1
        node.pending.pop(CallKind.START, None)
        node.pending.pop(CallKind.POLL, None)
        was_announced, node.is_announced = node.is_announced, False
        if node.device is not None and self._by_device.get(node.device.device_id) is node:
            del self._by_device[node.device.device_id]
            if was_announced:
                yield DeviceUnreachable(node.device.device_id, why, undelivered)

    def _wake(self, now_s: float, node: Node) -> None:
        """One that still closes is greeted when its agent has ended."""
        self.settled = False
        until_s = node.until_s if node.phase is NodePhase.CLOSING else max(node.name_free_s, now_s)
        self._enter(node, NodePhase.WAKING, until_s)

    def _enter(self, node: Node, phase: NodePhase, until_s: float = inf) -> None:
        # a node that has become a device, or said why not, may be the last one that somebody waits for
        self.due_s = 0.0 if node.phase in UNSETTLED and phase not in UNSETTLED else min(self.due_s, until_s)
        node.enter(phase, until_s)
