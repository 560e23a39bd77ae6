"""Holds a power limit: old value read, journalled to disk, set, read back; restored at the end or at the next start.

Only the contract and its order of steps; the methods themselves come one file each in this folder.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from agents.contract.device import same_power
from agents.power.base import LimitNotHeld, PowerMethod


class PowerHold:
    """The limit that this machine is held at, or none. ``journal`` is the file that survives a crash.

    Safe to call from several threads: the job process's end is heard on another one than its jobs run on.
    """

    def __init__(self, methods: Sequence[PowerMethod], journal: Path) -> None:
        self._methods = {method.name: method for method in methods}
        self._journal = journal
        self.limit_w: float | None = None
        self._one_at_a_time = threading.RLock()

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self._methods)

    def restore_left(self) -> None:
        """What an earlier process set and did not live to take back. Raises LimitNotHeld."""
        try:
            left = json.loads(self._journal.read_text(encoding="utf-8"))
            name, old_w = str(left["method"]), float(left["old_w"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LimitNotHeld(f"{self._journal}: cannot be read: {error}") from error
        if name not in self._methods:
            raise LimitNotHeld(
                f"{self._journal}: {name} set a limit that was {old_w:g} W before, and device.yaml allows {name} no"
                " more: allow it once, or set the limit yourself and delete the file"
            )
        self._methods[name].set(old_w)
        self._journal.unlink(missing_ok=True)

    def at(self, limit_w: float) -> None:
        """Holds ``limit_w`` by the first method whose bounds it is in. Raises LimitNotHeld; then nothing is held."""
        with self._one_at_a_time:
            self._hold(limit_w)

    def _hold(self, limit_w: float) -> None:
        if self.limit_w is not None and same_power(limit_w, self.limit_w):
            return
        self.release()
        method = self._method_for(limit_w)
        self._note(method.name, method.read())
        try:
            method.set(limit_w)
            now_w = method.read()
            if not same_power(limit_w, now_w):
                raise LimitNotHeld(f"{method.name}: {limit_w:g} W was set, and {now_w:g} W is read back")
        except LimitNotHeld:
            self.restore_left()
            raise
        self.limit_w = limit_w

    def release(self) -> None:
        """The old limit again. Raises LimitNotHeld; the journal then stays, and the next start tries again."""
        with self._one_at_a_time:
            self.limit_w = None
            self.restore_left()

    def _method_for(self, limit_w: float) -> PowerMethod:
        reasons = []
        for method in self._methods.values():
            least, most = method.bounds()
            if least <= limit_w <= most:
                return method
            reasons.append(f"{method.name} takes {least:g} to {most:g} W")
        raise LimitNotHeld(f"no method to hold a limit of {limit_w:g} W: {'; '.join(reasons) or 'none is allowed'}")

    def _note(self, name: str, old_w: float) -> None:
        aside = self._journal.with_suffix(".tmp")
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("w", encoding="utf-8") as file:
                json.dump({"method": name, "old_w": old_w}, file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._journal)
        except OSError as error:
            raise LimitNotHeld(f"{self._journal}: cannot be written, so nothing is set: {error}") from error
