"""A job process that a test conducts: it writes what it is given, and ends when it is closed or killed, or does not."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.agent.job_process import JobProcess
from agents.contract.device import Device
from agents.contract.report import Report
from agents.contract.wire_json import to_json


class FakeJobProcess(JobProcess):
    """``ends_by_close`` False: it hangs. ``ends_by_kill`` False: it hangs in a driver. ``stuck``: what is
    there after a kill, such as an engine that hangs; by default itself, where it does not end."""

    pid = 4711

    def __init__(
        self, device: Device | None, *, ends_by_close: bool = True, ends_by_kill: bool = True, stuck: str | None = None
    ) -> None:
        self.log = Path("runner.log")
        self.sent: list[dict[str, Any]] = []
        self.kills = 0
        self._ends_by_close, self._ends_by_kill, self._stuck_words = ends_by_close, ends_by_kill, stuck
        self._written: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        if device is not None:
            self._written.put(b'{"device": ' + to_json(device) + b"}")

    def write(self, **message: Any) -> None:
        self._written.put(json.dumps(message).encode())

    def report(self, report: Report, *, kept: bool = True) -> None:
        self.write(report=json.loads(to_json(report)), kept=kept)

    def end(self) -> None:
        self._written.put(None)

    def send(self, line: bytes) -> None:
        self.sent.append(json.loads(line))

    def close(self) -> None:
        if self._ends_by_close:
            self.end()

    def kill(self) -> None:
        self.kills += 1
        if self._ends_by_kill:
            self.end()

    def lines(self) -> Iterator[bytes]:
        while (line := self._written.get()) is not None:
            yield line

    def wait(self) -> int:
        return -9

    def ended_within(self, seconds: float) -> bool:
        return self._ends_by_close

    def remaining(self, within_s: float, *_: Any) -> str:
        if self._stuck_words is not None:
            return self._stuck_words
        return "" if self._ends_by_kill else f"process {self.pid} (python)"
