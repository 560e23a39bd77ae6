"""Every method of power against machines made of files, small programs and a library: held, refused, and put back after
a crash at any step. Nothing here touches the limits of the machine that runs the tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agents.power.holding import Hold, PowerHold, ProfileHold
from agents.power.methods import METHODS, PROFILES
from agents.power.methods.base import LimitNotHeld, bounds_of, difference
from tests.fakes.power_machines import MACHINES, PROFILED, Machine, Profiled

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="small programs of the shell")


@pytest.fixture(params=MACHINES)
def a_machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return MACHINES[request.param](tmp_path, monkeypatch)


@pytest.fixture(params=PROFILED)
def profiled(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profiled:
    return PROFILED[request.param](tmp_path, monkeypatch)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "device/power-journal.json"


def test_the_tuples_hold_every_method_under_its_own_name(a_machine: Machine, profiled: Profiled) -> None:
    assert {kind.name for kind in METHODS} == set(MACHINES)
    assert {kind.name for kind in PROFILES} == set(PROFILED)
    assert a_machine.method().name in MACHINES and profiled.method().name in PROFILED


def test_a_limit_is_held_by_all_its_values_and_each_gets_its_own_back(a_machine: Machine, journal: Path) -> None:
    method = a_machine.method()
    hold = PowerHold([method], journal)
    for limit_w in a_machine.limits_w:
        hold.at(limit_w)
        assert set(method.read().values()) == {limit_w}
        assert a_machine.stands() != a_machine.own and hold.deviation() == ""
    hold.release()
    assert a_machine.stands() == a_machine.own and not journal.exists()


def test_a_profile_is_held_and_put_back(profiled: Profiled, journal: Path) -> None:
    hold = ProfileHold([profiled.method()], journal)
    for profile in profiled.profiles:
        hold.at(profile)
        assert profiled.method().profile() == profile == hold.profile and hold.deviation() == ""
    with pytest.raises(LimitNotHeld, match=f"the power profile turbo: {profiled.method().name} has "):
        hold.at("turbo")
    assert profiled.stands() == profiled.own and not journal.exists()


class Crash(BaseException):
    """The process ends here; nothing behind it runs."""


def stepped(patch: pytest.MonkeyPatch, owner: Any, name: str, steps: list[str], last: int) -> None:
    """Ends the process before or after a call of ``owner.name``, when ``last`` steps were done."""
    real = getattr(owner, name)

    def step(*arguments: Any, **named: Any) -> Any:
        for moment in ("before", "after"):
            if len(steps) >= last:
                raise Crash
            steps.append(f"{moment} {name}")
            if moment == "before":
                result = real(*arguments, **named)
        return result

    patch.setattr(owner, name, step)


def crashes(writes: tuple[Any, str], a_session: Callable[[], None], last: int) -> int:
    """A session in a process that dies after ``last`` steps on the disk and on the machine; how many it did."""
    steps: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink"), writes):
            stepped(patch, owner, name, steps, last)
        with suppress(Crash):
            a_session()
    return len(steps)


def after_every_crash(
    machine: Machine | Profiled, journal: Path, a_session: Callable[[], None], hold: Callable[[], Hold[Any]]
) -> int:
    """At the next start the machine has its own values again, whatever step was the last; the number of steps."""
    journal.parent.mkdir(exist_ok=True)  # else the first session alone makes it, in steps of its own
    whole = crashes(machine.writes, a_session, sys.maxsize)
    assert machine.stands() == machine.own
    changed = 0
    for last in range(whole):
        assert crashes(machine.writes, a_session, last) == last
        changed += machine.stands() != machine.own
        hold().restore_from_journal()
        assert machine.stands() == machine.own, last
        assert not journal.exists()
    assert changed > 3  # it did die in between
    return whole


def test_a_crash_at_any_step_leaves_the_own_limits_after_the_next_start(a_machine: Machine, journal: Path) -> None:
    method = a_machine.method()
    first_w, second_w = a_machine.limits_w

    def a_session() -> None:
        hold = PowerHold([method], journal)
        hold.at(first_w)
        hold.at(second_w)
        hold.release()

    assert after_every_crash(a_machine, journal, a_session, lambda: PowerHold([method], journal)) >= 20


def test_a_crash_at_any_step_leaves_the_own_profile_after_the_next_start(profiled: Profiled, journal: Path) -> None:
    method = profiled.method()
    first, second = profiled.profiles

    def a_session() -> None:
        hold = ProfileHold([method], journal)
        hold.at(first)
        hold.at(second)
        hold.release()

    assert after_every_crash(profiled, journal, a_session, lambda: ProfileHold([method], journal)) >= 20


def test_what_comes_back_otherwise_is_told_and_the_journal_kept(a_machine: Machine, journal: Path) -> None:
    """The control turns deaf while a limit is held."""
    owner, name = a_machine.writes
    hold = PowerHold([a_machine.method()], journal)
    hold.at(a_machine.limits_w[0])
    with pytest.MonkeyPatch.context() as patch:
        real = getattr(owner, name)

        def deaf(*words: Any) -> Any:
            return real(*words) if isinstance(words[0], tuple) and "-i" in words[0] else None  # it still tells

        patch.setattr(owner, name, deaf)
        with pytest.raises(
            LimitNotHeld, match=r"does not come back: .* should be .* and is .*; see .*power-journal\.json"
        ):
            hold.release()
    assert hold.limit_w is None and journal.exists()
    PowerHold([a_machine.method()], journal).restore_from_journal()
    assert a_machine.stands() == a_machine.own and not journal.exists()


BOUNDS = [
    ("ryzenadj", None, (5, 85.5)),  # nothing is told: no further than the machine's maker
    ("ryzenadj", 120.0, (5, 120)),
    ("ryzenadj", 45.0, (5, 45)),
    ("rapl", None, (5, 55)),  # the rated power is above what stands
    ("rapl", 30.0, (5, 30)),
    ("amdgpu_cap", None, (5, 349)),
    ("amdgpu_cap", 200.0, (5, 200)),
    ("amdgpu_cap", 500.0, (5, 349)),  # the owner's word does not pass what the card can
    ("xe_cap", None, (5, 190)),
    ("nvml", None, (100, 450)),
    ("nvml", 320.0, (100, 320)),
]


@pytest.mark.parametrize(("name", "most_w", "bounds"), BOUNDS)
def test_beyond_its_bounds_a_limit_is_refused_in_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    journal: Path,
    name: str,
    most_w: float | None,
    bounds: tuple[float, float],
) -> None:
    machine = MACHINES[name](tmp_path, monkeypatch)
    hold = PowerHold([machine.method(most_w)], journal)
    least, most = bounds
    for limit_w in (least - 1, most + 1):
        with pytest.raises(LimitNotHeld, match=rf"a limit of {limit_w:g} W: {name} takes {least:g} to {most:g} W"):
            hold.at(limit_w)
    assert machine.stands() == machine.own and not journal.exists()
    hold.at(most)
    hold.release()
    assert machine.stands() == machine.own


@pytest.mark.parametrize(
    ("told", "stands_w", "owners_w", "bounds"),
    [
        ((None, None), 80.0, None, (5.0, 80.0)),
        ((None, None), 80.0, 120.0, (5.0, 120.0)),
        ((15.0, 100.0), 80.0, None, (15.0, 100.0)),
        ((15.0, 100.0), 80.0, 90.0, (15.0, 90.0)),
        ((1.0, 100.0), 80.0, 120.0, (5.0, 100.0)),
    ],
)
def test_bounds(
    told: tuple[float | None, float | None], stands_w: float, owners_w: float | None, bounds: tuple[float, float]
) -> None:
    assert bounds_of(*told, stands_w, owners_w) == bounds


def test_a_difference_is_told_by_its_values() -> None:
    assert difference({"a": 45.0, "b": "quiet"}, {"a": 45.4, "b": "quiet", "more": 1.0}) == ""
    words = difference({"a": 45.0, "b": "quiet", "c": 1.0}, {"a": 46.0, "b": "balanced"})
    assert words == (
        "a should be 45 W and is 46 W, b should be quiet and is balanced, c should be 1 W and is not there"
    )
