"""The connection under httpx, tapped: every receive is stamped and kept before anyone looks at it.

httpx builds the request and httpcore sends it, over a network backend of ours. When httpcore asks for the first bytes
of the response, the whole response is read here, in a loop that does nothing but receive and take the time; only then
does httpcore get to see its head. So no library works between a token's arrival and its time stamp.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpcore
import httpx

from agents.clock import Clock
from agents.engines.events import (
    Framing,
    Head,
    Replay,
    ends_in_last_chunk,
    first_event_ns,
    head_of,
    may_be_last_chunk,
)
from agents.engines.http_stream import Ended, Limits

TICK_S = 0.1  # how often a silent connection looks at the clock, and whether it was cancelled
CLOSING_S = 0.005  # how long after what may be the last chunk the server's close is waited for before it is proved
READ_BYTES = 65_536
RESPONSE_BYTES_MAX = 1 << 29


class Stopped(Exception):
    """The exchange is over before its end."""

    def __init__(self, ended: Ended, detail: str) -> None:
        super().__init__(detail)
        self.ended = ended
        self.detail = detail


class Line:
    """One connection's receives, stamped, within its limits."""

    def __init__(self, limits: Limits, clock: Clock, cancelled: threading.Event) -> None:
        self.limits = limits
        self.reads: list[tuple[int, bytes]] = []
        self._now = clock.monotonic_ns
        self._unix_s = clock.unix_s
        self._is_cancelled = cancelled.is_set
        self.sent = False
        self.sent_ns = self.ended_ns = self._now()
        self.sent_unix_s = self._unix_s()
        self._deadline_ns = self._first_ns = self._trial_ns = 0
        self._total_bytes = 0
        self._socket: Any = None
        self._tick_s = TICK_S

    def mark_sent(self) -> None:
        """Called after every write: the last one counts."""
        self.sent_ns = self._now()
        self.sent_unix_s = self._unix_s()
        self.sent = True

    def read_response(self, connected: Any) -> None:
        """Receives from a socket until the response has ended by its own framing.

        Raises Stopped for every other end, and OSError where the connection breaks.
        """
        self._socket = connected
        self._socket.settimeout(TICK_S)
        self._first_ns = self.sent_ns + int(self.limits.first_token_s * 1e9)
        self._trial_ns = self.sent_ns + int(self.limits.trial_s * 1e9)
        self._deadline_ns = min(self._first_ns, self._trial_ns)
        head = self._read_head()
        if head.framing is Framing.CHUNKED:
            self._read_to_last_chunk(head.head_bytes)
        elif head.framing is Framing.LENGTH:
            while self._total_bytes < head.head_bytes + head.body_bytes:
                if not self._receive():
                    raise Stopped(Ended.BROKEN, "the connection closed before the end of the response")
        else:
            while self._receive():
                pass

    def give_up(self, error: Exception) -> tuple[Ended, str]:
        """What a foreign error means."""
        self.ended_ns = self._now()
        return (Ended.BROKEN if self.sent else Ended.UNREACHABLE), f"{type(error).__name__}: {error}".rstrip(": ")

    def _read_head(self) -> Head:
        start = b""
        while (head := head_of(start)) is None:
            data = self._receive()
            if not data:
                raise Stopped(Ended.BROKEN, "the engine closed the connection without an answer")
            start += data
        return head

    def _read_to_last_chunk(self, head_bytes: int) -> None:
        """Some servers close, some keep the connection open: then the end is proved from the bytes."""
        replay, replayed = Replay(), 0
        while True:
            data: bytes | None
            if self._total_bytes > head_bytes and may_be_last_chunk(self.reads):
                try:
                    data = self._receive_within(CLOSING_S)
                except ConnectionError:  # a server that resets after its last chunk has said all
                    data = b""
                if data == b"" and ends_in_last_chunk(self.reads):
                    break
            else:
                data = self._receive()
            if data:
                continue
            for _, piece in self.reads[replayed:]:
                replay.feed(piece)
            replayed = len(self.reads)
            if replay.complete:
                break
            if data == b"" or replay.fault:
                raise Stopped(Ended.BROKEN, replay.fault or "the connection closed in the middle of the response")
            if not self._receive():
                raise Stopped(Ended.BROKEN, "the connection closed in the middle of the response")
        self.ended_ns = self.reads[-1][0]

    def _receive(self) -> bytes:
        """The next bytes; b"" when the peer has closed."""
        while True:
            try:
                data = self._socket.recv(READ_BYTES)
            except TimeoutError:
                self._check(self._now())
            else:
                return self._keep(self._now(), data)

    def _receive_within(self, seconds: float) -> bytes | None:
        """As ``_receive``, but None after some silence."""
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(READ_BYTES)
        except TimeoutError:
            return None
        else:
            return self._keep(self._now(), data)
        finally:
            self._socket.settimeout(self._tick_s)

    def _keep(self, now: int, data: bytes) -> bytes:
        self.ended_ns = now
        if data:
            self.reads.append((now, data))
            self._total_bytes += len(data)
        if now >= self._deadline_ns or self._total_bytes > RESPONSE_BYTES_MAX or self._is_cancelled():
            self._check(now)
        return data

    def _check(self, now: int) -> None:
        self.ended_ns = now
        if self._is_cancelled():
            raise Stopped(Ended.CANCELLED, "cancelled")
        if self._total_bytes > RESPONSE_BYTES_MAX:
            raise Stopped(Ended.BROKEN, f"the response is longer than {RESPONSE_BYTES_MAX >> 20} MiB")
        if now >= self._trial_ns:
            raise Stopped(Ended.TRIAL_TIMEOUT, f"not done within {self.limits.trial_s:g} s of sending the request")
        if now >= self._deadline_ns:
            first_ns = first_event_ns(self.reads)
            if first_ns is None or first_ns > self._first_ns:
                raise Stopped(Ended.FIRST_TOKEN_TIMEOUT, f"no token within {self.limits.first_token_s:g} s of sending")
            self._deadline_ns = self._trial_ns
        tick_s = min(TICK_S, max((self._deadline_ns - now) / 1e9, 0.001))
        if tick_s != self._tick_s:
            self._tick_s = tick_s
            self._socket.settimeout(tick_s)


def post(
    line: Line, url: str, body: bytes, headers: Mapping[str, str], tls: ssl.SSLContext | None
) -> tuple[Ended, str]:
    """Sends one request and has ``line`` read its response. Raises nothing; the words say what went wrong."""
    try:
        sent_headers = httpx.Headers(dict(headers))
        sent_headers["Connection"] = "close"
        sent_headers["Accept-Encoding"] = "identity"
        with (
            httpx.Client(
                transport=_Transport(line, tls), timeout=httpx.Timeout(line.limits.connect_s), trust_env=False
            ) as client,
            client.stream("POST", url, content=body, headers=sent_headers),
        ):
            return Ended.COMPLETE, ""
    except Stopped as stop:
        return stop.ended, stop.detail
    except (httpx.HTTPError, httpx.InvalidURL, *_HTTPCORE_ERRORS, OSError, ValueError) as error:
        return line.give_up(error)


_HTTPCORE_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


class _Transport(httpx.BaseTransport):
    """httpx over httpcore, as httpx's own transport is, with the network backend below."""

    def __init__(self, line: Line, tls: ssl.SSLContext | None) -> None:
        self._pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=_Network(line))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_AlreadyRead(answer))

    def close(self) -> None:
        self._pool.close()


class _AlreadyRead(httpx.SyncByteStream):
    """The body has been received beneath httpcore: nothing is left to iterate."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        self._answer.close()


class _Network(httpcore.NetworkBackend):
    def __init__(self, line: Line) -> None:
        self._line = line

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = httpcore.SyncBackend().connect_tcp(host, port, timeout, local_address, socket_options)
        return _TappedStream(stream, self._line)


class _TappedStream(httpcore.NetworkStream):
    """httpcore's own stream, but for ``read``: the first one receives the whole response into the line."""

    def __init__(self, stream: httpcore.NetworkStream, line: Line) -> None:
        self._stream = stream
        self._line = line
        self._received: Iterator[tuple[int, bytes]] | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        if self._received is None:
            self._line.read_response(self._stream.get_extra_info("socket"))
            self._received = iter(self._line.reads)
        return next(self._received, (0, b""))[1]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._stream.write(buffer, timeout)
        finally:
            if buffer:  # httpcore ends a request with an empty write
                self._line.mark_sent()

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TappedStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._line)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
