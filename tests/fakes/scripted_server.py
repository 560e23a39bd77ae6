"""An HTTP server that plays a script, byte for byte and on time, and logs the truth of what it did and when.

In a test: ``with ScriptedServer(lambda target: script) as server``, then ``server.url`` and ``server.truths``. As a
child process (``python tests/fakes/scripted_server.py``), so that its interpreter does not disturb the client's: the
first line of its output is the URL, each later one the truth of a request; the request's query chooses the script
(``Stream``).
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes handed to the kernel in one send, ``at_s`` seconds after the request had arrived."""

    at_s: float
    data: bytes


class End(StrEnum):
    """What the server does after the last send."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"  # keeps the connection open until the client closes it


@dataclass(frozen=True, slots=True)
class Script:
    sends: tuple[Send, ...]
    end: End = End.CLOSE


@dataclass(slots=True)
class Truth:
    """One request. ns of CLOCK_MONOTONIC: when its last byte was read, and just before each send."""

    request: bytes
    arrived_ns: int
    send_ns: list[int] = field(default_factory=list)
    sent_bytes: list[int] = field(default_factory=list)  # after each send, from the beginning of the response


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def head(
    status: str = "200 OK", content_type: str = "text/event-stream", framing: str = "chunked", length: int = 0
) -> bytes:
    """A response's head; ``framing``: chunked, length, or close (told by nothing but the close)."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}"]
    lines += {"chunked": ["Transfer-Encoding: chunked"], "length": [f"Content-Length: {length}"]}.get(framing, [])
    return "\r\n".join([*lines, "", ""]).encode()


def response(body: Sequence[bytes], framing: str = "chunked", **head_fields: str) -> tuple[bytes, ...]:
    """Head, then each piece of the body in the framing, then its end."""
    start = head(framing=framing, length=sum(map(len, body)), **head_fields)
    if framing == "chunked":
        return (start, *(chunked(piece) for piece in body), LAST_CHUNK)
    return (start, *body)


def at_once(*pieces: bytes, end: End = End.CLOSE) -> Script:
    """Each piece in a send of its own, without waiting."""
    return Script(tuple(Send(0.0, piece) for piece in pieces), end)


def token_event(index: int) -> bytes:
    fields = {"index": 0, "content": f" w{index}", "tokens": [index], "stop": False, "tokens_predicted": index + 1}
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def stop_event(tokens: int) -> bytes:
    fields = {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": "limit", "truncated": False}
    timings = {"cache_n": 0, "prompt_n": 8, "prompt_ms": 10.0, "predicted_n": tokens}
    whole = {**fields, "tokens_predicted": tokens, "tokens_evaluated": 8, "timings": timings}
    return b"data: " + json.dumps(whole, separators=(",", ":")).encode() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream in the shape of llama-server's: head with the first token, one event a token, a stop event."""

    tokens: int = 100
    interval_s: float = 0.001
    first_s: float = 0.01

    @staticmethod
    def of(target: str) -> Stream:
        """From a query such as ``/?tokens=1000&interval_s=0.001&first_s=0.01``; what it lacks is as above."""
        given = dict(parse_qsl(urlsplit(target).query))
        base = Stream()
        return Stream(
            tokens=int(given.get("tokens", base.tokens)),
            interval_s=float(given.get("interval_s", base.interval_s)),
            first_s=float(given.get("first_s", base.first_s)),
        )

    @cache  # noqa: B019 (made before the first measured request, so that no request waits for it)
    def script(self) -> Script:
        """Sends: the head, each token, the stop event, the last chunk."""
        tokens = [
            Send(self.first_s + index * self.interval_s, chunked(token_event(index))) for index in range(self.tokens)
        ]
        last_s = tokens[-1].at_s
        end = (Send(last_s, chunked(stop_event(self.tokens))), Send(last_s, LAST_CHUNK))
        return Script((Send(self.first_s, head()), *tokens, *end))


class ScriptedServer:
    """Plays to one connection at a time, on a free port of the loopback.

    ``script_for`` chooses by the request's target; ``tell`` hears each truth when its script is played. Before each
    send the server sleeps, but for the last ``spin_s``, which it spins.
    """

    def __init__(
        self,
        script_for: Callable[[str], Script],
        *,
        tell: Callable[[Truth], None] | None = None,
        spin_s: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.truths: list[Truth] = []
        self._script_for = script_for
        self._tell = tell
        self._spin_ns = int(spin_s * 1e9)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ending = threading.Event()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="scripted-server", daemon=True)

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"{'https' if self._tls else 'http'}://{host}:{port}"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        connection = self._connection
        if connection is not None:
            with suppress(OSError):  # it may have ended by itself
                connection.shutdown(socket.SHUT_RDWR)
        with socket.socket() as waker:  # accept() does not notice that its socket is closed
            waker.connect_ex(self._listener.getsockname())
        self._thread.join()
        self._listener.close()

    def wait(self) -> None:
        """Until the server ends."""
        self._thread.join()

    def _serve(self) -> None:
        while not self._ending.is_set():
            connection, _ = self._listener.accept()
            with suppress(OSError):  # the client went away: the truth holds what was sent until then
                if self._tls:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                self._connection = connection
                self._play(connection)
            self._connection = None
            connection.close()

    def _play(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = read_request(connection)
        arrived_ns = time.perf_counter_ns()
        if not request:
            return
        truth = Truth(request, arrived_ns)
        self.truths.append(truth)
        script = self._script_for(request.split(b" ", 2)[1].decode())
        total = 0
        for send in script.sends:
            self._wait_until(arrived_ns + int(send.at_s * 1e9))
            truth.send_ns.append(time.perf_counter_ns())
            connection.sendall(send.data)
            total += len(send.data)
            truth.sent_bytes.append(total)
        if script.end is End.RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif script.end is End.HANG:
            while connection.recv(4096):
                pass
        if self._tell is not None:
            connection.close()
            self._tell(truth)

    def _wait_until(self, at_ns: int) -> None:
        while (left_ns := at_ns - time.perf_counter_ns()) > 0:
            if left_ns > self._spin_ns and self._ending.wait((left_ns - self._spin_ns) / 1e9):
                raise ConnectionAbortedError("the server is ending")


def read_request(connection: socket.socket) -> bytes:
    """One whole request, head and body; what came until then where the client closes before."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        if not piece:
            return data
        data += piece
    start, _, body = data.partition(b"\r\n\r\n")
    sizes = [line.split(b":")[1] for line in start.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = (int(sizes[0]) if sizes else 0) - len(body)
    while missing > 0:
        piece = connection.recv(65_536)
        if not piece:
            break
        data += piece
        missing -= len(piece)
    return data


def main() -> None:
    """Serves until it is killed."""

    def tell(truth: Truth) -> None:
        time.sleep(0.05)  # the client may be about to wake up on this core: let it read the last bytes first
        print_line(json.dumps({**asdict(truth), "request": len(truth.request)}))

    def print_line(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    with ScriptedServer(lambda target: Stream.of(target).script(), tell=tell, spin_s=0.0003) as server:
        print_line(server.url)
        server.wait()


if __name__ == "__main__":
    main()
