"""One HTTP exchange with an engine, raw: what was received, and when. Nothing is understood while tokens arrive.

How the times are taken, and what that costs: docs/measurement.md.
"""

from __future__ import annotations

import gc
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from agents.clock import Clock, SystemClock

_SWITCH_INTERVAL_S = 0.0005


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds allowed: to connect; then, from the request's sending, to the first event, and to the end."""

    connect_s: float
    first_token_s: float
    trial_s: float


class Ended(StrEnum):
    """How an exchange ended."""

    COMPLETE = "complete"  # to the end that the response itself tells, whatever its status
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    TRIAL_TIMEOUT = "trial_timeout"
    BROKEN = "broken"  # not HTTP, or no end: what came is kept
    CANCELLED = "cancelled"
    UNREACHABLE = "unreachable"  # nothing was sent


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and all that came back. Times in ns of the clock that was handed in.

    ``sent_ns``: just after the last byte of the request was handed to the kernel (UNREACHABLE: the start). ``reads``:
    each receive, the time just after it returned, and its bytes, the head of the response included. ``ended_ns``:
    the receive that completed the response, or the moment it was given up.
    """

    sent_ns: int
    sent_unix_s: float
    reads: tuple[tuple[int, bytes], ...]
    ended_ns: int
    ended: Ended
    detail: str = ""


class Progress:
    """A live view of an exchange, for another thread to look at now and then. It costs the exchange nothing.

    It counts receives, the head of the response among them: about one a token, and no more exact than that.
    """

    def __init__(self) -> None:
        self._reads: Sequence[tuple[int, bytes]] = ()

    def follow(self, reads: Sequence[tuple[int, bytes]]) -> None:
        """``reads`` is the list that the exchange appends to."""
        self._reads = reads

    @property
    def reads(self) -> int:
        return len(self._reads)

    @property
    def first_ns(self) -> int:
        """Time of the first receive; 0 before it."""
        return self._reads[0][0] if self._reads else 0

    @property
    def last_ns(self) -> int:
        """Time of the last receive; 0 before the first."""
        return self._reads[-1][0] if self._reads else 0


def exchange(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    limits: Limits,
    clock: Clock | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
    tls: ssl.SSLContext | None = None,
) -> Exchange:
    """POSTs ``body`` over a fresh connection and reads the response to its end. Raises nothing.

    ``cancelled`` is obeyed within 0.1 s once connected. No proxy, no redirect, no compression; nothing is taken from
    the environment. ``tls``: for servers whose certificate the usual authorities did not sign.
    """
    from agents.engines.line import Line
    from agents.engines.tap import post

    line = Line(limits, clock or SystemClock(), cancelled or threading.Event())
    if progress is not None:
        progress.follow(line.reads)
    with _quiet_interpreter():
        ended, detail = post(line, url, body, headers, tls)
    return Exchange(
        sent_ns=line.sent_ns,
        sent_unix_s=line.sent_unix_s,
        reads=tuple(line.reads),
        ended_ns=line.ended_ns,
        ended=ended,
        detail=detail,
    )


_quiet_lock = threading.Lock()
_quiet_depth = 0
_loud: tuple[bool, float] = (True, 0.005)


@contextmanager
def _quiet_interpreter() -> Iterator[None]:
    """No garbage collection meanwhile, and other threads give the interpreter back after 0.5 ms instead of 5 ms.

    Both are settings of the whole process: the first exchange of several at once sets them, the last restores them.
    """
    global _quiet_depth, _loud
    with _quiet_lock:
        if _quiet_depth == 0:
            _loud = gc.isenabled(), sys.getswitchinterval()
            gc.disable()
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                sys.setswitchinterval(_loud[1])
                if _loud[0]:
                    gc.enable()
