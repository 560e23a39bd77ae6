"""Sleep is held off by a program that ends with us; where it may not, the next one is tried, and then nothing."""

from __future__ import annotations

import sys

import pytest

from agents.awake import Awake, commands
from tests.waiting import until

STAYS = (sys.executable, "-c", "import sys; sys.stdin.read()")
DENIED = (sys.executable, "-c", "raise SystemExit(1)")
ABSENT = ("no-such-program-anywhere",)


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("Linux", ["systemd-inhibit --what=sleep:idle:handle-lid-switch", "systemd-inhibit --what=sleep:idle --who="]),
        ("Darwin", ["caffeinate -i -m -s -w 42"]),
        ("Windows", []),
        ("Plan9", []),
    ],
)
def test_commands(system: str, words: list[str]) -> None:
    found = [" ".join(command) for command in commands(system, 42)]
    assert len(found) == len(words)
    assert all(text.startswith(begin) for text, begin in zip(found, words, strict=True))


def test_the_first_that_may_holds_until_it_is_closed() -> None:
    awake = Awake([ABSENT, DENIED, STAYS])
    awake.hold()
    until(lambda: awake.held and awake._child is not None and awake._child.args == STAYS, "the last one")
    awake.hold()  # the next job
    awake.close()
    assert not awake.held


@pytest.mark.parametrize("tries", [[], [ABSENT], [DENIED]])
def test_where_nothing_can_be_held_nothing_is(tries: list[tuple[str, ...]]) -> None:
    awake = Awake(tries)
    awake.hold()
    awake.close()
    assert not awake.held
