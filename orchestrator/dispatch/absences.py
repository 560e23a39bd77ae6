"""How long devices with work are away, and which of them their runs wait for no longer (``devices: away_after``)."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from agents.log import suppressed
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.messages import DeviceSkipped
from orchestrator.dispatch.runs import Run
from orchestrator.errors import OrchestrateError

log = logging.getLogger(__name__)

CHECK_S = 10.0
"""Between two looks for devices that are away for too long."""


class Absences:
    """Used on the loop's thread."""

    def __init__(
        self,
        ledger: Ledger,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._monotonic = monotonic
        self._wall = wall
        self._since_s: dict[str, float] = {}
        self._began_s = monotonic()
        self._next_check_s = self._began_s + CHECK_S

    def begin(self, device_id: str) -> None:
        self._since_s[device_id] = self._monotonic()

    def end(self, device_id: str) -> None:
        self._since_s.pop(device_id, None)

    def away_s(self, device_id: str) -> float:
        """Also for a device that went away before this coordinator began: then by the ledger's wall time."""
        if device_id not in self._since_s:
            self._since_s[device_id] = self._began_s - self._unseen_s().get(device_id, 0.0)
        return self._monotonic() - self._since_s[device_id]

    def _unseen_s(self) -> dict[str, float]:
        """By device: from when the ledger has it there last to the begin of this coordinator."""
        with suppressed(log, "DevicesNotRead", OrchestrateError):
            began_unix_s = self._wall() - (self._monotonic() - self._began_s)
            seen = self._ledger.seen_devices()
            return {each.device.device_id: max(began_unix_s - each.seen_unix_s, 0.0) for each in seen}
        return {}

    def overdue(self, jobs: Callable[[], Mapping[str, Counter[str]]], runs: Mapping[str, Run]) -> list[DeviceSkipped]:
        """``jobs()``: by device that is away, the jobs of each run that wait for it. Looks each CHECK_S."""
        if self._monotonic() < self._next_check_s:
            return []
        self._next_check_s = self._monotonic() + CHECK_S
        found = []
        for device_id, waiting in jobs().items():
            for run_id in waiting:
                limit_s = runs[run_id].matrix.devices.away_after_s if run_id in runs else None
                if limit_s is not None and self.away_s(device_id) >= limit_s:
                    why = f"away for more than {limit_s:g} s, as `devices: away_after` allows"
                    found.append(DeviceSkipped(device_id, why, run_id))
        return found
