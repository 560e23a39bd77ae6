"""Devices that take no jobs for now, and cells whose job process hangs: stories of events and commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agents.contract.device import Blocked
from agents.contract.report import Cause, Failed
from orchestrator.dispatch.messages import BlockChanged, DeviceJoined, Event, PendingJob
from orchestrator.dispatch.schedule import Schedule
from tests.unit.dispatch.schedule_messages import (
    added,
    ended,
    goes_on,
    jobs,
    joined,
    lost,
    machine,
    paused,
    words,
)

Story = Sequence[tuple[Event, list[str]]]
A, REBOOTED = machine("a"), machine("a", boot=2)
FULL, STUCK = Blocked("its disk is full"), Blocked("process 7 hangs", needs_reboot=True)
ASK = "ask a: as it stands for c (operator_reboot, process 7 hangs)"
DISK = Failed(Cause.DISK_FULL, "No space left on device")
FAULT = Failed(Cause.DISK_FAULT, "Input/output error")
HUNG = Failed(Cause.ENGINE_LOST, 'the job process hung at "loading"', hung_stage="loading")


def blocked(why: Blocked | None) -> BlockChanged:
    return BlockChanged("a", why)


def of_cell(cell_id: str, *job_ids: str, hangs: int = 0, **known: Any) -> list[PendingJob]:
    made = jobs("a", *job_ids)
    return [replace(job, cell_id=cell_id, hangs=hangs, **known) for job in made]


STORIES: dict[str, Story] = {
    "a full disk: the job waits with its device, nothing is counted, and all goes on by itself": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (blocked(FULL), []),
        (ended("1", outcome=DISK), ["put back 1.1", "rest a"]),
        (ended("1", outcome=DISK), ["discard 1.1"]),  # sent again, since its acknowledgement was late
        (blocked(replace(FULL, why="still full")), []),
        (blocked(None), ["send 1.2 to a"]),
        (ended("1", outcome=DISK), ["discard 1.1"]),
        (ended("1", 2), ["keep 1.2", "send 2.1 to a"]),
    ],
    "a disk that fails: as often as it takes": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        *(
            step
            for attempt in range(1, 6)
            for step in (
                (blocked(FULL), []),
                (ended("1", attempt, outcome=FAULT), [f"put back 1.{attempt}", "rest a"]),
                (blocked(None), [f"send 1.{attempt + 1} to a"]),
            )
        ),
    ],
    "a model that is too large for the disk is a result": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (ended("1", outcome=DISK), ["keep 1.1", "send 2.1 to a"]),
    ],
    "a fault of the disk that has passed is tried again": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (ended("1", outcome=FAULT), ["1.1 failed, 1: disk_fault", "send 1.2 to a"]),
    ],
    "a result that the disk could not take counts": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (blocked(FULL), []),
        (ended("1"), ["keep 1.1", "rest a"]),
    ],
    "a run that comes while the device is blocked waits": [
        (DeviceJoined(A, blocked=FULL), []),
        (added("c", jobs("a", "1")), []),
        (blocked(None), ["send 1.1 to a"]),
    ],
    "a device that joins blocked, with the report of its disk": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (DeviceJoined(A, reports=(ended("1", outcome=DISK).report,), blocked=FULL), ["discard 1.1", "rest a"]),
        (blocked(None), ["send 1.2 to a"]),
    ],
    "a full disk takes back what its operator was asked": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (blocked(FULL), ["answered a"]),
        (blocked(None), ["ask a: 32 GiB for c (operator_reboot)"]),
    ],
    "what hangs in a driver: the operator is asked once, and nothing is sent until a new boot": [
        (joined(A), []),
        (added("c", of_cell("x", "1"), of_cell("y", "2")), ["send 1.1 to a"]),
        (blocked(STUCK), []),
        (ended("1", outcome=HUNG), ["1.1 failed, 1: engine_lost", "rest a", ASK]),
        (blocked(STUCK), []),
        (lost(), []),
        (DeviceJoined(A, blocked=STUCK), []),  # another agent in the same boot
        (joined(REBOOTED), ["answered a", "send 1.2 to a"]),
    ],
    "nobody is asked for a reboot that no run needs": [
        (DeviceJoined(A, blocked=STUCK), []),
        (added("c", jobs("a", "1")), [ASK]),
        (paused("c"), ["answered a"]),
        (goes_on("c"), [ASK]),
    ],
    "the second hang of a job is its result": [
        (joined(A), []),
        (added("c", of_cell("x", "1"), of_cell("y", "2")), ["send 1.1 to a"]),
        (ended("1", outcome=HUNG), ["1.1 failed, 1: engine_lost", "send 1.2 to a"]),
        (ended("1", 2, outcome=HUNG), ["keep 1.2", "send 2.1 to a"]),
        (ended("2", outcome=HUNG), ["2.1 failed, 1: engine_lost", "send 2.2 to a"]),
    ],
    "the second hang of a cell, whichever repeat": [
        (joined(A), []),
        (added("c", of_cell("x", "1", "2", "3")), ["send 1.1 to a"]),
        (ended("1", outcome=HUNG), ["1.1 failed, 1: engine_lost", "send 1.2 to a"]),
        (ended("1", 2), ["keep 1.2", "send 2.1 to a"]),
        (ended("2", outcome=HUNG), ["keep 2.1", "send 3.1 to a"]),
        (ended("3", outcome=HUNG), ["keep 3.1", "completed c", "rest a"]),
    ],
    "a hang that the ledger knows": [
        (joined(A), []),
        (added("c", of_cell("x", "1", hangs=1, attempt=1, failures=1)), ["send 1.2 to a"]),
        (ended("1", 2, outcome=HUNG), ["keep 1.2", "completed c", "rest a"]),
    ],
    "an engine that is lost in another way is tried as often as before": [
        (joined(A), []),
        (added("c", of_cell("x", "1")), ["send 1.1 to a"]),
        (ended("1", outcome=HUNG), ["1.1 failed, 1: engine_lost", "send 1.2 to a"]),
        (ended("1", 2, outcome=replace(HUNG, hung_stage="")), ["1.2 failed, 2: engine_lost", "send 1.3 to a"]),
        (ended("1", 3, outcome=replace(HUNG, hung_stage="")), ["keep 1.3", "completed c", "rest a"]),
    ],
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_story(story: Story) -> None:
    schedule = Schedule()
    for event, expected in story:
        assert words(schedule.handle(event)) == expected, event


def test_the_same_cell_on_another_device_has_its_own_hangs() -> None:
    schedule = Schedule()
    schedule.handle(joined(A))
    schedule.handle(joined(machine("b")))
    here, there = of_cell("x", "1"), [replace(jobs("b", "2")[0], cell_id="x")]
    schedule.handle(added("c", here, there))
    schedule.handle(ended("1", outcome=HUNG))
    assert words(schedule.handle(ended("2", device_id="b", outcome=HUNG))) == [
        "2.1 failed, 1: engine_lost",
        "send 2.2 to b",
    ]


def test_the_run_goes_on_elsewhere() -> None:
    schedule = Schedule()
    schedule.handle(joined(A))
    schedule.handle(joined(machine("b")))
    schedule.handle(added("c", jobs("a", "1"), jobs("b", "2", "3")))
    schedule.handle(blocked(STUCK))
    assert words(schedule.handle(ended("2", device_id="b"))) == ["keep 2.1", "send 3.1 to b"]


def test_who_is_blocked() -> None:
    schedule = Schedule()
    assert words(schedule.handle(blocked(FULL))) == [], "of a device that is not known"
    schedule.handle(DeviceJoined(A, blocked=FULL))
    schedule.handle(joined(machine("b")))
    assert schedule.blocked() == {"a": FULL}
    assert (schedule.blocked_of("a"), schedule.blocked_of("b"), schedule.blocked_of("z")) == (FULL, None, None)
    schedule.handle(added("c", jobs("a", "1", gib=32)))
    assert schedule.asks() == {}
    schedule.handle(lost())
    assert schedule.blocked() == {}, "what is away has other troubles"
