"""What goes into one HTTP exchange with an engine, and what comes out: limits, how it ended, every receive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds allowed: to connect; then, from the request's sending, to the first event, and to the end."""

    connect_s: float
    first_token_s: float
    trial_s: float


class Ended(StrEnum):
    """How an exchange ended."""

    COMPLETE = "complete"  # to the end that the response itself tells, whatever its status
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    TRIAL_TIMEOUT = "trial_timeout"
    BROKEN = "broken"  # not HTTP, or no end: what came is kept
    CANCELLED = "cancelled"
    UNREACHABLE = "unreachable"  # nothing was sent


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and all that came back. Times in ns of the clock that was handed in.

    ``sent_ns``: just after the last byte of the request was handed to the kernel (UNREACHABLE: the start). ``reads``:
    each receive, the time just after it returned, and its bytes, the head of the response included. ``ended_ns``:
    the receive that completed the response, or the moment it was given up.
    """

    sent_ns: int
    sent_unix_s: float
    reads: tuple[tuple[int, bytes], ...]
    ended_ns: int
    ended: Ended
    detail: str = ""


class Progress:
    """A live view of an exchange, for another thread to look at now and then. It costs the exchange nothing.

    It counts receives, the head of the response among them: about one a token, and no more exact than that.
    """

    def __init__(self) -> None:
        self._reads: Sequence[tuple[int, bytes]] = ()

    def follow(self, reads: Sequence[tuple[int, bytes]]) -> None:
        """``reads`` is the list that the exchange appends to."""
        self._reads = reads

    @property
    def reads(self) -> int:
        return len(self._reads)

    @property
    def first_ns(self) -> int:
        """Time of the first receive; 0 before it."""
        return self._reads[0][0] if self._reads else 0

    @property
    def last_ns(self) -> int:
        """Time of the last receive; 0 before the first."""
        return self._reads[-1][0] if self._reads else 0
