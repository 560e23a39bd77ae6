"""One HTTP exchange with an engine, raw: what was received, and when. Nothing is understood while tokens arrive.

``exchange`` sends a request by ``transport``, whose response a ``receive.Receiver`` reads and stamps. What the bytes
mean is worked out afterwards, by ``sse`` and ``chunks``. How the times are taken, and what that costs:
docs/measurement.md.
"""

from __future__ import annotations

import gc
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from agents.clock import Clock, SystemClock
from agents.engines.stream.receive import ExchangeEnd, Limits, Receiver
from agents.engines.stream.transport import post

__all__ = ["Exchange", "ExchangeEnd", "Limits", "LiveCount", "exchange"]

_SWITCH_INTERVAL_S = 0.0005


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and all that came back. Times in ns of the clock that was handed in.

    ``sent_ns``: just after the last byte of the request was handed to the kernel (UNREACHABLE: the start). ``reads``:
    each receive, the time just after it returned, and its bytes, the head of the response included. ``ended_ns``:
    the receive that completed the response, or the moment it was given up. ``detail``: why it did not end well.
    """

    sent_ns: int
    sent_unix_s: float
    reads: tuple[tuple[int, bytes], ...]
    ended_ns: int
    end: ExchangeEnd
    detail: str = ""


class LiveCount:
    """The receives of an exchange so far, for another thread to look at now and then. It costs the exchange nothing.

    It counts receives, the head of the response among them: about one a token, and no more exact than that.
    """

    def __init__(self) -> None:
        self._reads: Sequence[tuple[int, bytes]] = ()

    def follow(self, reads: Sequence[tuple[int, bytes]]) -> None:
        """``reads`` is the list that the receiver appends to. It is only looked at: no lock, so no thread waits."""
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
    live: LiveCount | None = None,
    cancelled: threading.Event | None = None,
    tls: ssl.SSLContext | None = None,
) -> Exchange:
    """POSTs ``body`` over a fresh connection and reads the response to its end. Raises nothing.

    ``cancelled`` is obeyed within 0.1 s once connected. No proxy, no redirect, no compression; nothing is taken from
    the environment. ``tls``: for servers whose certificate the usual authorities did not sign.
    """
    receiver = Receiver(limits, clock or SystemClock(), cancelled or threading.Event())
    if live is not None:
        live.follow(receiver.reads)
    with _quiet_interpreter():
        end, detail = post(receiver, url, body, headers, tls)
    return Exchange(
        sent_ns=receiver.sent_ns,
        sent_unix_s=receiver.sent_unix_s,
        reads=tuple(receiver.reads),
        ended_ns=receiver.ended_ns,
        end=end,
        detail=detail,
    )


_quiet_lock = threading.Lock()
_quiet_depth = 0
_settings_before: tuple[bool, float] = (True, 0.005)


@contextmanager
def _quiet_interpreter() -> Iterator[None]:
    """No garbage collection meanwhile, and other threads give the interpreter back after 0.5 ms instead of 5 ms.

    Both would delay the receiving thread between its ``recv`` and its time stamp. Both are settings of the whole
    process: the first exchange of several at once sets them, the last restores them.
    """
    global _quiet_depth, _settings_before
    with _quiet_lock:
        if _quiet_depth == 0:
            _settings_before = gc.isenabled(), sys.getswitchinterval()
            gc.disable()
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                collects, interval_s = _settings_before
                sys.setswitchinterval(interval_s)
                if collects:
                    gc.enable()
