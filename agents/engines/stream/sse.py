"""Received bytes -> HTTP response -> events, each with the time of the read that completed it. PURE

Everything here runs after a stream has ended: the reads are replayed into h11, the body is put together, and each
event is looked up by the place of its last byte. So the events cannot depend on where the network cut the bytes.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import h11

from agents.contract.report import Cause
from agents.errors import RequestFailed

Reads = Sequence[tuple[int, bytes]]
"""Each receive: clock in ns just after it returned, and its bytes. Never empty bytes."""

_HEAD_BYTES_MAX = 1 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r")
_FIELD_FIRST = re.compile(rb"\s*(data|event|id|retry)?:")
_JSON_LINES = re.compile(rb'\s*\{"[^\n]*\}\s*\n\s*\{"')  # one object, and the next begins
_LINE_TYPES = ("ndjson", "jsonl", "json-lines", "jsonlines")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event (or one line of NDJSON). ``read`` is the index of the read that brought its last byte."""

    at_ns: int
    read: int
    data: str
    kind: str = "message"


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response. ``body`` is what came, de-chunked; ``complete``: it came to its end by its own framing.

    ``fault`` says what broke the framing. ``events`` is empty where the body is not a stream of events.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    events: tuple[Event, ...]
    body: bytes
    complete: bool
    fault: str = ""

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    def header(self, name: str) -> str:
        """Value of a header, "" where there is none; ``name`` in lower case."""
        return next((value for key, value in self.headers if key == name), "")


class Replay:
    """The client's half of HTTP/1.1, fed with what was received: ``feed`` gives back the body bytes in each piece."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)
        self._h11.send(h11.Request(method="POST", target="/", headers=[("Host", "engine")]))
        self._h11.send(h11.EndOfMessage())
        self.status = 0
        self.headers: tuple[tuple[str, str], ...] = ()
        self.complete = False
        self.fault = ""

    def feed(self, data: bytes) -> bytes:
        """Body bytes that ``data`` brought. ``b""``: the peer closed. After the end, or a fault: nothing."""
        if self.complete or self.fault:
            return b""
        pieces: list[bytes] = []
        try:
            self._h11.receive_data(data)
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.Data):
                    pieces.append(bytes(event.data))
                elif isinstance(event, h11.Response):
                    self.status = event.status_code
                    self.headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in event.headers)
                elif isinstance(event, h11.EndOfMessage):
                    self.complete = True
                    break
                elif not isinstance(event, h11.InformationalResponse):
                    break  # NEED_DATA, PAUSED, ConnectionClosed
        except h11.RemoteProtocolError as error:
            self.fault = str(error)
        return b"".join(pieces)


class EndDetector:
    """Finds whether the response in a list of reads, which may grow, has come to its end.

    ``is_framed``: the response states where it ends (a length, a last chunk); else the close of the connection is its
    end. ``fault``: why it has no end.
    """

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._checked_reads = -1  # how many there were at the last call of ``reached``
        self._replayed = 0  # how many of them went through h11
        self._replay: Replay | None = None  # made when it is needed: that takes longer than some tokens do
        self.is_framed = True
        self.fault = ""

    def reached(self, *, closed: bool = False) -> bool:
        """``closed``: the peer has closed the connection, or the end was reached before.

        Called by the limit keeper after a silence, while the receiver waits in ``recv``, and by the receiver at the
        end, when the keeper has been joined: never by both at once.
        """
        if self._checked_reads == len(self._reads) and not closed:
            return False
        self._checked_reads = len(self._reads)
        replay = self._replay = self._replay or Replay()
        # The head alone at first: its fields decide how the body ends.
        while not replay.status and not replay.fault and self._feed_next(replay):
            pass
        coding = _header(replay.headers, "transfer-encoding")
        if "chunked" in coding:
            # The last seven bytes decide most cases, without a replay of a body that may be megabytes long.
            if closed and ends_in_last_chunk(self._reads):
                return True
            if not closed and not may_be_last_chunk(self._reads):
                return False
        elif replay.status and not _header(replay.headers, "content-length") and replay.status not in (204, 304):
            self.is_framed = False
            return closed
        while self._feed_next(replay):  # the whole body, piece by piece: only here, when it may have ended
            pass
        self.fault = replay.fault
        if closed and not replay.complete and not self.fault:
            self.fault = "the connection closed before " + ("the end of the response" if replay.status else "an answer")
        return replay.complete

    def _feed_next(self, replay: Replay) -> bool:
        if self._replayed == len(self._reads):
            return False
        replay.feed(self._reads[self._replayed][1])
        self._replayed += 1
        return True


def may_be_last_chunk(reads: Reads) -> bool:
    """Could a chunked body be at its end? Never false at the end; may be true elsewhere."""
    # The last chunk is "0 CRLF", trailers, CRLF. Three line ends in a row are an event that ends its lines with CRLF.
    tail = _tail(reads)
    return tail.endswith(b"\r\n\r\n") and not tail.endswith(b"\r\n\r\n\r\n")


def ends_in_last_chunk(reads: Reads) -> bool:
    """Is a chunked body, whose peer has closed, at its end? True only for a last chunk without trailers.

    A chunk of data could end with the same seven bytes; a stream of events, whose lines begin with a field, does not.
    """
    return _tail(reads) == b"\r\n0\r\n\r\n"


def _tail(reads: Reads) -> bytes:
    tail = reads[-1][1][-7:]
    return tail if len(tail) == 7 else b"".join(data for _, data in reads[-7:])[-7:]


def first_event_ns(reads: Reads) -> int | None:
    """When the first event with content had arrived, ns (of a body that is no stream: its first byte). None: not yet.

    Comments, such as the pings that some servers send while they compute a prompt, do not count; nor does an event
    that only names a role, or reports progress.
    """
    # The whole body so far is parsed again for each read: at most once in a trial, and mostly of a few reads.
    replay, body, checked = Replay(), b"", 0
    for at_ns, data in reads:
        body += replay.feed(data)
        content_type = _header(replay.headers, "content-type")
        events = [event for _, _, event in _decode(body, content_type, False)] if body else []
        if any(_has_content(event) for event in events[checked:]):
            return at_ns
        checked = len(events)
        if body and _framing(content_type, body) is None:
            return at_ns
    return None


_THOUGHTS = ("reasoning", "reasoning_content", "thinking")
_TEXTS = frozenset(("content", "text", "refusal", "response", "arguments", *_THOUGHTS))
_ENDS = frozenset(("finish_reason", "done", "stop", "error", "usage", "detail"))


def _has_content(data: str) -> bool:
    """Whether an event brings text, an end, an error, or what is not known here."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return True
    return not isinstance(found, dict) or found.get("type") == "chat.end" or _holds_content(found)


def _holds_content(found: object, depth: int = 0) -> bool:
    if isinstance(found, list):
        return any(_holds_content(each, depth) for each in found)
    if not isinstance(found, dict) or depth > 8:
        return False
    return any(
        bool(value)
        if name in _ENDS or (name in _TEXTS and isinstance(value, str))
        else _holds_content(value, depth + 1)
        for name, value in found.items()
    )


def read_response(reads: Reads, *, closed: bool = True) -> Response:
    """The response in ``reads``, from a server that closed the connection afterwards if ``closed``.

    Raises RequestFailed (STREAM_BROKEN) where there is no HTTP response head in the bytes, or the body is compressed.
    """
    replay = Replay()
    pieces = [replay.feed(data) for _, data in reads]
    if closed:
        replay.feed(b"")
    if not replay.status:
        raise RequestFailed(Cause.STREAM_BROKEN, _no_head(reads, replay.fault))
    coding = _header(replay.headers, "content-encoding")
    if coding not in ("", "identity"):
        raise RequestFailed(Cause.STREAM_BROKEN, f"the answer is compressed ({coding}) although identity was asked for")
    body = b"".join(pieces)
    # ends[k]: bytes of body after read k. So the read that completed an event is found by the place of its last byte.
    ends = tuple(accumulate(map(len, pieces)))
    events = []
    for last_byte, kind, data in _decode(body, _header(replay.headers, "content-type"), replay.complete):
        read = bisect_right(ends, last_byte)
        events.append(Event(reads[read][0], read, data, kind))
    return Response(replay.status, replay.headers, tuple(events), body, replay.complete, replay.fault)


def _header(headers: tuple[tuple[str, str], ...], name: str) -> str:
    return next((value.strip().lower() for key, value in headers if key == name), "")


def _no_head(reads: Reads, fault: str) -> str:
    start = b"".join(data for _, data in reads[:8])[:80]
    if not start:
        return "the connection closed before an answer"
    return f"the engine's answer is not HTTP: {fault or 'it ended inside its head'}: {start!r}"


def _framing(content_type: str, body: bytes) -> str | None:
    """ "sse", "lines", or None where a body is no stream. Where the content type is neither, the first field decides:
    servers send streams of events as text/plain, or without a type."""
    media_type = content_type.partition(";")[0].strip()
    if media_type == "text/event-stream":
        return "sse"
    if any(name in media_type for name in _LINE_TYPES):
        return "lines"
    if _FIELD_FIRST.match(body.removeprefix(_BOM)):
        return "sse"
    if media_type == "application/json" and _JSON_LINES.match(body):
        return "lines"
    return None


def _decode(body: bytes, content_type: str, complete: bool) -> Iterator[tuple[int, str, str]]:
    """(index of its last byte in ``body``, kind, data) of each event. At the end of a complete body an event counts
    without its blank line."""
    kind = _framing(content_type, body)
    if kind is None:
        return
    lines = _lines(body, complete)
    if kind == "sse":
        yield from _sse_events(lines, len(body) - 1 if complete else None)
        return
    for last_byte, line in lines:
        if line.strip():
            yield last_byte, "message", line.decode("utf-8", "replace").strip()


def _lines(body: bytes, complete: bool) -> Iterator[tuple[int, bytes]]:
    """(index of its last byte, line without its end) of each line. A line ends with CRLF, LF or CR."""
    start = len(_BOM) if body.startswith(_BOM) else 0
    for end in _LINE_END.finditer(body, start):
        yield end.start(), body[start : end.start()]
        start = end.end()
    if complete and start < len(body):
        yield len(body) - 1, body[start:]


def _sse_events(lines: Iterator[tuple[int, bytes]], end: int | None) -> Iterator[tuple[int, str, str]]:
    """Server-sent events as in the WHATWG standard, with two liberties.

    The blank line after the last event may be missing in a complete body, which ends at ``end``; and a field
    ``error`` (llama.cpp before 2025) is data of kind "error".
    """
    data: list[str] = []
    kind = ""
    for last_byte, raw in lines:
        if not raw:
            if any(data):
                yield last_byte, kind or "message", "\n".join(data)
            data, kind = [], ""
            continue
        name, _, value = raw.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if name in (b"data", b"error"):
            data.append(text)
            kind = "error" if name == b"error" else kind
        elif name == b"event":
            kind = text
    if any(data) and end is not None:
        yield end, kind or "message", "\n".join(data)
