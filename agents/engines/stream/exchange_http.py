"""One HTTP exchange with an engine, raw: what was received, and when. Nothing is understood while tokens arrive.

How the times are taken, and what that costs: docs/measurement.md.
"""

from __future__ import annotations

import gc
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from agents.clock import Clock, SystemClock
from agents.engines.stream.exchange import Ended, Exchange, Limits, Progress

__all__ = ["Ended", "Exchange", "Limits", "Progress", "exchange"]

_SWITCH_INTERVAL_S = 0.0005


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
    from agents.engines.stream.receive import Line
    from agents.engines.stream.transport import post

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
