"""One connection's receives, each stamped, and a second thread that keeps their limits.

The receiving thread blocks in ``recv`` and does nothing else: no time-out of its own, so no second system call for
each receive and no timer that wakes it. (A timer does harm: on two virtual cores it moved the waiting thread to the
server's core, and the first token of a fast stream was stamped 2 to 5 ms late.) The watching thread sleeps, looks ten
times a second, and ends a receive by shutting the socket down.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from agents.clock import Clock
from agents.engines.stream.exchange import Ended, Limits
from agents.engines.stream.sse import Ending, first_event_ns

LOOK_S = 0.1
READ_BYTES = 65_536
RESPONSE_BYTES_MAX = 1 << 29


class Stopped(Exception):
    """The exchange is over before the response's own end."""

    def __init__(self, ended: Ended, detail: str) -> None:
        super().__init__(detail)
        self.ended = ended
        self.detail = detail


class Line:
    """``sent_ns`` and ``ended_ns`` are the start until there is better; ``reads`` grows while the response comes."""

    def __init__(self, limits: Limits, clock: Clock, cancelled: threading.Event) -> None:
        self.limits = limits
        self.reads: list[tuple[int, bytes]] = []
        self.sent = False
        self.sent_ns = self.ended_ns = clock.monotonic_ns()
        self.sent_unix_s = clock.unix_s()
        self._clock = clock
        self._cancelled = cancelled

    def give_up(self, error: Exception) -> tuple[Ended, str]:
        """What a foreign error means."""
        self.ended_ns = self._clock.monotonic_ns()
        return (Ended.BROKEN if self.sent else Ended.UNREACHABLE), f"{type(error).__name__}: {error}".rstrip(": ")

    def exchange(self, connected: socket.socket, send: Callable[[], None]) -> None:
        """Has the request sent, and receives until the peer closes, or is silent after the response's own end.

        Raises Stopped for every other end, OSError where the connection breaks, and what ``send`` raises.
        """
        ending = Ending(self.reads)
        watch = _Watch(self, connected, ending, self._clock, self._cancelled)
        watch.start()  # before the sending: to start a thread takes a tenth of a millisecond
        broken: ConnectionError | None = None
        try:
            try:
                send()
            finally:
                self.sent_ns, self.sent_unix_s = self._clock.monotonic_ns(), self._clock.unix_s()
                self.sent = True
            connected.settimeout(None)
            self._receive_all(connected)
        except ConnectionError as error:
            broken = error
        finally:
            self.ended_ns = self._clock.monotonic_ns()
            watch.end()
        if watch.verdict is not None:
            raise watch.verdict
        # A server that resets the connection after the response's own end has said all.
        if not ending.reached(closed=broken is None):
            raise broken or Stopped(Ended.BROKEN, ending.fault)
        if ending.told:
            self.ended_ns = self.reads[-1][0]

    def _receive_all(self, connected: socket.socket) -> None:
        """This loop is all that runs while tokens arrive."""
        receive, now, keep = connected.recv, self._clock.monotonic_ns, self.reads.append
        while data := receive(READ_BYTES):
            keep((now(), data))


class _Watch:
    """The thread that ends a receive: overdue, cancelled, without end, or complete on a connection kept open."""

    def __init__(
        self, line: Line, connected: socket.socket, ending: Ending, clock: Clock, cancelled: threading.Event
    ) -> None:
        self.verdict: Stopped | None = None
        self._line = line
        self._socket = connected
        self._ending = ending
        self._now = clock.monotonic_ns
        self._cancelled = cancelled
        self._first_token_in_time = False
        self._seen_reads = self._seen_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-exchange", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._pause_s()):
            came = self._line.reads[self._seen_reads :]
            self._seen_reads += len(came)
            self._seen_bytes += sum(len(data) for _, data in came)
            self.verdict = self._judge()
            # The bytes are looked at after a silence only: never while tokens come faster than the looks.
            complete = not came and self._seen_reads > 0 and self._ending.reached()
            if self.verdict is not None or complete:
                with suppress(OSError):  # closed by the peer meanwhile
                    # SSLSocket.shutdown would take the TLS state from under the receiving thread.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                return

    def _pause_s(self) -> float:
        if not self._line.sent:
            return LOOK_S
        limits = self._line.limits
        next_s = limits.trial_s if self._first_token_in_time else min(limits.first_token_s, limits.trial_s)
        return min(LOOK_S, max(next_s - self._since_sent_s(self._now()), 0.001))

    def _since_sent_s(self, at_ns: int) -> float:
        return (at_ns - self._line.sent_ns) / 1e9

    def _judge(self) -> Stopped | None:
        limits = self._line.limits
        if self._cancelled.is_set():
            return Stopped(Ended.CANCELLED, "cancelled")
        if self._seen_bytes > RESPONSE_BYTES_MAX:
            return Stopped(Ended.BROKEN, f"the response is longer than {RESPONSE_BYTES_MAX >> 20} MiB")
        if self._ending.fault:
            return Stopped(Ended.BROKEN, self._ending.fault)
        elapsed_s = self._since_sent_s(self._now()) if self._line.sent else 0.0
        if elapsed_s >= limits.trial_s:
            return Stopped(Ended.TRIAL_TIMEOUT, f"not done within {limits.trial_s:g} s of sending the request")
        if elapsed_s >= limits.first_token_s and not self._first_token_in_time:
            first_ns = first_event_ns(tuple(self._line.reads))
            if first_ns is None or self._since_sent_s(first_ns) > limits.first_token_s:
                late = f"no token within {limits.first_token_s:g} s of sending the request"
                return Stopped(Ended.FIRST_TOKEN_TIMEOUT, late)
            self._first_token_in_time = True
        return None
