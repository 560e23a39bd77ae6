"""The HTTP response in the bytes that were received: its status, its body, and whether it has come to its end. PURE

The bytes came in reads that the network cut anywhere. They are replayed into h11, which knows HTTP's framing; this runs
after a stream has ended, or in a pause of it, never while tokens arrive.
"""

from __future__ import annotations

from collections.abc import Sequence

import h11

Reads = Sequence[tuple[int, bytes]]
"""Each receive: clock in ns just after it returned, and its bytes. Never empty bytes."""

_HEAD_BYTES_MAX = 1 << 20


class Replay:
    """The client's half of HTTP/1.1, fed with what was received: ``feed`` gives back the body bytes in each piece."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)
        # h11 parses a response only after a request; which one does not matter, but that it is no HEAD.
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
        coding = header_of(replay.headers, "transfer-encoding")
        if "chunked" in coding:
            # The last seven bytes decide most cases, without a replay of a body that may be megabytes long.
            if closed and ends_in_last_chunk(self._reads):
                return True
            if not closed and not may_be_last_chunk(self._reads):
                return False
        elif replay.status and not header_of(replay.headers, "content-length") and replay.status not in (204, 304):
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


def header_of(headers: tuple[tuple[str, str], ...], name: str) -> str:
    return next((value.strip().lower() for key, value in headers if key == name), "")
