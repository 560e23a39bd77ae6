"""A job runs on a lease: its holder was called by the coordinator lately. In the device's own monotonic time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agents.log import Entry

log = logging.getLogger(__name__)


class Fenced(Exception):
    """The call came from a coordinator that a newer one has replaced."""


class Lease:
    """Not thread-safe: its agent's lock guards it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._term = 0
        self._renewed_s = monotonic()
        self.length_s = 0.0

    def renew(self, term: int) -> None:
        """A call of the coordinator of ``term`` renews the lease. Raises Fenced for one older than the latest.

        Term 0 is a caller outside of terms: it renews nothing.
        """
        if term == 0:
            return
        if term < self._term:
            log.warning(Entry("CallFenced", term=term, latest=self._term))
            raise Fenced(f"a newer coordinator (term {self._term}) has spoken to this device; this is term {term}")
        if term > self._term:
            log.info(Entry("TermAccepted", term=term, before=self._term))
        self._term = term
        self._renewed_s = self._monotonic()

    def begin(self, length_s: float) -> None:
        self.length_s = length_s
        self._renewed_s = self._monotonic()

    def remaining_s(self) -> float:
        return self._renewed_s + self.length_s - self._monotonic()
