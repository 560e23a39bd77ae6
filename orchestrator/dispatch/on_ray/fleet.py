"""The fleet over Ray: one agent actor on each node that is a device, greeted when it comes and when it comes back.

The problem: a node is not a device. A laptop that reboots is a new node, while Ray believes for a minute in the old
one; two nodes may claim one device id (a copied disk); an agent dies, hangs, or is of another version. So each node
goes through phases (``NodePhase``, a chart in docs/architecture.md), and the coordinator learns of a device only when
its agent has been greeted and has reported all that lies on its disk.

No call blocks: each goes out with a callback that puts its answer into one queue, which ``listen`` empties on the
loop's thread. State changes there alone. Ray restarts no agent (``max_restarts=0``): what ran there is for the schedule
to judge, and a call made twice could run a job twice.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import pickle
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agents.agent.agent import Agent
from agents.agent.calls import AgentStatus, Grant, Hello
from agents.contract.job import Job
from agents.contract.report import Attempt
from agents.log import AGENT, Entry, start_log_file
from orchestrator.dispatch.fleet import (
    DeviceGone,
    DeviceGreeted,
    DeviceUnreachable,
    FleetEvent,
    NodeTroubleChanged,
    StatusReceived,
)
from orchestrator.dispatch.on_ray.connect import first_line
from orchestrator.dispatch.on_ray.nodes import SLEEPING, Node, NodePhase
from orchestrator.errors import OrchestrateError

log = logging.getLogger(__name__)

POLL_S = 1.0
"""How long an agent holds a poll back when it has no news: the pace of the live view."""
POLLS_A_SECOND = 200.0
"""Above so many devices they are polled less often: a poll costs the coordinator 0.6 ms."""
GATHER_S, GATHER_FROM = 0.004, 8
"""So long answers are gathered from so many devices on: what comes together costs one flush to the disk (8 ms)."""
REFRESH_S = 2.0
"""Between two looks at the nodes of the cluster."""
NAME_FREE_S = 1.0
"""So long Ray may take to give away the name of an actor that was ended."""
START_S = 130.0  # the agent's own limit, and a little
CLAIM_S = 5.0
AGAIN_S = 10.0  # between two greetings of a node that cannot be used
CLOSE_S = 10.0
CALLS_AT_ONCE = 8  # a poll waits in one thread; start, cancel and acknowledge pass it by
ROLE_LABEL = "orchestrate-role"


class DeviceAgent(Agent):
    """What Ray makes an actor of: a process of its own, so it has the log of its device."""

    def __init__(self) -> None:
        super().__init__()
        start_log_file(AGENT, self._folder)
        log.info(Entry("AgentStarted", version=importlib.metadata.version("orchestrate-bench"), pid=os.getpid()))

    def start_packed(self, packed: bytes) -> AgentStatus:
        """``start`` with all its arguments in one: Ray takes 0.6 ms longer over the objects themselves."""
        return self.start(*pickle.loads(packed))


class RayFleet:
    """``detached``: agents outlive this process, and the next coordinator finds them with what they run."""

    def __init__(self, *, detached: bool, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.address = str(ray.util.get_node_ip_address())
        self.settled = False
        self._detached = detached
        self._monotonic = monotonic
        self._term = 0
        self._nodes: dict[str, Node] = {}
        self._by_device: dict[str, Node] = {}
        # the one thing that other threads touch; None wakes ``listen`` without an answer
        self._answers: queue.SimpleQueue[tuple[Node, str, Future[Any]] | None] = queue.SimpleQueue()
        self._refresh_s = 0.0
        self._to_acknowledge: dict[str, list[Attempt]] = {}  # by device; goes with its next call
        self._version = importlib.metadata.version("orchestrate-bench")

    def begin(self, term: int) -> None:
        self._term = term

    def interrupt(self) -> None:
        self._answers.put(None)

    def listen(self, wait_s: float) -> Sequence[FleetEvent]:
        # what no ``send`` has taken along since the last round
        for device_id, stored in self._to_acknowledge.items():
            self._call_unanswered(device_id, "acknowledge", *stored)
        self._to_acknowledge.clear()
        deadline = self._monotonic() + wait_s
        while True:
            news = list(self._refresh_nodes())
            interrupted = False
            # not beyond the next look at the nodes: a node that comes, or a phase that times out, sends no answer
            wait_s = 0.0 if news else max(min(deadline, self._refresh_s) - self._monotonic(), 0.0)
            for answer in self._drain_answers(wait_s):
                if answer is None:
                    interrupted = True
                else:
                    news += self._on_answer(*answer)
            if news or interrupted or self._monotonic() >= deadline:
                return news

    def _drain_answers(self, wait_s: float) -> Iterator[tuple[Node, str, Future[Any]] | None]:
        """All answers that are there; waits for the first, and of a large fleet a moment for those right behind it."""
        try:
            yield self._answers.get(timeout=wait_s) if wait_s > 0 else self._answers.get_nowait()
            last = time.monotonic() + (GATHER_S if len(self._by_device) >= GATHER_FROM else 0.0)
            # only an answer to a poll or a start brings reports: without one pending, nothing is worth a wait
            while any(n.poll_pending for n in self._by_device.values()) and (left_s := last - time.monotonic()) > 0:
                yield self._answers.get(timeout=left_s)
            while True:
                yield self._answers.get_nowait()
        # one handler for all three waits: each of them that runs dry ends the gathering
        except queue.Empty:
            return

    def _refresh_nodes(self) -> Iterator[FleetEvent]:
        """Nodes that came and went, and phases that are over."""
        now = self._monotonic()
        if now < self._refresh_s:
            return
        try:
            nodes = self._list_nodes()
        except Exception as error:  # the head's own process is away for now: nothing can be said of any node
            log.warning(Entry("NodesNotListed", error=type(error).__name__, detail=first_line(error)))
            self._refresh_s = now + REFRESH_S
            return
        self._refresh_s = now + max(REFRESH_S, len(nodes) / 100)  # Ray lists each node that ever was
        alive = {node["NodeID"]: node for node in nodes if node["Alive"]}
        for node in [each for each in self._nodes.values() if each.node_id not in alive]:
            yield from self._on_node_gone(node)
        for node_id, facts in alive.items():
            if node_id not in self._nodes and (facts.get("Labels") or {}).get(ROLE_LABEL) != "head":
                self._nodes[node_id] = Node(node_id, facts["NodeManagerAddress"], facts["NodeManagerHostname"])
                log.info(Entry("NodeJoined", **self._nodes[node_id].ids))
                self._greet(self._nodes[node_id])
        for node in list(self._nodes.values()):
            if now >= node.until_s:
                yield from self._on_phase_timeout(node)
        unsettled = (NodePhase.GREETING, NodePhase.CLAIMING, NodePhase.WAKING)
        self.settled = all(node.phase not in unsettled for node in self._nodes.values())

    def _list_nodes(self) -> list[dict[str, Any]]:
        """All nodes of the cluster that ever were, as Ray lists them."""
        return list(ray.nodes())

    def _make_agent(self, node: Node) -> Any:
        """The actor's handle; found, where it is there already."""
        options: dict[str, Any] = {
            "num_cpus": 0,
            "max_concurrency": CALLS_AT_ONCE,
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        }
        if self._detached:
            options |= {"name": f"agent-{node.node_id}", "lifetime": "detached", "get_if_exists": True}
        # by the node's id, not the device's: which device it is, only its agent can say
        agent: Any = ray.remote(DeviceAgent)
        return agent.options(**options).remote()

    def _on_phase_timeout(self, node: Node) -> Iterator[FleetEvent]:
        match node.phase:
            case NodePhase.GREETING:
                yield from self._set_unusable(node, f"its agent did not answer within {START_S:g} s")
            case NodePhase.CLAIMING:  # the other one says nothing: it is this machine as it was before
                yield from self._supersede(node)
            case NodePhase.UNUSABLE | NodePhase.WAKING:
                self._greet(node)
            case NodePhase.UP | NodePhase.CLOSING | NodePhase.ASLEEP | NodePhase.DUPLICATE:
                pass

    def _on_node_gone(self, node: Node) -> Iterator[FleetEvent]:
        del self._nodes[node.node_id]
        log.info(Entry("NodeLeft", **node.ids, device=node.device.device_id if node.device else None))
        yield NodeTroubleChanged(node.key, "")
        yield from self._withdraw(node, f"its host {node.label} left the cluster")
        # of a pair of duplicates neither is in _by_device: _withdraw did nothing, and only this frees the other one
        if node.phase is NodePhase.DUPLICATE:
            yield from self._greet_other_duplicates(node)

    def _greet_other_duplicates(self, left: Node) -> Iterator[FleetEvent]:
        """One of two nodes that claimed one identity has left: the other one may be it."""
        for other in self._nodes.values():
            same = other.device and left.device and other.device.device_id == left.device.device_id
            if other.phase is NodePhase.DUPLICATE and same:
                yield NodeTroubleChanged(other.key, "")
                self._greet(other)

    def _withdraw(self, node: Node, why: str) -> Iterator[FleetEvent]:
        if node.device is not None and self._by_device.get(node.device.device_id) is node:
            del self._by_device[node.device.device_id]
            if node.is_announced:
                yield DeviceUnreachable(node.device.device_id, why)
        node.is_announced = False

    def _greet(self, node: Node) -> None:
        """Finds the node's agent, or makes it, and asks who it is."""
        node.enter(NodePhase.GREETING, self._monotonic() + START_S)
        # else a poll that the last agent never answered would keep this one from being polled
        node.poll_pending = False
        try:
            node.handle = self._make_agent(node)
            self._await_answer(node, "hello", node.handle.hello.remote(self._term))
        except (RayError, ValueError, RuntimeError) as error:  # the node, or a name that is not free yet: again soon
            log.debug(Entry("GreetingFailed", **node.ids, detail=first_line(error)))
            node.enter(NodePhase.UNUSABLE, self._monotonic() + REFRESH_S)

    def _await_answer(self, node: Node, kind: str, ref: Any) -> None:
        ref.future().add_done_callback(lambda future: self._answers.put((node, kind, future)))

    def _on_answer(self, node: Node, kind: str, future: Future[Any]) -> Iterator[FleetEvent]:
        if self._nodes.get(node.node_id) is not node:
            return  # its host has left since
        if kind in ("start", "poll"):
            node.poll_pending = False
        if kind == "close":
            self._on_closed(node)
            return
        try:
            value = future.result()
        except ActorUnavailableError:  # the call may have run or not: it says how it stands when it is greeted
            if node.phase is NodePhase.UP:
                self._await_answer(node, "hello", node.handle.hello.remote(self._term))
            return
        # order matters: ActorUnavailableError is a RayActorError, and RayActorError is a RayError
        except RayActorError as error:
            yield from self._on_actor_died(node, error)
            return
        except RayError as error:  # raised by the agent itself (RayTaskError), or an answer that cannot be read
            yield from self._on_call_failed(node, kind, error)
            return
        match kind:
            case "hello":
                yield from self._on_hello(node, value)
            case "claim":
                yield from self._refuse_duplicates(node)
            case _:
                yield from self._on_status(node, value)

    def _on_status(self, node: Node, status: AgentStatus) -> Iterator[FleetEvent]:
        if node.phase is not NodePhase.UP or node.device is None:  # lost since: its greeting will bring all of it again
            return
        if status.job is not None:  # an idle device is not polled: it costs nobody anything
            self._poll(node)
        yield StatusReceived(node.device.device_id, status)

    def _poll(self, node: Node) -> None:
        if not node.poll_pending:
            node.poll_pending = True
            wait_s = max(POLL_S, len(self._by_device) / POLLS_A_SECOND)
            self._await_answer(node, "poll", node.handle.poll.remote(wait_s, self._term))

    def _on_actor_died(self, node: Node, error: RayActorError) -> Iterator[FleetEvent]:
        """The agent is gone; another one is made in a moment, if the node is still there."""
        if node.phase in (NodePhase.UNUSABLE, *SLEEPING):
            return
        if node.phase is NodePhase.CLAIMING:  # it was the other node that was asked
            yield from self._supersede(node)
            return
        yield from self._withdraw(node, f"its agent ended: {first_line(error)}")
        node.enter(NodePhase.UNUSABLE, self._monotonic() + REFRESH_S)

    def _on_call_failed(self, node: Node, kind: str, error: RayError) -> Iterator[FleetEvent]:
        """The agent lives, and cannot do its work."""
        if kind == "claim":
            yield from self._supersede(node)
            return
        yield from self._set_unusable(node, first_line(getattr(error, "cause", None) or error))

    def _set_unusable(self, node: Node, why: str) -> Iterator[FleetEvent]:
        yield from self._withdraw(node, why)
        node.enter(NodePhase.UNUSABLE, self._monotonic() + AGAIN_S)
        yield NodeTroubleChanged(node.key, f"node {node.label}: {why}")

    def _on_hello(self, node: Node, hello: Hello) -> Iterator[FleetEvent]:
        device = hello.device
        node.device, node.status = device, hello.status
        # before the device id counts: jobs are pickled, and another version may not read them
        if device.agent_version != self._version:
            yield from self._set_unusable(
                node, f"it has version {device.agent_version} of orchestrate, the head {self._version}"
            )
            return
        other = self._by_device.get(device.device_id)
        if other is None or other is node:
            yield from self._accept(node)
            return
        if other.phase in SLEEPING:  # it is greeted, and claims to be it in turn
            yield from self._withdraw(other, f"{node.label} says that it is it")
            self._wake(other)
            yield from self._accept(node)
            return
        # most likely the device rebooted, and Ray has not noticed that its old node is gone: a live agent answers a
        # ping at once, whatever it is at
        node.enter(NodePhase.CLAIMING, self._monotonic() + CLAIM_S)
        self._await_answer(node, "claim", other.handle.ping.remote())

    def _accept(self, node: Node) -> Iterator[FleetEvent]:
        assert node.device is not None and node.status is not None
        node.enter(NodePhase.UP)
        node.is_announced = True
        self._by_device[node.device.device_id] = node
        yield NodeTroubleChanged(node.key, "")
        yield DeviceGreeted(node.device, node.status, node.address)
        if node.status.job is not None:
            self._poll(node)

    def _supersede(self, node: Node) -> Iterator[FleetEvent]:
        """``node`` is the device now; the one that was it before does not answer."""
        assert node.device is not None
        other = self._by_device.get(node.device.device_id)
        if other is not None and other is not node:
            yield DeviceUnreachable(
                node.device.device_id, f"it is at {node.label} now, and {other.label} answers no more"
            )
            other.is_announced = False
            # not forgotten: should the old node live after all, it is greeted later and has to claim the device
            other.enter(NodePhase.UNUSABLE, self._monotonic() + START_S)
        yield from self._accept(node)

    def _refuse_duplicates(self, node: Node) -> Iterator[FleetEvent]:
        """Two live nodes claim one identity: which of them would a result be of? Neither is used."""
        if node.phase is not NodePhase.CLAIMING or node.device is None:
            return
        device_id = node.device.device_id
        other = self._by_device.pop(device_id, None)
        names = f"{node.label} and {other.label}" if other else node.label
        words = (
            f"two nodes claim to be device {device_id} ({node.device.name}): {names}. Two Ray nodes on one machine, or"
            " a copied disk: stop one of them, or delete the file device-id on the copy"
        )
        for each in filter(None, (node, other)):
            each.enter(NodePhase.DUPLICATE)
            each.is_announced = False
            with suppress(RayError):
                # a job that already runs on either is worth nothing: nobody could say on which machine it ran
                each.handle.cancel.remote()
            yield NodeTroubleChanged(each.key, words)
        yield DeviceUnreachable(device_id, words)

    def sleep_devices(self) -> None:
        for node in self._nodes.values():
            if node.phase is NodePhase.UP and not node.poll_pending:  # one that is polled has a job
                node.enter(NodePhase.CLOSING, self._monotonic() + CLOSE_S)
                self._await_answer(node, "close", node.handle.close.remote())

    def _on_closed(self, node: Node) -> None:
        with suppress(RayError):
            ray.kill(node.handle)
        node.handle = None
        # get_if_exists would find the actor that is being killed, for as long as Ray holds its name
        node.until_s = self._monotonic() + NAME_FREE_S
        if node.phase is NodePhase.CLOSING:
            node.enter(NodePhase.ASLEEP)
        else:  # woken since: it is greeted as soon as its name is free
            self._refresh_s = min(self._refresh_s, node.until_s)

    def wake_devices(self) -> None:
        for node in self._nodes.values():
            if node.phase in (NodePhase.CLOSING, NodePhase.ASLEEP):
                self._wake(node)

    def _wake(self, node: Node) -> None:
        node.enter(NodePhase.WAKING)
        self.settled = False
        self._refresh_s = min(self._refresh_s, max(node.until_s, self._monotonic()))

    def send(self, device_id: str, job: Job, grant: Grant) -> None:
        node = self._by_device.get(device_id)
        if node is not None and node.handle is not None:  # else its DeviceUnreachable is on its way
            node.poll_pending = True  # the answer to ``start`` is a status: polling goes on from there
            packed = pickle.dumps((job, grant, *self._to_acknowledge.pop(device_id, ())))
            self._await_answer(node, "start", node.handle.start_packed.remote(packed))

    def acknowledge(self, device_id: str, attempt: Attempt) -> None:
        """Goes with the device's next job, or in the next round: a call of its own costs as much as a job's."""
        self._to_acknowledge.setdefault(device_id, []).append(attempt)

    def set_aside(self, device_id: str, attempt: Attempt) -> None:
        self._call_unanswered(device_id, "set_aside", attempt)

    def cancel(self, device_id: str) -> None:
        self._call_unanswered(device_id, "cancel")

    def _call_unanswered(self, device_id: str, method: str, *arguments: Any) -> None:
        node = self._by_device.get(device_id)
        if node is not None and node.handle is not None:
            getattr(node.handle, method).remote(*arguments)

    def call(self, device_id: str, method: str, *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        node = self._by_device.get(device_id)
        if node is None or node.handle is None:
            answer.set_exception(DeviceGone("it is not there"))
            return answer

        def answered(future: Future[Any]) -> None:
            error = future.exception()
            if error is None:
                answer.set_result(future.result())
            # raised by the agent's own code: the device is there, and its answer is no
            elif isinstance(error, RayTaskError):
                answer.set_exception(OrchestrateError(first_line(error.cause or error)))
            else:
                answer.set_exception(DeviceGone(first_line(error)))

        getattr(node.handle, method).remote(*arguments).future().add_done_callback(answered)
        return answer

    def close(self) -> None:
        """Agents of this fleet alone end, and their engines are waited for; detached ones stay."""
        if self._detached:
            return
        handles = [node.handle for node in self._nodes.values() if node.handle is not None]
        with suppress(RayError):
            # asked first, killed later: a killed agent cannot end its engine, which would keep the GPU's memory
            ray.wait([handle.close.remote() for handle in handles], num_returns=len(handles), timeout=CLOSE_S)
        for handle in handles:
            with suppress(RayError):
                ray.kill(handle)
