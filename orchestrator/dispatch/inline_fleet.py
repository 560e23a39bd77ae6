"""A fleet of one: this machine, without Ray. The agent lives in this process; its job process is a child of it.

The problem: a call of the agent may take long (a job process takes up to two minutes to come up on a cold disk, a poll
waits for news), and the coordinator's loop, whose thread calls ``listen`` and ``send``, must answer people meanwhile.
So calls run on two threads and their answers are queued for ``listen``, as they are over Ray. One thread runs what must
keep its order (a cancel that passed the start of its job would be lost); the other one polls.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any

from agents.agent.agent import Agent
from agents.agent.calls import Grant
from agents.contract.job import Job
from agents.contract.report import Attempt
from orchestrator.dispatch.fleet import (
    DeviceGone,
    DeviceGreeted,
    DeviceUnreachable,
    FleetEvent,
    NodeTroubleChanged,
    StatusReceived,
)
from orchestrator.errors import OrchestrateError

POLL_S = 1.0
"""How long the agent holds a poll back when it has no news: the pace of the live view."""
RETRY_S = 10.0
"""From a failure of the agent to the next greeting."""
NODE = "this machine"


class InlineFleet:
    """``retry_s``: how long after a failure of the agent it is greeted again."""

    address = "127.0.0.1"

    def __init__(self, folder: Path, retry_s: float = RETRY_S) -> None:
        """``folder``: where the device keeps its things (spool, models)."""
        self.settled = False
        self._agent = Agent(folder)
        self._retry_s = retry_s
        self._term = 0
        self._calls = ThreadPoolExecutor(1, "agent-calls")
        # of its own: a poll waits POLL_S for news, and a cancel must not queue behind it
        self._polls = ThreadPoolExecutor(1, "agent-polls")
        self._answers: queue.SimpleQueue[tuple[str, Future[Any]] | None] = queue.SimpleQueue()
        self._device_id: str | None = None  # None: not greeted yet, or unusable since
        self._undelivered: list[DeviceUnreachable] = []  # events of sends that found no device
        self._poll_pending = False
        self._greet_s = 0.0  # monotonic time of the next greeting; infinite while none is due

    def begin(self, term: int) -> None:
        self._term = term

    def interrupt(self) -> None:
        self._answers.put(None)

    def listen(self, wait_s: float) -> Sequence[FleetEvent]:
        deadline_s = time.monotonic() + wait_s
        if self._undelivered:
            events, self._undelivered = self._undelivered, []
            return events
        while True:
            now_s = time.monotonic()
            if now_s >= self._greet_s:
                self._greet_s = inf
                self._call("hello", self._calls, self._agent.hello, self._term)
            try:
                # not beyond the next greeting, which nothing else would wake
                answer = self._answers.get(timeout=max(min(deadline_s, self._greet_s) - now_s, 0.0))
            except queue.Empty:
                if time.monotonic() >= deadline_s:
                    return ()
                continue
            if answer is None:  # interrupted
                return ()
            if found := list(self._on_answer(*answer)):
                return found

    def _call(self, kind: str, thread: ThreadPoolExecutor, method: Callable[..., Any], *arguments: Any) -> None:
        future = thread.submit(method, *arguments)
        # a callback runs on the thread of the call: it only queues, state changes on the loop's thread
        future.add_done_callback(lambda done: self._answers.put((kind, done)))

    def _on_answer(self, kind: str, future: Future[Any]) -> Iterator[FleetEvent]:
        if kind == "poll":
            self._poll_pending = False
        error = future.exception()
        if error is not None:
            yield from self._on_failure(error)
        elif kind == "hello":
            hello = future.result()
            self._device_id, self.settled = hello.device.device_id, True
            yield NodeTroubleChanged(NODE, "")
            yield DeviceGreeted(hello.device, hello.status, self.address)
            if hello.status.job is not None:
                self._poll()
        elif self._device_id is not None:  # else the agent failed since: the next greeting brings its reports
            status = future.result()
            if status.job is not None:
                self._poll()
            yield StatusReceived(self._device_id, status)

    def _poll(self) -> None:
        if not self._poll_pending:
            self._poll_pending = True
            self._call("poll", self._polls, self._agent.poll, POLL_S, self._term)

    def _on_failure(self, error: BaseException) -> Iterator[FleetEvent]:
        """The agent cannot do its work, for now: no job process comes up, or the disk takes nothing."""
        self.settled = True  # it said why not
        why = _first_line(error)
        if self._device_id is not None:
            yield DeviceUnreachable(self._device_id, why)
        # with its device id go the late answers of the calls before: _on_answer drops them
        self._device_id = None
        self._greet_s = time.monotonic() + self._retry_s
        yield NodeTroubleChanged(NODE, f"{NODE}: {why}")

    def sleep_devices(self) -> None:
        """Nothing to do: an idle agent ends its job process by itself, and costs nothing in this process."""

    def wake_devices(self) -> None:
        """Nothing to do: it does not sleep."""

    def send(self, device_id: str, job: Job, grant: Grant) -> None:
        if device_id == self._device_id:
            self._call("start", self._calls, self._agent.start, job, grant)
        else:
            self._undelivered.append(DeviceUnreachable(device_id, "it is not there", (job.job_id, job.attempt)))

    def acknowledge(self, device_id: str, attempt: Attempt) -> None:
        self.call(device_id, "acknowledge", attempt)

    def set_aside(self, device_id: str, attempt: Attempt) -> None:
        self.call(device_id, "set_aside", attempt)

    def cancel(self, device_id: str) -> None:
        self.call(device_id, "cancel")

    def call(self, device_id: str, method: str, *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        if device_id != self._device_id:
            answer.set_exception(DeviceGone("it is not there"))
            return answer

        def run() -> None:
            try:
                answer.set_result(getattr(self._agent, method)(*arguments))
            # anything at all: a future that nobody completes would hold its caller for ever
            except Exception as error:
                answer.set_exception(OrchestrateError(_first_line(error)))

        self._calls.submit(run)
        return answer

    def close(self) -> None:
        """Ends the agent, with its job process and the engine; a call that waits for one fails then."""
        self._device_id = None
        # before the threads: a call that waits for the job process ends only when that is gone
        self._agent.close()
        self._calls.shutdown()
        self._polls.shutdown()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
