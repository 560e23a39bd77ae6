"""A power limit is held or refused, and the old one comes back whatever happens in between."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from agents.power.holding import PowerHold
from agents.power.methods.base import LimitNotHeld
from tests.fakes.disks import full_disk
from tests.fakes.power_method import FakePower


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "device" / "power-journal.json"


@pytest.fixture
def power() -> FakePower:
    return FakePower()


def test_a_limit_is_held_and_the_old_one_comes_back(power: FakePower, journal: Path) -> None:
    hold = PowerHold([power], journal)
    hold.at(40.0)
    assert (power.now_w, hold.limit_w) == (40.0, 40.0)
    assert json.loads(journal.read_text()) == {"method": "fake", "levels": {"sustained": 80.0, "burst": 95.0}}
    assert power.stands_w == (40.0, 40.0)
    hold.release()
    assert (power.stands_w, hold.limit_w) == ((80.0, 95.0), None)
    assert list(journal.parent.iterdir()) == []


def test_from_one_limit_to_the_next_the_old_value_is_the_machines_own(power: FakePower, journal: Path) -> None:
    hold = PowerHold([power], journal)
    for limit_w in (40.0, 60.0, 25.0):
        hold.at(limit_w)
        assert json.loads(journal.read_text())["levels"] == {"sustained": 80.0, "burst": 95.0}
    hold.release()
    assert power.now_w == 80.0


def test_the_limit_that_is_held_is_not_set_again(power: FakePower, journal: Path) -> None:
    hold = PowerHold([power], journal)
    hold.at(40.0)
    hold.at(40.0)
    hold.at(40.3)  # half a watt is what tools round to
    assert power.sets == [40.0]


def test_nothing_held_is_nothing_to_release(power: FakePower, journal: Path) -> None:
    hold = PowerHold([power], journal)
    hold.release()
    hold.restore_from_journal()
    assert power.sets == [] and not journal.parent.exists()


class Crash(BaseException):
    """The process ends here; nothing behind it runs."""


class Steps:
    """Counts what is done to the machine and to the disk; ends the process at one of it."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.done: list[str] = []

    def __call__(self, step: str) -> None:
        self.done.append(step)
        if len(self.done) > self.last:
            raise Crash


def crashing(patch: pytest.MonkeyPatch, last: int) -> Steps:
    """Steps of the disk, before each takes effect and after."""
    steps = Steps(last)
    for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
        real = getattr(owner, name)

        def stepped(*arguments: object, name: str = name, real: object = real, **named: object) -> object:
            steps(name)
            result = real(*arguments, **named)  # type: ignore[operator]
            steps(f"{name}, done")
            return result

        patch.setattr(owner, name, stepped)
    return steps


def session(power: FakePower, journal: Path, last: int) -> Steps:
    """Two limits and the end, in a process that dies after ``last`` steps."""
    journal.parent.mkdir(exist_ok=True)  # else the first session alone makes it, in steps of its own
    with pytest.MonkeyPatch.context() as patch:
        steps = crashing(patch, last)
        power.step = steps
        try:
            hold = PowerHold([power], journal)
            hold.at(40.0)
            hold.at(60.0)
            hold.release()
        except Crash:
            pass
        finally:
            power.step = lambda _: None
    return steps


ALL = 34  # steps of a session that nothing ends


def test_the_steps_are_read_journal_set_read_back_restore(power: FakePower, journal: Path) -> None:
    note = ["fsync", "fsync, done", "replace", "replace, done", "fsync", "fsync, done"]
    at = ["read", *note, "set {0}", "half set {0}", "has set {0}", "read"]
    back = ["set 80", "half set 80", "has set 80", "read", "unlink", "unlink, done"]
    steps = session(power, journal, 1000).done
    assert steps == [*(step.format(40) for step in at), *back, *(step.format(60) for step in at), *back]
    assert len(steps) == ALL and power.stands_w == (80.0, 95.0)


@pytest.mark.parametrize("last", range(ALL + 1))
def test_a_crash_at_any_step_leaves_the_old_value_after_the_next_start(
    power: FakePower, journal: Path, last: int
) -> None:
    session(power, journal, last)
    PowerHold([power], journal).restore_from_journal()
    assert power.stands_w == (80.0, 95.0)
    assert not journal.exists()


@pytest.mark.parametrize("last", range(7))
def test_a_crash_of_the_start_that_restores_too(power: FakePower, journal: Path, last: int) -> None:
    session(power, journal, 9)
    assert power.now_w == 40.0
    with pytest.MonkeyPatch.context() as patch:
        power.step = crashing(patch, last)
        try:
            PowerHold([power], journal).restore_from_journal()
        except Crash:
            pass
        finally:
            power.step = lambda _: None
    PowerHold([power], journal).restore_from_journal()
    assert power.stands_w == (80.0, 95.0)


def test_a_limit_without_effect_is_not_held_and_the_old_one_is_set(power: FakePower, journal: Path) -> None:
    power.deaf = True
    hold = PowerHold([power], journal)
    with pytest.raises(
        LimitNotHeld,
        match="fake takes it without effect: sustained should be 40 W and is 80 W, burst should be 40 W and is 95 W",
    ):
        hold.at(40.0)
    assert (hold.limit_w, power.sets) == (None, [40.0, 80.0])
    assert not journal.exists()


def test_a_method_that_refuses_is_heard_and_the_next_start_tries_to_restore(power: FakePower, journal: Path) -> None:
    power.refuses = True
    hold = PowerHold([power], journal)
    with pytest.raises(LimitNotHeld, match="refused in its own words"):
        hold.at(40.0)
    assert hold.limit_w is None and journal.exists()  # it could not be told whether the old one still stands
    with pytest.raises(LimitNotHeld):
        PowerHold([power], journal).restore_from_journal()
    power.refuses, power.now_w = False, 40.0
    PowerHold([power], journal).restore_from_journal()
    assert power.now_w == 80.0 and not journal.exists()


def test_a_restore_that_fails_holds_nothing_and_is_tried_again(power: FakePower, journal: Path) -> None:
    hold = PowerHold([power], journal)
    hold.at(40.0)
    power.refuses = True
    with pytest.raises(LimitNotHeld):
        hold.at(60.0)
    assert hold.limit_w is None and journal.exists()
    power.refuses = False
    hold.at(60.0)
    assert json.loads(journal.read_text())["levels"] == {"sustained": 80.0, "burst": 95.0}
    hold.release()
    assert power.now_w == 80.0


@pytest.mark.parametrize(("limit_w", "by"), [(15.0, "small"), (60.0, "small"), (61.0, "big"), (120.0, "big")])
def test_the_first_method_whose_bounds_it_is_in(journal: Path, limit_w: float, by: str) -> None:
    methods = [FakePower("small", range_w=(15.0, 60.0)), FakePower("big", range_w=(45.0, 120.0))]
    hold = PowerHold(methods, journal)
    assert hold.methods == ("small", "big")
    hold.at(limit_w)
    assert [each.name for each in methods if each.sets] == [by]
    hold.release()
    assert [each.now_w for each in methods] == [80.0, 80.0]


@pytest.mark.parametrize("limit_w", [14.9, 120.1])
def test_a_limit_out_of_bounds_is_refused_with_them(power: FakePower, journal: Path, limit_w: float) -> None:
    hold = PowerHold([power], journal)
    hold.at(40.0)
    with pytest.raises(LimitNotHeld, match=rf"a limit of {limit_w:g} W: fake takes 15 to 120 W"):
        hold.at(limit_w)
    assert (hold.limit_w, power.now_w, journal.exists()) == (None, 80.0, False)


def test_no_method_is_said(journal: Path) -> None:
    with pytest.raises(LimitNotHeld, match="no method to hold a limit of 40 W: none is allowed"):
        PowerHold([], journal).at(40.0)


def test_a_disk_that_cannot_take_the_journal_sets_nothing(power: FakePower, journal: Path) -> None:
    hold = PowerHold([power], journal)
    with (
        full_disk(),
        pytest.raises(LimitNotHeld, match=r"journal\.json: cannot be written, .*No space left"),
    ):
        hold.at(40.0)
    assert (power.sets, hold.limit_w, journal.exists()) == ([], None, False)
    PowerHold([power], journal).restore_from_journal()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "\x80", '{"method": "fake"}', '{"method": "fake", "old_w": 80.0}'),
        *('{"method": "fake", "levels": {}}', '{"method": "fake", "levels": {"sustained": null}}'),
    ],
)
def test_a_journal_that_cannot_be_read_is_told_and_kept(power: FakePower, journal: Path, text: str) -> None:
    journal.parent.mkdir()
    journal.write_text(text, encoding="latin-1")
    with pytest.raises(LimitNotHeld, match=r"power-journal\.json: cannot be read"):
        PowerHold([power], journal).restore_from_journal()
    assert journal.exists() and power.sets == []


def test_a_method_that_is_allowed_no_more_is_told(power: FakePower, journal: Path) -> None:
    PowerHold([power], journal).at(40.0)
    with pytest.raises(LimitNotHeld, match="allows fake no more"):
        PowerHold([FakePower("other")], journal).restore_from_journal()
    assert journal.exists()


def test_a_release_from_another_thread_waits_for_a_limit_that_is_being_set(power: FakePower, journal: Path) -> None:
    """The job process's end comes on the thread that hears it, while the job's thread may be setting a limit."""
    sets, go_on = threading.Event(), threading.Event()

    def step(what: str) -> None:
        if what == "set 40":
            sets.set()
            assert go_on.wait(30.0)

    power.step = step
    hold = PowerHold([power], journal)
    setting = threading.Thread(target=hold.at, args=(40.0,))
    releasing = threading.Thread(target=hold.release)
    setting.start()
    assert sets.wait(30.0)
    releasing.start()
    releasing.join(0.1)  # long enough to restore too early, if nothing kept it
    go_on.set()
    setting.join()
    releasing.join()
    assert (power.now_w, hold.limit_w, journal.exists()) == (80.0, None, False)
