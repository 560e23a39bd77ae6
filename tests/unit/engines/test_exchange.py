from __future__ import annotations

import gc
import socket
import ssl
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.clock import SystemClock
from agents.engines.stream.chunks import llama_completion_chunks, stream_events
from agents.engines.stream.exchange import Exchange, ExchangeEnd, Limits, LiveCount, exchange
from agents.engines.stream.sse import read_response
from tests.fakes.scripted_server import (
    LAST_CHUNK,
    End,
    Script,
    ScriptedServer,
    Send,
    Stream,
    at_once,
    chunked,
    head,
    response,
    token_event,
)

PATIENT = Limits(connect_s=5, first_token_s=30, trial_s=60)
EVENTS = tuple(token_event(index) for index in range(3))


def play(script: Script, limits: Limits = PATIENT, cancelled: threading.Event | None = None) -> Exchange:
    with ScriptedServer(lambda _: script) as server:
        return exchange(server.url, b"{}", {}, limits, cancelled=cancelled)


def received(done: Exchange) -> bytes:
    return b"".join(data for _, data in done.reads)


def test_a_stream_with_its_times() -> None:
    script = Stream(tokens=20, interval_s=0.0005, first_s=0.001).script()
    with ScriptedServer(lambda _: script) as server:
        done = exchange(server.url, b"{}", {}, PATIENT, SystemClock())
    assert (done.end, done.detail) == (ExchangeEnd.COMPLETE, "")
    assert received(done) == b"".join(send.data for send in script.sends)
    times = [done.sent_ns, *(at_ns for at_ns, _ in done.reads)]
    assert times == sorted(times)
    assert done.ended_ns == times[-1]
    (truth,) = server.truths
    assert times[1] > truth.send_ns[0]
    chunks = llama_completion_chunks(stream_events(read_response(done.reads)))
    assert [chunk.text for chunk in chunks if chunk.text] == [f" w{index}" for index in range(20)]
    # No token is stamped before the server had begun to send it.
    for chunk, sent_ns in zip(chunks, truth.send_ns[1:], strict=False):
        assert chunk.at_ns > sent_ns


def test_the_request_as_the_server_gets_it() -> None:
    with ScriptedServer(lambda _: at_once(*response([b"{}"]))) as server:
        exchange(f"{server.url}/v1/x?y=1", b'{"a": 1}', {"connection": "keep-alive", "X-Key": "k"}, PATIENT)
    start, _, body = server.truths[0].request.partition(b"\r\n\r\n")
    lines = start.decode().lower().split("\r\n")
    assert lines[0] == "post /v1/x?y=1 http/1.1"
    assert body == b'{"a": 1}'
    assert {"connection: close", "accept-encoding: identity", "x-key: k", "content-length: 8"} <= set(lines)
    assert sum(line.startswith("connection:") for line in lines) == 1


def test_nothing_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert play(at_once(*response(EVENTS))).end is ExchangeEnd.COMPLETE


TRAILERS = b"0\r\nServer-Timing: total;dur=5\r\n\r\n"
CRLF_EVENTS = (chunked(b"data: a\r\n\r\n"), chunked(b"data: b\r\n"), chunked(b"\r\n"))


@pytest.mark.parametrize("end", [End.CLOSE, End.HANG])
@pytest.mark.parametrize(
    "pieces",
    [
        response(EVENTS),
        response(EVENTS, "length"),
        (b"".join(response(EVENTS)),),  # all in one
        (b"".join(response(EVENTS, "length")),),
        (*response(EVENTS)[:-1], b"0\r\n", b"\r\n"),  # as llama-server sends it
        (*response(EVENTS)[:-1], b"0", b"\r", b"\n\r", b"\n"),
        (*response(EVENTS)[:-1], TRAILERS),
        (head(), *CRLF_EVENTS, LAST_CHUNK),
        (head(), LAST_CHUNK),
        response([b'{"error": "no"}'], "length", status="400 Bad Request", content_type="application/json"),
        response([b"busy"], status="503 Service Unavailable", content_type="text/plain"),
        (head("204 No Content", framing=""),),
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",),
        (b"HTTP/1.1 100 Continue\r\n\r\n", *response(EVENTS)),
    ],
)
def test_a_response_ends_where_it_says_so(pieces: tuple[bytes, ...], end: End) -> None:
    """Also where the server keeps the connection open, against what was asked."""
    done = play(at_once(*pieces, end=end))
    assert (done.end, done.detail) == (ExchangeEnd.COMPLETE, "")
    assert received(done) == b"".join(pieces)
    assert read_response(done.reads).complete
    assert done.ended_ns == done.reads[-1][0]


def test_a_response_may_end_with_the_connection() -> None:
    done = play(at_once(*response(EVENTS, "close")))
    assert done.end is ExchangeEnd.COMPLETE
    assert len(read_response(done.reads).events) == 3
    assert done.ended_ns >= done.reads[-1][0]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (at_once(*response(EVENTS)[:-1]), "before the end"),
        (at_once(*response(EVENTS)[:-1], b"1f\r\ndata: {"), "before the end"),
        (at_once(head(), chunked(EVENTS[0]), b"0\r\n"), "before the end"),
        (at_once(*response(EVENTS, "length")[:-1]), "before the end"),
        (at_once(*response(EVENTS)[:-1], end=End.RESET), "reset"),
        (at_once(head()[:20]), "before an answer"),
        (at_once(), "before an answer"),
        (at_once(b"220 smtp ready\r\n\r\n"), "status line"),
        (at_once(head(), b"nonsense\r\n\r\n", end=End.HANG), "chunk"),
    ],
)
def test_a_broken_response_keeps_what_came(script: Script, words: str) -> None:
    done = play(script)
    assert done.end is ExchangeEnd.BROKEN
    assert words in done.detail.lower() or words in done.detail
    if script.end is not End.RESET:  # a reset throws away what the client has not read yet
        assert received(done) == b"".join(send.data for send in script.sends)


def test_a_reset_after_the_last_chunk_is_no_fault() -> None:
    script = Script((*at_once(*response(EVENTS)).sends, Send(0.05, b"")), End.RESET)
    assert play(script).end is ExchangeEnd.COMPLETE


def test_silence() -> None:
    done = play(at_once(end=End.HANG), Limits(5, first_token_s=0.02, trial_s=60))
    assert (done.end, done.detail) == (ExchangeEnd.FIRST_TOKEN_TIMEOUT, "no token within 0.02 s of sending the request")
    assert done.ended_ns - done.sent_ns >= 20_000_000


def test_pings_are_no_first_token() -> None:
    pings = [Send(index * 0.005, chunked(b": ping\n\n")) for index in range(100)]
    done = play(Script((Send(0, head()), *pings), End.HANG), Limits(5, first_token_s=0.15, trial_s=60))
    assert done.end is ExchangeEnd.FIRST_TOKEN_TIMEOUT
    assert b": ping" in received(done)


class JumpsAtReading(SystemClock):
    """A clock that goes a minute forward before the exchange's own thread reads it for the nth time."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self._reader = threading.current_thread()

    def monotonic_ns(self) -> int:
        self._left -= threading.current_thread() is self._reader
        return time.perf_counter_ns() + (60_000_000_000 if self._left <= 0 else 0)


@pytest.mark.parametrize(("nth", "ended"), [(3, ExchangeEnd.FIRST_TOKEN_TIMEOUT), (4, ExchangeEnd.COMPLETE)])
def test_the_first_token_counts_by_its_arrival_and_later_ones_take_their_time(nth: int, ended: ExchangeEnd) -> None:
    """The clock is read at the start, after the sending, and after each receive: the third is the first token's."""
    script = Script((Send(0, head() + chunked(EVENTS[0])), Send(0.3, chunked(EVENTS[1])), Send(0.3, LAST_CHUNK)))
    with ScriptedServer(lambda _: script) as server:
        done = exchange(server.url, b"{}", {}, Limits(5, first_token_s=30, trial_s=600), JumpsAtReading(nth))
    assert done.end is ended


@pytest.mark.parametrize("interval_s", [0.001, 1.0])
def test_the_limit_for_the_whole(interval_s: float) -> None:
    tokens = [Send(index * interval_s, chunked(EVENTS[0])) for index in range(1_000)]
    done = play(Script((Send(0, head()), *tokens)), Limits(5, first_token_s=30, trial_s=0.2))
    assert (done.end, done.detail) == (ExchangeEnd.TRIAL_TIMEOUT, "not done within 0.2 s of sending the request")
    assert EVENTS[0] in received(done)


class CancelsAtReading(SystemClock):
    """A clock that sets ``cancelled`` when it is read for the nth time, as another thread might just then."""

    def __init__(self, nth: int) -> None:
        self.cancelled = threading.Event()
        self._left = nth

    def monotonic_ns(self) -> int:
        self._left -= 1
        if self._left == 0:
            self.cancelled.set()
        return time.perf_counter_ns()


@pytest.mark.parametrize("nth", [1, 20])
def test_cancelled_at_once_or_while_tokens_come(nth: int) -> None:
    tokens = [Send(index * 0.005, chunked(EVENTS[0])) for index in range(10_000)]
    clock = CancelsAtReading(nth)
    with ScriptedServer(lambda _: Script((Send(0, head()), *tokens), End.HANG)) as server:
        done = exchange(server.url, b"{}", {}, PATIENT, clock, cancelled=clock.cancelled)
    assert done.end is ExchangeEnd.CANCELLED
    assert done.ended_ns >= done.reads[-1][0]


def test_cancelled_in_silence() -> None:
    cancelled = threading.Event()
    cancelled.set()
    assert play(at_once(end=End.HANG), cancelled=cancelled).end is ExchangeEnd.CANCELLED


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://", "ftp://x/", "http://[", "/completion"])
def test_unreachable(url: str) -> None:
    done = exchange(url.format(port=free_port()), b"{}", {}, PATIENT)
    assert done.end is ExchangeEnd.UNREACHABLE
    assert done.detail
    assert done.reads == ()


def test_a_header_that_cannot_be_sent_is_no_traceback() -> None:
    with ScriptedServer(lambda _: at_once(*response(EVENTS))) as server:
        assert exchange(server.url, b"{}", {"X-Key": "a\r\nb: c"}, PATIENT).end is ExchangeEnd.UNREACHABLE
        assert exchange(server.url, b"{}", {"X-Key": "\ud800"}, PATIENT).end is ExchangeEnd.UNREACHABLE


def anonymous_tls(protocol: int) -> ssl.SSLContext:
    """TLS without certificates, so that the tests hold no private key."""
    context = ssl.SSLContext(protocol)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    if protocol == ssl.PROTOCOL_TLS_CLIENT:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return context


@pytest.mark.parametrize("end", [End.CLOSE, End.HANG])
def test_tls(end: End) -> None:
    script = Script(tuple(Send(index * 0.001, piece) for index, piece in enumerate(response(EVENTS))), end)
    with ScriptedServer(lambda _: script, tls=anonymous_tls(ssl.PROTOCOL_TLS_SERVER)) as server:
        done = exchange(server.url, b"{}", {}, PATIENT, tls=anonymous_tls(ssl.PROTOCOL_TLS_CLIENT))
    assert (done.end, done.detail) == (ExchangeEnd.COMPLETE, "")
    assert len(read_response(done.reads).events) == 3


def test_tls_in_silence_is_timed_out() -> None:
    with ScriptedServer(lambda _: at_once(end=End.HANG), tls=anonymous_tls(ssl.PROTOCOL_TLS_SERVER)) as server:
        done = exchange(server.url, b"", {}, Limits(5, 0.02, 60), tls=anonymous_tls(ssl.PROTOCOL_TLS_CLIENT))
    assert done.end is ExchangeEnd.FIRST_TOKEN_TIMEOUT


def test_a_live_count_shows_the_reads() -> None:
    live = LiveCount()
    assert (live.reads, live.first_ns, live.last_ns) == (0, 0, 0)
    with ScriptedServer(lambda _: at_once(*response(EVENTS))) as server:
        done = exchange(server.url, b"{}", {}, PATIENT, live=live)
    assert (live.reads, live.first_ns, live.last_ns) == (
        len(done.reads),
        done.reads[0][0],
        done.reads[-1][0],
    )


def test_the_interpreter_is_quiet_meanwhile_and_as_before_afterwards() -> None:
    class Looks(SystemClock):
        seen: tuple[bool, float] = (True, 0.0)

        def monotonic_ns(self) -> int:
            self.seen = gc.isenabled(), sys.getswitchinterval()
            return time.perf_counter_ns()

    before = gc.isenabled(), sys.getswitchinterval()
    clock = Looks()
    with ScriptedServer(lambda _: at_once(*response(EVENTS))) as server:
        exchange(server.url, b"{}", {}, PATIENT, clock)
    assert clock.seen[0] is False
    assert clock.seen[1] == pytest.approx(0.0005)
    assert (gc.isenabled(), sys.getswitchinterval()) == before


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.binary(min_size=1, max_size=30), max_size=5), with_head=st.booleans())
def test_random_bytes_never_raise(pieces: list[bytes], with_head: bool) -> None:
    sends = ([head()] if with_head else []) + pieces
    done = play(at_once(*sends))
    assert done.end in (ExchangeEnd.COMPLETE, ExchangeEnd.BROKEN)
    assert b"".join(sends).startswith(received(done))
