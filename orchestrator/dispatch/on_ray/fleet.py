"""The fleet over Ray: carries out what ``machine`` decides, with one agent actor on each node that is a device.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agents.agent.agent import Agent, AgentClosed
from agents.agent.calls import AgentStatus, Grant
from agents.contract.job import Job
from agents.contract.report import Attempt
from agents.log import AGENT, Entry, start_log_file
from orchestrator.dispatch.fleet import DeviceGone, FleetEvent
from orchestrator.dispatch.nodes.calls import Output
from orchestrator.dispatch.nodes.machine import CLOSE_S, NodeFacts, NodeMachine
from orchestrator.dispatch.nodes.node import Call, CallError, CallKind, Failure, KillAgent, MakeAgent
from orchestrator.dispatch.on_ray.connect import first_line
from orchestrator.errors import OrchestrateError

log = logging.getLogger(__name__)

GATHER_S, GATHER_FROM = 0.004, 8
"""So long answers are gathered from so many devices on: what comes together costs one flush to the disk (8 ms)."""
REFRESH_S = 2.0
"""Between two looks at the nodes of the cluster."""
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
        self._detached = detached
        self._monotonic = monotonic
        self._machine = NodeMachine(importlib.metadata.version("orchestrate-bench"))
        self._handles: dict[int, Any] = {}  # of agents, by their numbers
        # the one thing that other threads touch; None wakes ``listen`` without an answer
        self._answers: queue.SimpleQueue[tuple[Call, Future[Any] | Failure] | None] = queue.SimpleQueue()
        self._news: list[FleetEvent] = []
        self._refresh_s = 0.0
        self._to_acknowledge: dict[str, list[Attempt]] = {}  # by device; goes with its next call

    @property
    def settled(self) -> bool:
        return self._machine.settled

    def begin(self, term: int) -> None:
        self._machine.begin(term)

    def interrupt(self) -> None:
        self._answers.put(None)

    def listen(self, wait_s: float) -> Sequence[FleetEvent]:
        # what no ``send`` has taken along since the last round
        for device_id, stored in self._to_acknowledge.items():
            self._call_unanswered(device_id, "acknowledge", *stored)
        self._to_acknowledge.clear()
        deadline = self._monotonic() + wait_s
        while True:
            now = self._monotonic()
            if now >= self._refresh_s:
                self._refresh_nodes(now)
            if now >= self._machine.due_s:
                self._carry_out(self._machine.time_passed(now))
            interrupted = False
            # not beyond the next look at the nodes: a node that comes, or a phase that times out, sends no answer
            look_s = min(deadline, self._refresh_s, self._machine.due_s)
            wait_s = 0.0 if self._news else max(look_s - self._monotonic(), 0.0)
            for answer in self._drain_answers(wait_s):
                if answer is None:
                    interrupted = True
                else:
                    self._on_answer(*answer)
            if self._news or interrupted or self._monotonic() >= deadline:
                news, self._news = self._news, []
                return news

    def _drain_answers(self, wait_s: float) -> Iterator[tuple[Call, Future[Any] | Failure] | None]:
        """All answers that are there; waits for the first, and of a large fleet a moment for those right behind it."""
        try:
            yield self._answers.get(timeout=wait_s) if wait_s > 0 else self._answers.get_nowait()
            last = time.monotonic() + (GATHER_S if self._machine.device_count >= GATHER_FROM else 0.0)
            # only an answer to a poll or a start brings reports: without one pending, nothing is worth a wait
            while self._machine.awaits_reports and (left_s := last - time.monotonic()) > 0:
                yield self._answers.get(timeout=left_s)
            while True:
                yield self._answers.get_nowait()
        # one handler for all three waits: each of them that runs dry ends the gathering
        except queue.Empty:
            return

    def _refresh_nodes(self, now: float) -> None:
        """Nodes that came and went."""
        self._refresh_s = now + REFRESH_S
        try:
            nodes = self._list_nodes()
        except Exception as error:  # the head's own process is away for now: nothing can be said of any node
            log.warning(Entry("NodesNotListed", error=type(error).__name__, detail=first_line(error)))
            return
        self._refresh_s = now + max(REFRESH_S, len(nodes) / 100)  # Ray lists each node that ever was
        alive = {
            node["NodeID"]: NodeFacts(node["NodeManagerAddress"], node["NodeManagerHostname"])
            for node in nodes
            if node["Alive"] and (node.get("Labels") or {}).get(ROLE_LABEL) != "head"
        }
        self._carry_out(self._machine.nodes_listed(now, alive))

    def _list_nodes(self) -> list[dict[str, Any]]:
        """All nodes of the cluster that ever were, as Ray lists them."""
        return list(ray.nodes())

    def _carry_out(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            match output:
                case Call():
                    self._call(output)
                case MakeAgent(node_id, agent):
                    try:
                        self._handles[agent] = self._make_agent(node_id)
                    except (RayError, ValueError, RuntimeError) as error:  # the node, or a name that is not free yet
                        log.debug(Entry("AgentNotMade", node=node_id[:8], detail=first_line(error)))
                case KillAgent(agent):
                    self._kill(self._handles.pop(agent, None))
                case _:
                    self._news.append(output)

    def _make_agent(self, node_id: str) -> Any:
        """The actor's handle; found, where it is there already."""
        options: dict[str, Any] = {
            "num_cpus": 0,
            "max_concurrency": CALLS_AT_ONCE,
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        }
        if self._detached:
            options |= {"name": f"agent-{node_id}", "lifetime": "detached", "get_if_exists": True}
        # by the node's id, not the device's: which device it is, only its agent can say
        agent: Any = ray.remote(DeviceAgent)
        return agent.options(**options).remote()

    def _call(self, call: Call) -> None:
        handle = self._handles.get(call.agent)
        if handle is None:
            self._answers.put((call, Failure(CallError.DIED, "it could not be made")))
            return
        try:
            if call.kind is CallKind.START:
                job, grant = call.arguments
                packed = pickle.dumps((job, grant, *self._to_acknowledge.pop(job.device_id, ())))
                ref = handle.start_packed.remote(packed)
            else:
                ref = getattr(handle, call.kind.value).remote(*call.arguments)
        except (RayError, ValueError, RuntimeError) as error:
            self._answers.put((call, Failure(CallError.DIED, first_line(error))))
            return
        if call.number:
            ref.future().add_done_callback(lambda future: self._answers.put((call, future)))

    def _on_answer(self, call: Call, answer: Future[Any] | Failure) -> None:
        result = answer if isinstance(answer, Failure) else _result_of(answer)
        self._carry_out(self._machine.answered(self._monotonic(), call, result))

    def sleep_devices(self) -> None:
        self._carry_out(self._machine.sleep_devices(self._monotonic()))

    def wake_devices(self) -> None:
        self._machine.wake_devices(self._monotonic())

    def send(self, device_id: str, job: Job, grant: Grant) -> None:
        self._carry_out(self._machine.send(self._monotonic(), device_id, job, grant))

    def acknowledge(self, device_id: str, attempt: Attempt) -> None:
        """Goes with the device's next job, or in the next round: a call of its own costs as much as a job's."""
        self._to_acknowledge.setdefault(device_id, []).append(attempt)

    def set_aside(self, device_id: str, attempt: Attempt) -> None:
        self._call_unanswered(device_id, "set_aside", attempt)

    def cancel(self, device_id: str) -> None:
        self._call_unanswered(device_id, "cancel")

    def _handle_of(self, device_id: str) -> Any:
        agent = self._machine.agent_of(device_id)
        return None if agent is None else self._handles.get(agent)

    def _call_unanswered(self, device_id: str, method: str, *arguments: Any) -> None:
        handle = self._handle_of(device_id)
        if handle is not None:
            getattr(handle, method).remote(*arguments)

    def call(self, device_id: str, method: str, *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        handle = self._handle_of(device_id)
        if handle is None:
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

        getattr(handle, method).remote(*arguments).future().add_done_callback(answered)
        return answer

    def _kill(self, handle: Any) -> None:
        if handle is not None:
            with suppress(RayError):
                ray.kill(handle)

    def close(self) -> None:
        """Agents of this fleet alone end, and their engines are waited for; detached ones stay."""
        if self._detached:
            return
        handles = list(self._handles.values())
        with suppress(RayError):
            # asked first, killed later: a killed agent cannot end its engine, which would keep the GPU's memory
            ray.wait([handle.close.remote() for handle in handles], num_returns=len(handles), timeout=CLOSE_S)
        for handle in handles:
            self._kill(handle)


def _result_of(future: Future[Any]) -> Any:
    """What an agent returned, or a ``Failure``."""
    try:
        return future.result()
    # order matters: ActorUnavailableError is a RayActorError, and RayActorError is a RayError
    except ActorUnavailableError as error:
        return Failure(CallError.UNAVAILABLE, first_line(error))
    except RayActorError as error:
        return Failure(CallError.DIED, first_line(error))
    except RayError as error:  # raised by the agent itself (RayTaskError), or an answer that cannot be read
        cause = getattr(error, "cause", None) or error
        closed = isinstance(cause, AgentClosed)
        return Failure(CallError.CLOSED if closed else CallError.FAILED, first_line(cause))
