"""Devices that are blocked for what may pass, such as a full disk: each looks at itself again, until it is over.

A device without a job is not polled: without this nobody would learn that its disk has room again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from agents.contract.device import Blocked
from agents.log import Entry
from orchestrator.dispatch.fleet import Fleet, StatusReceived

log = logging.getLogger(__name__)

RECHECK_S = 5.0
"""From an answer to the next call: a look writes and flushes 64 KiB on the device."""


class Rechecks:
    """Used on the loop's thread; ``call_soon`` brings answers there, for ``on_status``."""

    def __init__(
        self,
        fleet: Fleet,
        term: int,
        call_soon: Callable[[Callable[[], None]], object],
        on_status: Callable[[StatusReceived], object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._term = term
        self._call_soon = call_soon
        self._on_status = on_status
        self._monotonic = monotonic
        self._due_s: dict[str, float] = {}
        self._unanswered: set[str] = set()

    def run(self, blocked: Mapping[str, Blocked]) -> None:
        """Calls each device of ``blocked`` that is due; one that needs a reboot is greeted after that."""
        now_s = self._monotonic()
        passing = [device_id for device_id, each in blocked.items() if not each.needs_reboot]
        self._due_s = {each: self._due_s.get(each, now_s + RECHECK_S) for each in passing}
        for device_id, due_s in self._due_s.items():
            # one call at a time: a disk that fails may hold each of them for long
            if now_s >= due_s and device_id not in self._unanswered:
                self._unanswered.add(device_id)
                answer = self._fleet.call(device_id, "recheck", self._term)
                answer.add_done_callback(partial(self._on_answer, device_id))

    def _on_answer(self, device_id: str, answer: Future[Any]) -> None:
        """On any thread."""
        self._call_soon(lambda: self._answered(device_id, answer))

    def _answered(self, device_id: str, answer: Future[Any]) -> None:
        self._unanswered.discard(device_id)
        self._due_s.pop(device_id, None)
        error = answer.exception()
        if error is None:
            self._on_status(StatusReceived(device_id, answer.result()))
        else:  # the device was lost, and is greeted anew; or it is called again
            log.debug(Entry("RecheckFailed", device=device_id, detail=str(error)))
