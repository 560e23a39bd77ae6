"""The connection under httpx, tapped: every receive is stamped and kept before anyone looks at it.

The problem: httpx and httpcore parse a response as it comes, and their work on one token delays the stamp of the next.
Writing HTTP by hand would avoid that, and lose what they do well: addresses, TLS, proxies refused, headers checked. So
httpx builds the request and httpcore sends it, over a network backend of ours. When httpcore asks for the first bytes
of the response, the whole response is read here, in a loop that does nothing but receive and take the time; only then
does httpcore get to see its head. So no library works between a token's arrival and its time stamp.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import httpcore
import httpx

from agents.engines.stream.receive import ExchangeEnd, ExchangeStopped, Receiver


def post(
    receiver: Receiver, url: str, body: bytes, headers: Mapping[str, str], tls: ssl.SSLContext | None
) -> tuple[ExchangeEnd, str]:
    """Sends one request and has ``receiver`` read its response. How it ended, and why. Raises nothing."""
    try:
        sent_headers = httpx.Headers(dict(headers))
        sent_headers.setdefault("Content-Type", "application/json")
        # No connection is used twice, and the server's close is one sign of the response's end.
        sent_headers["Connection"] = "close"
        # A compressor holds tokens back until it has a block of them.
        sent_headers["Accept-Encoding"] = "identity"
        with (
            httpx.Client(
                transport=_Transport(receiver, tls), timeout=httpx.Timeout(receiver.limits.connect_s), trust_env=False
            ) as client,
            client.stream("POST", url, content=body, headers=sent_headers),
        ):
            return ExchangeEnd.COMPLETE, ""  # by now the receiver has the whole response
    except ExchangeStopped as stop:
        return stop.end, stop.detail
    except (httpx.HTTPError, httpx.InvalidURL, *_HTTPCORE_ERRORS, OSError, ValueError) as error:
        return receiver.give_up(error)


_HTTPCORE_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


class _Transport(httpx.BaseTransport):
    """httpx over httpcore, as httpx's own transport is, with the network backend below."""

    def __init__(self, receiver: Receiver, tls: ssl.SSLContext | None) -> None:
        self._pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=_Network(receiver))

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
    """The body has been received beneath httpcore: there is nothing to iterate."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        self._answer.close()


class _Network(httpcore.NetworkBackend):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = httpcore.SyncBackend().connect_tcp(host, port, timeout, local_address, socket_options)
        return _TappedStream(stream, self._receiver)


class _TappedStream(httpcore.NetworkStream):
    """httpcore's own stream, but that the request waits for the first ``read``.

    It hands the whole request to the kernel at once, and receives the whole response into the receiver.
    """

    def __init__(self, stream: httpcore.NetworkStream, receiver: Receiver) -> None:
        self._stream = stream
        self._receiver = receiver
        self._request: list[bytes] = []
        self._received: Iterator[tuple[int, bytes]] | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        if self._received is None:  # httpcore has written the request, and asks for the response's head
            # In one write: head and body in two would wake the server twice, and delay our own first receive.
            request = b"".join(self._request)

            def send() -> None:
                # A server that refuses a request may answer and close before it has read all of it.
                with suppress(httpcore.WriteError):
                    self._stream.write(request, self._receiver.limits.connect_s)

            # The socket itself, without httpcore's time-outs and wrappers: ``recv`` is called on it thousands of times.
            self._receiver.exchange(self._stream.get_extra_info("socket"), send)
            self._received = iter(self._receiver.reads)
        return next(self._received, (0, b""))[1]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._request.append(buffer)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TappedStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._receiver)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
