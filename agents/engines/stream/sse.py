"""Received bytes -> HTTP response -> events, each with the time of the read that completed it. PURE

Everything here runs after a stream has ended (but ``first_event_ns``, once, where a first token seems to be late).
The alternative, parsing while the bytes come, would stamp an event when the parser has got to it: after the events
before it, and after whatever else the process did. Here the reads are replayed, the body is put together, and each
event gets the time of the read that brought its last byte. So the events cannot depend on where the network cut the
bytes.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from agents.contract.report import Cause
from agents.engines.stream.response import Reads, Replay, header_of
from agents.errors import RequestFailed

_LINE_END = re.compile(rb"\r\n|\n|\r")
_FIELD_FIRST = re.compile(rb"\s*(data|event|id|retry)?:")
_JSON_LINES = re.compile(rb'\s*\{"[^\n]*\}\s*\n\s*\{"')  # one object, and the next begins
_LINE_TYPES = ("ndjson", "jsonl", "json-lines", "jsonlines")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class StreamEvent:
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
    events: tuple[StreamEvent, ...]
    body: bytes
    complete: bool
    fault: str = ""

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    def header(self, name: str) -> str:
        """Value of a header, "" where there is none; ``name`` in lower case."""
        return next((value for key, value in self.headers if key == name), "")


def first_event_ns(reads: Reads) -> int | None:
    """When the first event with content had arrived, ns (of a body that is no stream: its first byte). None: not yet.

    Comments, such as the pings that some servers send while they compute a prompt, do not count; nor does an event
    that only names a role, or reports progress.
    """
    # The whole body so far is parsed again for each read: at most once in a trial, and mostly of a few reads.
    replay, body, checked = Replay(), b"", 0
    for at_ns, data in reads:
        body += replay.feed(data)
        content_type = header_of(replay.headers, "content-type")
        events = [event for _, _, event in _decode(body, content_type, False)] if body else []
        if any(_has_content(event) for event in events[checked:]):
            return at_ns
        checked = len(events)
        if body and _framing(content_type, body) is None:
            return at_ns  # a JSON document, or an error page: nobody will send an event any more
    return None


_THOUGHTS = ("reasoning", "reasoning_content", "thinking")
_TEXTS = frozenset(("content", "text", "refusal", "response", "arguments", *_THOUGHTS))
_ENDS = frozenset(("finish_reason", "done", "stop", "error", "usage", "detail"))


def _has_content(data: str) -> bool:
    """Whether an event brings text, an end, an error, or what is not known here."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return True  # "[DONE]" is no JSON: an end
    return not isinstance(found, dict) or found.get("type") == "chat.end" or _holds_content(found)


def _holds_content(found: object, depth: int = 0) -> bool:
    if isinstance(found, list):
        return any(_holds_content(each, depth) for each in found)
    if not isinstance(found, dict) or depth > 8:  # no engine nests deeper; a hostile event could
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
        replay.feed(b"")  # the end of a body without a length; of another that is not complete, a fault
    if not replay.status:
        raise RequestFailed(Cause.STREAM_BROKEN, _no_head(reads, replay.fault))
    coding = header_of(replay.headers, "content-encoding")
    if coding not in ("", "identity"):
        raise RequestFailed(Cause.STREAM_BROKEN, f"the answer is compressed ({coding}) although identity was asked for")
    body = b"".join(pieces)
    # ends[k]: bytes of body after read k. So the read that completed an event is found by the place of its last byte.
    ends = tuple(accumulate(map(len, pieces)))
    events = []
    for last_byte, kind, data in _decode(body, header_of(replay.headers, "content-type"), replay.complete):
        read = bisect_right(ends, last_byte)
        events.append(StreamEvent(reads[read][0], read, data, kind))
    return Response(replay.status, replay.headers, tuple(events), body, replay.complete, replay.fault)


def _no_head(reads: Reads, fault: str) -> str:
    start = b"".join(data for _, data in reads[:8])[:80]
    if not start:
        return "the connection closed before an answer"
    return f"the engine's answer is not HTTP: {fault or 'it ended inside its head'}: {start!r}"


def _framing(content_type: str, body: bytes) -> str | None:
    """ "sse", "lines", or None where a body is no stream. Where the content type is neither, the first field decides:
    servers send streams of events as text/plain, or without a type."""
    # The type first: it stands in the head, before a byte of the body is there.
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
        if not raw:  # the blank line dispatches the event, and its end is the event's last byte
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
