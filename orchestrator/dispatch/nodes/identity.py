"""Which node is which device: two may say that they are one, most often since the device rebooted. PURE"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.dispatch.fleet import DeviceGreeted, NodeTroubleChanged
from orchestrator.dispatch.nodes.calls import GREET_S, NodeCalls, Output
from orchestrator.dispatch.nodes.node import SLEEPING, Call, CallError, CallKind, Failure, Node, NodePhase

CLAIM_S = 5.0


class NodeIdentity(NodeCalls):
    """A node that says which device it is becomes that, or has to claim it, or is refused as a duplicate."""

    def _identify(self, now_s: float, node: Node) -> Iterator[Output]:
        """The node says which device it is: so may another one."""
        assert node.device is not None
        other = self._by_device.get(node.device.device_id)
        duplicates = [each for each in self._same_device(node) if each.phase is NodePhase.DUPLICATE]
        if duplicates:
            yield from self._refuse_duplicates([node, *duplicates])
        elif other is None or other is node:
            yield from self._accept(now_s, node)
        elif other.phase in SLEEPING:  # it is greeted, and claims to be it in turn
            yield from self._withdraw(other, f"{node.label} says that it is it")
            self._wake(now_s, other)
            yield from self._accept(now_s, node)
        else:
            # most likely the device rebooted, and Ray has not noticed that its old node is gone: a live agent answers
            # a ping at once, whatever it is at
            self._enter(node, NodePhase.CLAIMING, now_s + CLAIM_S)
            node.claimed = other
            assert other.agent is not None
            call = Call(next(self._numbers), node.node_id, other.agent, CallKind.CLAIM)
            node.pending[CallKind.CLAIM] = call.number
            yield call

    def _accept(self, now_s: float, node: Node) -> Iterator[Output]:
        assert node.device is not None and node.status is not None
        status, node.status = node.status, None
        self._enter(node, NodePhase.UP)
        node.spoke_s = now_s
        node.turn += 1
        node.refusals, node.claimed, node.is_announced = 0, None, True
        self._by_device[node.device.device_id] = node
        yield NodeTroubleChanged(node.key, "")
        yield DeviceGreeted(node.device, status, node.address)
        node.pending.pop(CallKind.START, None)
        yield from self._await_job(node, status)

    def _same_device(self, node: Node) -> list[Node]:
        """Other nodes that have said so."""
        assert node.device is not None
        device_id = node.device.device_id
        return [
            each
            for each in self.nodes.values()
            if each is not node and each.device is not None and each.device.device_id == device_id
        ]

    def _on_claim_answered(self, now_s: float, node: Node, answer: Any) -> Iterator[Output]:
        assert node.device is not None
        if node.phase is not NodePhase.CLAIMING:
            return
        other = self._by_device.get(node.device.device_id)
        if other is not node.claimed:  # that one left, or was replaced since
            yield from self._identify(now_s, node)
        elif not isinstance(answer, Failure):
            yield from self._refuse_duplicates([node, *filter(None, [other])])
        elif answer.error is not CallError.UNAVAILABLE:
            yield from self._supersede(now_s, node)

    def _supersede(self, now_s: float, node: Node) -> Iterator[Output]:
        """``node`` is the device now; the one that was it before does not answer."""
        assert node.device is not None
        other = self._by_device.get(node.device.device_id)
        if other is not node.claimed:
            yield from self._identify(now_s, node)
            return
        if other is not None:
            yield from self._withdraw(other, f"it is at {node.label} now, and {other.label} answers no more")
            # not forgotten: should the old node live after all, it is greeted later and has to claim the device
            self._enter(other, NodePhase.UNUSABLE, now_s + GREET_S)
        yield from self._accept(now_s, node)

    def _refuse_duplicates(self, nodes: list[Node]) -> Iterator[Output]:
        """Live nodes claim one identity: which of them would a result be of? None is used."""
        device = nodes[0].device
        assert device is not None
        names = " and ".join(node.label for node in nodes)
        words = (
            f"two nodes claim to be device {device.device_id} ({device.name}): {names}. Two Ray nodes on one machine,"
            " or a copied disk: stop one of them, or delete the file device-id on the copy"
        )
        for node in nodes:
            yield from self._withdraw(node, words)
            self._enter(node, NodePhase.DUPLICATE)
            # a job that already runs on either is worth nothing: nobody could say on which machine it ran
            if node.agent is not None:
                yield Call(0, node.node_id, node.agent, CallKind.CANCEL)
            yield NodeTroubleChanged(node.key, words)
