"""Holds a power limit or a profile at a value, and puts the old one back, whatever ends this process in between.

The order of steps is what makes it safe: read the old values; write them to a journal, durably; set the new ones; read
them back. At the end, or at the next start after a crash, the journal's values are set and read back, and only then is
the journal deleted. A crash between any two steps leaves either a machine as it was or a journal that says how it was.
The controls themselves stand one a file in ``methods/``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from agents.contract.device import same_power
from agents.files import write_atomic
from agents.power.methods.base import Control, Levels, LimitNotHeld, NotRestored, PowerMethod, ProfileMethod, difference

Method = TypeVar("Method", bound=Control)


class Hold(Generic[Method]):
    """What is set here through one of ``methods``, or nothing; ``journal`` is the file that survives a crash.

    ``missing``: methods that the owner allows and this machine does not have, and why. Safe to call from several
    threads: the job process's end is noticed on another one than its jobs run on.
    """

    def __init__(self, methods: Sequence[Method], journal: Path, missing: Sequence[str] = ()) -> None:
        self._methods = {method.name: method for method in methods}
        self._missing = tuple(missing)
        self._journal = journal
        self._set: tuple[Method, Levels] | None = None
        self._one_at_a_time = threading.RLock()

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self._methods)

    @property
    def held_by(self) -> str | None:
        """The method that holds now."""
        return None if self._set is None else self._set[0].name

    def restore_from_journal(self) -> None:
        """Puts back what the journal holds: set by an earlier process that did not live to put it back, or by this one.

        Raises NotRestored; the journal then stays.
        """
        try:
            journal = json.loads(self._journal.read_text(encoding="utf-8"))
            name, levels = str(journal["method"]), _checked(journal["levels"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotRestored(f"{self._journal}: cannot be read: {error}") from error
        by_hand = "or set it yourself and delete the file"
        if name not in self._methods:
            # The owner took the leave back, or the tool is gone: only a person can put the machine right now.
            why = next((each for each in self._missing if each.startswith(f"{name}: ")), "")
            why = f"now {why}" if why else f"device.yaml allows {name} no more: allow it once"
            raise NotRestored(f"{self._journal}: {name} set what was {_words(levels)} before, and {why}, {by_hand}")
        try:
            self._methods[name].write(levels)
            other = difference(levels, self._methods[name].read())
        except LimitNotHeld as error:
            raise NotRestored(f"{error.detail}; see {self._journal}, {by_hand}") from error
        if other:
            raise NotRestored(f"{name} does not come back: {other}; see {self._journal}, {by_hand}")
        try:
            self._journal.unlink(missing_ok=True)
        except OSError as error:
            raise NotRestored(f"{self._journal}: {name} is back, and the file cannot be deleted: {error}") from error

    def release(self) -> None:
        """The old values again. Raises NotRestored; the journal then stays, and the next start tries again."""
        with self._one_at_a_time:
            self._set = None  # first: what is half put back is not held any more
            self.restore_from_journal()

    def deviation(self) -> str:
        """Empty where what was set still stands, or nothing is set; else what stands instead.

        It is not held then, and the old values come back with the next ``release``.
        """
        with self._one_at_a_time:
            if self._set is None:
                return ""
            method, levels = self._set
            try:
                other = difference(levels, method.read())
            except LimitNotHeld as error:
                other = error.detail
            if other:
                self._set = None  # or the next job that asks for the same would take it to stand
            return other and f"{method.name}: {other}"

    def _enter(self, method: Method, levels: Levels, old: Levels) -> None:
        self._note(method.name, old)  # before anything is set: a crash from here on is put right at the next start
        try:
            method.write(levels)
            # Tools and firmware may accept a limit and keep their own: only what is read back was set.
            if other := difference(levels, method.read()):
                raise LimitNotHeld(f"{method.name} takes it without effect: {other}")
        except LimitNotHeld:
            self.restore_from_journal()
            raise
        self._set = (method, levels)

    def _note(self, name: str, old: Levels) -> None:
        try:
            write_atomic(self._journal, json.dumps({"method": name, "levels": dict(old)}))
        except OSError as error:
            raise LimitNotHeld(f"{self._journal}: cannot be written, so nothing is set: {error}") from error

    def _none(self, reasons: Sequence[str], what: str) -> LimitNotHeld:
        reasons = (*reasons, *self._missing)
        return LimitNotHeld(f"no method to hold {what}: {'; '.join(reasons) or 'none is allowed'}")


class PowerHold(Hold[PowerMethod]):
    """The limit in W that this machine is held at."""

    _limit_w: float | None = None

    @property
    def limit_w(self) -> float | None:
        return self._limit_w if self._set is not None else None

    def at(self, limit_w: float) -> None:
        """Holds ``limit_w`` by the first method whose bounds it is in. Raises LimitNotHeld; then nothing is held."""
        with self._one_at_a_time:
            if self.limit_w is not None and same_power(limit_w, self.limit_w):
                return
            self.release()  # bounds are asked while nothing is held: some controls derive them from what stands
            method = self._method_for(limit_w)
            self._enter(method, method.levels_for(limit_w), method.read())
            self._limit_w = limit_w

    def _method_for(self, limit_w: float) -> PowerMethod:
        reasons = []
        for method in self._methods.values():
            try:
                least, most = method.bounds()
            except LimitNotHeld as error:
                reasons.append(error.detail)
                continue
            if least <= limit_w <= most:
                return method
            reasons.append(f"{method.name} takes {least:g} to {most:g} W")
        raise self._none(reasons, f"a limit of {limit_w:g} W")


class ProfileHold(Hold[ProfileMethod]):
    """The named profile that this machine is held in."""

    _profile: str | None = None

    @property
    def profile(self) -> str | None:
        return self._profile if self._set is not None else None

    def at(self, profile: str) -> None:
        """Raises LimitNotHeld; then nothing is held."""
        with self._one_at_a_time:
            if profile == self.profile:
                return
            self.release()
            method = next((each for each in self._methods.values() if profile in each.choices()), None)
            if method is None:
                reasons = [f"{each.name} has {', '.join(each.choices())}" for each in self._methods.values()]
                raise self._none(reasons, f"the power profile {profile}")
            old = method.read()
            # Firmware may stand in a profile of its own ("custom") that nobody can choose, and so not go back to.
            if method.profile() not in method.choices():
                raise LimitNotHeld(f"{method.name}: {_words(old)} stands now, and could not be put back")
            self._enter(method, method.levels_for(profile), old)
            self._profile = profile


def _checked(levels: object) -> Levels:
    """Raises TypeError where the journal's levels are none."""
    if (
        not isinstance(levels, dict)
        or not levels
        or not all(isinstance(each, int | float | str) for each in levels.values())
    ):
        raise TypeError(f"levels are names with W or a profile, and not {levels!r}")
    return levels


def _words(levels: Levels) -> str:
    return ", ".join(f"{name} {level if isinstance(level, str) else f'{level:g} W'}" for name, level in levels.items())
