"""One connection's receives, each stamped, and a second thread that keeps their limits.

The problem: a token's time stamp should be that of its arrival, whatever else the process does. The receiving thread
therefore blocks in ``recv`` and does nothing else. A time-out on the socket would be simpler, but costs a second system
call for each receive, and a timer that wakes the thread: on two virtual cores that moved the waiting thread to the
server's core, and the first token of a fast stream was stamped 2 to 5 ms late. So a second thread, the limit keeper,
sleeps, looks ten times a second, and ends a receive from outside by shutting the socket down.

The two threads share ``Receiver.reads``, which one appends to and the other only reads (a list's append is atomic in
CPython), and ``sent``, which is set once. There is no lock, since the receiving thread would have to wait for it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from agents.clock import Clock
from agents.engines.stream.response import EndDetector
from agents.engines.stream.sse import first_event_ns
from agents.units import format_size

LOOK_S = 0.1  # between two looks of the limit keeper: how late a cancel is obeyed
READ_BYTES = 65_536
RESPONSE_BYTES_MAX = 1 << 29


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds allowed: to connect; then, from the request's sending, to the first event, and to the end."""

    connect_s: float
    first_token_s: float
    trial_s: float


class ExchangeEnd(StrEnum):
    """How an exchange ended."""

    COMPLETE = "complete"  # at the end that the response itself states, whatever its status
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    TRIAL_TIMEOUT = "trial_timeout"
    BROKEN = "broken"  # not HTTP, or no end: what came is kept
    CANCELLED = "cancelled"
    UNREACHABLE = "unreachable"  # nothing was sent


class ExchangeStopped(Exception):
    """The exchange is over before the response's own end."""

    def __init__(self, end: ExchangeEnd, detail: str) -> None:
        super().__init__(detail)
        self.end = end
        self.detail = detail


class Receiver:
    """Receives one response. ``reads``, the time in ns and the bytes of each receive, grows while it comes.

    ``sent_ns`` and ``ended_ns`` are the time of construction until the request is sent and the response has ended.
    """

    def __init__(self, limits: Limits, clock: Clock, cancelled: threading.Event) -> None:
        self.limits = limits
        self.reads: list[tuple[int, bytes]] = []
        self.sent = False
        self.sent_ns = self.ended_ns = clock.monotonic_ns()
        self.sent_unix_s = clock.unix_s()
        self._clock = clock
        self._cancelled = cancelled

    def give_up(self, error: Exception) -> tuple[ExchangeEnd, str]:
        """The end, and its detail, of an exchange in which a library raised ``error``."""
        self.ended_ns = self._clock.monotonic_ns()
        end = ExchangeEnd.BROKEN if self.sent else ExchangeEnd.UNREACHABLE
        return end, f"{type(error).__name__}: {error}".rstrip(": ")

    def exchange(self, connected: socket.socket, send: Callable[[], None]) -> None:
        """Has ``send`` write the request, and receives until the peer closes, or is silent after the response's end.

        Raises ExchangeStopped for every other end, OSError where the connection breaks, and what ``send`` raises.
        """
        detector = EndDetector(self.reads)
        keeper = _LimitKeeper(self, connected, detector, self._clock, self._cancelled)
        # Before the sending, since to start a thread takes a tenth of a millisecond. Its limits count from the sending.
        keeper.start()
        broken: ConnectionError | None = None
        try:
            try:
                send()
            finally:
                # After the send: the kernel has the whole request then, and the server cannot have begun before.
                # ``sent`` comes last, since the keeper reads ``sent_ns`` as soon as it is set.
                self.sent_ns, self.sent_unix_s = self._clock.monotonic_ns(), self._clock.unix_s()
                self.sent = True
            connected.settimeout(None)  # httpcore's time-out for connecting would make Python poll before each recv
            self._receive_all(connected)
        except ConnectionError as error:
            broken = error
        finally:
            self.ended_ns = self._clock.monotonic_ns()
            keeper.end()  # joins it: from here on the verdict cannot change
        # The keeper's shutdown looks like a close of the peer to ``recv``. So its verdict is asked for first.
        if keeper.verdict is not None:
            raise keeper.verdict
        # A server that resets the connection after the response's own end has sent everything.
        if not detector.reached(closed=broken is None):
            raise broken or ExchangeStopped(ExchangeEnd.BROKEN, detector.fault)
        if detector.is_framed:
            # Then the peer's close may come much later, or be the keeper's shutdown: it is no part of the response.
            self.ended_ns = self.reads[-1][0]

    def _receive_all(self, connected: socket.socket) -> None:
        """This loop is all that runs while tokens arrive: looked-up names, no branch, no allocation but the pair's."""
        receive, now, keep = connected.recv, self._clock.monotonic_ns, self.reads.append
        while data := receive(READ_BYTES):
            keep((now(), data))  # the clock first: nothing stands between the arrival and its time


class _LimitKeeper:
    """The thread that ends a receive: overdue, cancelled, too long, or complete on a connection that stays open.

    ``verdict``: why the exchange was stopped; None where it was not, or where its response was complete.
    """

    def __init__(
        self,
        receiver: Receiver,
        connected: socket.socket,
        detector: EndDetector,
        clock: Clock,
        cancelled: threading.Event,
    ) -> None:
        self.verdict: ExchangeStopped | None = None
        self._receiver = receiver
        self._socket = connected
        self._detector = detector
        self._now = clock.monotonic_ns
        self._cancelled = cancelled
        self._first_token_in_time = False
        self._seen_reads = self._seen_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="limit-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._pause_s()):
            fresh = self._receiver.reads[self._seen_reads :]
            self._seen_reads += len(fresh)
            self._seen_bytes += sum(len(data) for _, data in fresh)
            self.verdict = self._judge()
            # The bytes are parsed after a silence only: never while tokens come faster than the looks.
            complete = not fresh and self._seen_reads > 0 and self._detector.reached()
            if self.verdict is not None or complete:
                # A shutdown wakes the receiving thread with b"". A close would not: its ``recv`` would go on waiting,
                # on a descriptor that the kernel may give to another connection meanwhile.
                with suppress(OSError):  # the peer closed in the same moment
                    # SSLSocket.shutdown would take the TLS state from under the receiving thread.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                return

    def _pause_s(self) -> float:
        """Until the next look: LOOK_S, or less where a limit is reached before."""
        if not self._receiver.sent:
            return LOOK_S
        limits = self._receiver.limits
        next_s = limits.trial_s if self._first_token_in_time else min(limits.first_token_s, limits.trial_s)
        return min(LOOK_S, max(next_s - self._since_sent_s(self._now()), 0.001))

    def _since_sent_s(self, at_ns: int) -> float:
        return (at_ns - self._receiver.sent_ns) / 1e9

    def _judge(self) -> ExchangeStopped | None:
        """Why the exchange must stop now; None where it may go on."""
        limits = self._receiver.limits
        if self._cancelled.is_set():
            return ExchangeStopped(ExchangeEnd.CANCELLED, "cancelled")
        if self._seen_bytes > RESPONSE_BYTES_MAX:
            detail = f"the response is longer than {format_size(RESPONSE_BYTES_MAX)}"
            return ExchangeStopped(ExchangeEnd.BROKEN, detail)
        if self._detector.fault:
            return ExchangeStopped(ExchangeEnd.BROKEN, self._detector.fault)
        elapsed_s = self._since_sent_s(self._now()) if self._receiver.sent else 0.0
        if elapsed_s >= limits.trial_s:
            detail = f"not done within {limits.trial_s:g} s of sending the request"
            return ExchangeStopped(ExchangeEnd.TRIAL_TIMEOUT, detail)
        if elapsed_s >= limits.first_token_s and not self._first_token_in_time:
            # Judged by the arrival and not by this look: a token in the last 0.1 s was in time. The bytes are parsed
            # once in a trial for this, so that pings and role events are not taken for a token.
            first_ns = first_event_ns(tuple(self._receiver.reads))
            if first_ns is None or self._since_sent_s(first_ns) > limits.first_token_s:
                late = f"no token within {limits.first_token_s:g} s of sending the request"
                return ExchangeStopped(ExchangeEnd.FIRST_TOKEN_TIMEOUT, late)
            self._first_token_in_time = True
        return None
