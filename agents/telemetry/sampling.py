"""The sampler's process as the job process has it: asked between streams, and never a cause of failure."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol

from agents.telemetry.sources.base import Missing

CLOSE_S = 1.0
ANSWER_S = 5.0  # sources may wake a driver when they are found; after that an answer takes milliseconds

Row = tuple[int, str, str, float | None]
"""at_ns on the clock that stamps streams, source, quantity, value in the quantity's unit."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What was sampled since the batch before. ``averaging``: names of the sources whose power is a mean."""

    rows: Sequence[Row] = ()
    missing: tuple[Missing, ...] = ()
    averaging: frozenset[str] = frozenset()


class SamplerHandle(Protocol):
    """Where readings come from."""

    def follow(self, pids: Sequence[int]) -> None: ...

    def take(self) -> Batch:
        """What was read since the last take, up to now. Empty where nothing is read, or no more."""
        ...

    def close(self) -> None: ...


class NoSampler:
    """Reads nothing."""

    def follow(self, pids: Sequence[int]) -> None:
        pass

    def take(self) -> Batch:
        return Batch()

    def close(self) -> None:
        pass


class SamplerProcess:
    """One that does not start, dies or is silent for ANSWER_S says so once, as missing, and is asked no more."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-P", "-m", "agents.telemetry.sampler")) -> None:
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._fault = ""
        self._child: subprocess.Popen[bytes] | None = None
        try:
            self._child = subprocess.Popen(
                # stderr: what a driver's library prints would fill a pipe that nobody reads, and block the sampler.
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self._fault = f"the sampler cannot be started: {error}"
            return
        # A thread reads, so that ``take`` can give up after ANSWER_S.
        threading.Thread(target=self._listen, args=(self._child.stdout,), name="sampler", daemon=True).start()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def follow(self, pids: Sequence[int]) -> None:
        self._send({"follow": list(pids)})

    def take(self) -> Batch:
        self._send({"take": True})
        if self._child is None:
            fault, self._fault = self._fault, ""
            return Batch(missing=(Missing("sampler", fault, "please report it"),) if fault else ())
        try:
            line = self._answers.get(timeout=ANSWER_S)
            answer = json.loads(line)
            rows = [(int(at), str(source), str(kind), value) for at, source, kind, value in answer["values"]]
            missing = tuple(Missing(*each) for each in answer["missing"])
            return Batch(rows, missing, frozenset(answer["averaging"]))
        # Never asked again: the late answer would be taken for that of the next take.
        except queue.Empty:
            self._fault = f"the sampler did not answer within {ANSWER_S:g} s"
        except (ValueError, KeyError, TypeError):
            # The empty line is ``_listen``'s mark for the end of the pipe.
            self._fault = "the sampler ended" if line == b"" else f"the sampler said {line[:80]!r}"
        # Without a child the take returns the fault, once, and from then on nothing.
        self.close()
        return self.take()

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(OSError):
            _pipe(child.stdin).close()
        if not _has_ended(child):
            child.kill()
            if not _has_ended(child):
                return  # a call into a driver holds it; to close its pipe would wait for the thread that reads
        _pipe(child.stdout).close()

    def _send(self, message: dict[str, object]) -> None:
        if self._child is not None:
            with suppress(OSError):  # it has ended: the next take hears of it
                _pipe(self._child.stdin).write(json.dumps(message).encode() + b"\n")
                _pipe(self._child.stdin).flush()

    def _listen(self, pipe: IO[bytes]) -> None:
        with suppress(OSError, ValueError):  # closed by us
            for line in pipe:
                self._answers.put(line)
        self._answers.put(b"")


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(timeout=CLOSE_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
