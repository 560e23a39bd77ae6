"""Tables of events and the commands that follow. Times and the order of devices play no part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agents.contract.device import MemoryKind
from agents.contract.report import RETRIED, Cause, Failed, Refused
from orchestrator.dispatch.messages import AttemptEnded, DeviceLost, Event, GiveUp, PendingJob, Retry
from orchestrator.dispatch.schedule import MAX_FAILURES, Schedule
from tests.unit.dispatch.schedule_messages import (
    CANCELLED,
    CRASHED,
    ENGINE_LOST,
    LEASE_ENDED,
    REFUSED,
    added,
    agent_cannot,
    cancelled,
    ended,
    goes_on,
    jobs,
    joined,
    lost,
    machine,
    paused,
    report,
    skipped,
    state,
    words,
)

Story = Sequence[tuple[Event, list[str]]]
A, B = machine("a"), machine("b")

TO_THEIR_END: dict[str, Story] = {
    "the device first": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (ended("1"), ["keep 1.1", "send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "completed c", "rest a"]),
    ],
    "the run first": [
        (added("c", jobs("a", "1")), []),
        (joined(A), ["send 1.1 to a"]),
        (ended("1"), ["keep 1.1", "completed c", "rest a"]),
    ],
    "two devices run side by side, and each rests once when it has nothing to do": [
        (added("c", jobs("a", "1"), jobs("b", "2", "3")), []),
        (joined(A), ["send 1.1 to a"]),
        (joined(B), ["send 2.1 to b"]),
        (ended("1"), ["keep 1.1", "rest a"]),
        (joined(A), []),
        (ended("2", device_id="b"), ["keep 2.1", "send 3.1 to b"]),
        (ended("3", device_id="b"), ["keep 3.1", "completed c", "rest b"]),
    ],
    "a device without jobs": [(added("c", jobs("a", "1")), []), (joined(B), [])],
    "a run without jobs is complete": [(added("c"), ["completed c"])],
    "refused is a result": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (ended("1", outcome=REFUSED), ["keep 1.1", "completed c", "rest a"]),
    ],
    "more jobs for a run that is known": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (added("c", jobs("a", "2")), []),
        (ended("1"), ["keep 1.1", "send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "completed c", "rest a"]),
    ],
    "a run that comes again after it was complete": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (ended("1"), ["keep 1.1", "completed c", "rest a"]),
        (added("c", [PendingJob("1", "a", state(), attempt=2)]), ["send 1.3 to a"]),
        (ended("1", 3), ["keep 1.3", "completed c", "rest a"]),
    ],
    "several runs on several devices": [
        (joined(A), []),
        (joined(B), []),
        (added("c", jobs("a", "1"), jobs("b", "2"), age=2), ["send 1.1 to a", "send 2.1 to b"]),
        (added("d", jobs("a", "3"), jobs("b", "4"), age=1), []),
        (ended("2", device_id="b"), ["keep 2.1", "send 4.1 to b"]),
        (ended("4", device_id="b"), ["keep 4.1", "rest b"]),
        (ended("1"), ["keep 1.1", "completed c", "send 3.1 to a"]),
        (ended("3"), ["keep 3.1", "completed d", "rest a"]),
    ],
}

WHICH_FIRST: dict[str, Story] = {
    "the more urgent run, whatever its age": [
        (added("old", jobs("a", "1"), age=9), []),
        (added("urgent", jobs("a", "2"), priority=1), []),
        (joined(A), ["send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "completed urgent", "send 1.1 to a"]),
    ],
    "of equal ones the older, in whatever order they were told": [
        (added("young", jobs("a", "1"), age=1), []),
        (added("old", jobs("a", "2"), age=9), []),
        (joined(A), ["send 2.1 to a"]),
    ],
    "another priority counts from the next job on": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2"), age=9), ["send 1.1 to a"]),
        (added("d", jobs("a", "3")), []),
        (goes_on("d", priority=1), []),
        (ended("1"), ["keep 1.1", "send 3.1 to a"]),
    ],
    "a priority stays where none is told": [
        (added("c", jobs("a", "1"), priority=1), []),
        (paused("c"), []),
        (added("d", jobs("a", "2"), age=9), []),
        (goes_on("c"), []),
        (joined(A), ["send 1.1 to a"]),
    ],
    "what fits the present split comes before what the plan has first": [
        (joined(machine(gib=32)), []),
        (added("c", jobs("a", "1", gib=1), jobs("a", "2", gib=32)), ["send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "rest a", "ask a: 1 GiB for c (operator_reboot)"]),
    ],
    "what asks for no state fits any": [
        (joined(machine(gib=32)), []),
        (added("c", jobs("a", "1", gib=1), jobs("a", "2")), ["send 2.1 to a"]),
    ],
    "a younger run that fits, before an older one of equal priority that needs a reboot": [
        (joined(A), []),
        (added("old", jobs("a", "1", gib=32), age=9), ["ask a: 32 GiB for old (operator_reboot)"]),
        (added("young", jobs("a", "2")), ["answered a", "send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "completed young", "rest a", "ask a: 32 GiB for old (operator_reboot)"]),
    ],
    "a more urgent run that needs a reboot keeps the device free": [
        (joined(A), []),
        (added("urgent", jobs("a", "1", gib=32), priority=1), ["ask a: 32 GiB for urgent (operator_reboot)"]),
        (added("c", jobs("a", "2", "3"), age=9), []),
        (joined(machine(gib=32, boot=2)), ["answered a", "send 1.1 to a"]),
        (ended("1"), ["keep 1.1", "completed urgent", "send 2.1 to a"]),
    ],
    "a more urgent run that is paused keeps nobody waiting": [
        (joined(A), []),
        (added("urgent", jobs("a", "1", gib=32), priority=1), ["ask a: 32 GiB for urgent (operator_reboot)"]),
        (added("c", jobs("a", "2")), []),
        (paused("urgent"), ["answered a", "send 2.1 to a"]),
    ],
    "of several changes the cheapest, whatever the plan's order": [
        (joined(machine(watts=80)), []),
        (
            added("c", jobs("a", "1", gib=32), jobs("a", "2", watts=55)),
            ["ask a: 55 W for c (operator)"],
        ),
    ],
    "of two equal changes the plan's first": [
        (joined(A), []),
        (
            added("c", jobs("a", "1", gib=32), jobs("a", "2", gib=16)),
            ["ask a: 32 GiB for c (operator_reboot)"],
        ),
    ],
    "a state that can never be had is sent all the same: the agent says why": [
        (joined(machine(kind=MemoryKind.DISCRETE)), []),
        (added("c", jobs("a", "1", gib=32), jobs("a", "2")), ["send 1.1 to a"]),
    ],
}

ASKED: dict[str, Story] = {
    "once, however often the device is seen": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (joined(A), []),
        (lost(), []),
        (joined(A), []),
        (goes_on("c"), []),
        (added("d", jobs("a", "2", gib=32)), []),
    ],
    "answered when it comes back right": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (lost(), []),
        (joined(machine(gib=31.5, boot=2)), ["answered a", "send 1.1 to a"]),
    ],
    "asked anew when it comes back wrong, with what it came back with": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (
            joined(machine(gib=8, boot=2)),
            ["ask a: 32 GiB for c (operator_reboot, it came back with 8 GiB)"],
        ),
        (joined(machine(gib=32, boot=3)), ["answered a", "send 1.1 to a"]),
    ],
    "asked anew where its split cannot be seen": [
        (joined(machine(gib=None)), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (
            joined(machine(gib=None, boot=2)),
            ["ask a: 32 GiB for c (operator_reboot, it came back and its split cannot be seen)"],
        ),
        (joined(machine(gib=32, boot=2)), ["answered a", "send 1.1 to a"]),
    ],
    "a power limit that is stated": [
        (joined(A), []),
        (added("c", jobs("a", "1", watts=55)), ["ask a: 55 W for c (operator)"]),
        (joined(machine(watts=80)), []),
        (joined(machine(watts=55)), ["answered a", "send 1.1 to a"]),
    ],
    "no power limit where the agent holds it": [
        (joined(machine(holds_power=True)), []),
        (added("c", jobs("a", "1", watts=55), jobs("a", "2", watts=80)), ["send 1.1 to a"]),
    ],
    "the split first, then the power limit": [
        (joined(machine(watts=80)), []),
        (added("c", jobs("a", "1", gib=32, watts=55)), ["ask a: 32 GiB 55 W for c (operator_reboot)"]),
        (
            joined(machine(gib=32, boot=2, watts=80)),
            ["ask a: 32 GiB 55 W for c (operator, it came back with 32 GiB)"],
        ),
        (joined(machine(gib=32, boot=2, watts=55)), ["answered a", "send 1.1 to a"]),
    ],
    "no more when the run is cancelled": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (cancelled("c"), ["answered a"]),
        (goes_on("c"), ["ask a: 32 GiB for c (operator_reboot)"]),
    ],
    "no more when the run was cancelled while the device was away": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (lost(), []),
        (cancelled("c"), []),
        (joined(machine(gib=8, boot=2)), ["answered a"]),
    ],
    "no more when a late report ends the only job": [
        (joined(A), []),
        (added("c", [PendingJob("1", "a", state(32), attempt=1)]), ["ask a: 32 GiB for c (operator_reboot)"]),
        (ended("1"), ["keep 1.1", "completed c", "answered a"]),
    ],
    "no more when it cannot be had": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (
            joined(machine(kind=MemoryKind.UNIFIED, gib=None, boot=2)),
            ["answered a", "send 1.1 to a"],
        ),
    ],
    "for another run that wants the same, when the first is cancelled: not asked again": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32), age=9), ["ask a: 32 GiB for c (operator_reboot)"]),
        (added("d", jobs("a", "2", gib=32)), []),
        (cancelled("c"), []),
    ],
    "for another state, when a more urgent run wants one": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (added("urgent", jobs("a", "2", gib=16), priority=1), ["ask a: 16 GiB for urgent (operator_reboot)"]),
    ],
}

SET_BY_THE_AGENT: dict[str, Story] = {
    "set, rebooted, right": [
        (joined(machine(sets=True)), []),
        (added("c", jobs("a", "1"), jobs("a", "2", gib=32)), ["send 1.1 to a"]),
        (ended("1"), ["keep 1.1", "rest a", "set a to 32 GiB for c"]),
        (added("d", jobs("a", "3"), age=9), []),
        (lost(), []),
        (joined(machine(gib=32, boot=2, sets=True)), ["send 3.1 to a"]),
        (ended("3"), ["keep 3.1", "completed d", "send 2.1 to a"]),
    ],
    "the agent cannot: the operator is asked": [
        (joined(machine(sets=True)), []),
        (added("c", jobs("a", "1", gib=32)), ["set a to 32 GiB for c"]),
        (agent_cannot(), ["ask a: 32 GiB for c (operator_reboot, no right to)"]),
        (joined(machine(sets=True)), []),
        (joined(machine(gib=32, boot=2, sets=True)), ["answered a", "send 1.1 to a"]),
    ],
    "after another reboot the agent tries again": [
        (joined(machine(sets=True)), []),
        (added("c", jobs("a", "1", gib=32)), ["set a to 32 GiB for c"]),
        (agent_cannot(), ["ask a: 32 GiB for c (operator_reboot, no right to)"]),
        (joined(machine(gib=8, boot=2, sets=True)), ["answered a", "set a to 32 GiB for c"]),
    ],
    "it comes back without the split: the operator is asked, it does not reboot for ever": [
        (joined(machine(sets=True)), []),
        (added("c", jobs("a", "1", gib=32)), ["set a to 32 GiB for c"]),
        (lost(), []),
        (
            joined(machine(boot=2, sets=True)),
            ["ask a: 32 GiB for c (operator_reboot, the agent chose the split, and the machine came back without it)"],
        ),
        (lost(), []),
        (joined(machine(gib=32, boot=3, sets=True)), ["answered a", "send 1.1 to a"]),
    ],
    "it comes back before it rebooted: set again": [
        (joined(machine(sets=True)), []),
        (added("c", jobs("a", "1", gib=32)), ["set a to 32 GiB for c"]),
        (lost(), []),
        (joined(machine(sets=True)), ["set a to 32 GiB for c"]),
    ],
    "the firmware's own sizes only": [
        (joined(machine(sets=True, options=(1, 16))), []),
        (added("c", jobs("a", "1", gib=32), jobs("a", "2", gib=16)), ["send 1.1 to a"]),
        (ended("1", outcome=REFUSED), ["keep 1.1", "rest a", "set a to 16 GiB for c"]),
    ],
    "the run is cancelled meanwhile, and another wants another split": [
        (joined(machine(sets=True)), []),
        (added("c", jobs("a", "1", gib=32)), ["set a to 32 GiB for c"]),
        (cancelled("c"), []),
        (added("d", jobs("a", "2", gib=16)), []),
        (joined(machine(gib=32, boot=2, sets=True)), ["set a to 16 GiB for d"]),
        (joined(machine(gib=16, boot=3, sets=True)), ["send 2.1 to a"]),
    ],
    "what was asked of the operator is asked no more": [
        (joined(machine(sets=True, watts=80)), []),
        (added("c", jobs("a", "1", watts=55)), ["ask a: 55 W for c (operator)"]),
        (added("urgent", jobs("a", "2", gib=32), priority=1), ["answered a", "set a to 32 GiB for urgent"]),
        (joined(machine(gib=32, boot=2, sets=True, watts=80)), ["send 2.1 to a"]),
    ],
}

LOST: dict[str, Story] = {
    "its job waits again and is sent anew": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (lost(), []),
        (joined(A), ["send 1.2 to a"]),
        (ended("1", 1), ["discard 1.1"]),
        (ended("1", 2), ["keep 1.2", "send 2.1 to a"]),
    ],
    "the late report of the same attempt counts": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (ended("1"), ["keep 1.1"]),
        (joined(A), ["send 2.1 to a"]),
    ],
    "it still runs the job when it comes back": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (joined(A, ("1", 1)), []),
        (ended("1"), ["keep 1.1", "send 2.1 to a"]),
    ],
    "an attempt counts once, though its loss is told twice": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (ended("1", outcome=LEASE_ENDED), ["discard 1.1"]),
        (joined(A), ["send 1.2 to a"]),
        (lost(), ["1.2 failed, 2: device_lost"]),
    ],
    "a link that comes and goes while it runs one attempt counts once": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (joined(A, ("1", 1)), []),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (joined(A, ("1", 1)), []),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (joined(A, ("1", 1)), []),
        (ended("1"), ["keep 1.1", "send 2.1 to a"]),
    ],
    "an attempt that was taken over and fails counts once": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (joined(A, ("1", 1)), []),
        (ended("1", outcome=ENGINE_LOST), ["1.1 failed, 1: engine_lost", "send 1.2 to a"]),
        (ended("1", 2, outcome=ENGINE_LOST), ["1.2 failed, 2: engine_lost", "send 1.3 to a"]),
    ],
    "given up when it was lost too often": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (joined(A), ["send 1.2 to a"]),
        (lost(), ["1.2 failed, 2: device_lost"]),
        (joined(A), ["send 1.3 to a"]),
        (lost(), ["give up 1.3: device_lost"]),
        (ended("1", 3), ["discard 1.3"]),
        (joined(A, ("1", 3)), ["cancel a"]),
        (ended("1", 3, outcome=CANCELLED), ["discard 1.3", "send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "completed c", "rest a"]),
    ],
    "its last job is given up, and the run is complete": [
        (joined(A), []),
        (added("c", [PendingJob("1", "a", state(), attempt=2, failures=2)]), ["send 1.3 to a"]),
        (lost(), ["give up 1.3: device_lost", "completed c"]),
        (ended("1", 3), ["unknown 1.3"]),
    ],
    "its agent began anew and nobody saw it go": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (joined(machine(boot=2)), ["1.1 failed, 1: device_lost", "send 1.2 to a"]),
    ],
    "the other device goes on": [
        (joined(A), []),
        (joined(B), []),
        (added("c", jobs("a", "1"), jobs("b", "2", "3")), ["send 1.1 to a", "send 2.1 to b"]),
        (lost("a"), ["1.1 failed, 1: device_lost"]),
        (ended("2", device_id="b"), ["keep 2.1", "send 3.1 to b"]),
        (ended("3", device_id="b"), ["keep 3.1", "rest b"]),
        (joined(A), ["send 1.2 to a"]),
        (ended("1", 2), ["keep 1.2", "completed c", "rest a"]),
    ],
    "a device that nobody knows": [(lost("z"), []), (joined(A), [])],
    "while it had nothing to do": [
        (joined(A), []),
        (lost(), []),
        (added("c", jobs("a", "1")), []),
        (joined(A), ["send 1.1 to a"]),
    ],
}

REPORTS: dict[str, Story] = {
    "a lost engine is tried again at once, and no more than three times": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (ended("1", 1, outcome=ENGINE_LOST), ["1.1 failed, 1: engine_lost", "send 1.2 to a"]),
        (ended("1", 2, outcome=ENGINE_LOST), ["1.2 failed, 2: engine_lost", "send 1.3 to a"]),
        (ended("1", 3, outcome=ENGINE_LOST), ["keep 1.3", "send 2.1 to a"]),
    ],
    "lost devices and lost engines are counted together": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (ended("1", 1, outcome=ENGINE_LOST), ["1.1 failed, 1: engine_lost", "send 1.2 to a"]),
        (lost(), ["1.2 failed, 2: device_lost"]),
        (joined(A), ["send 1.3 to a"]),
        (ended("1", 3, outcome=ENGINE_LOST), ["keep 1.3", "completed c", "rest a"]),
    ],
    "told twice": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (ended("1"), ["keep 1.1", "send 2.1 to a"]),
        (ended("1"), ["discard 1.1"]),
        (ended("2"), ["keep 2.1", "completed c", "rest a"]),
        (ended("2"), ["unknown 2.1"]),
    ],
    "a failure told twice while its job cannot be sent counts once": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (paused("c"), []),
        (ended("1", outcome=ENGINE_LOST), ["1.1 failed, 1: engine_lost", "rest a"]),
        (ended("1", outcome=ENGINE_LOST), ["discard 1.1"]),
        (ended("1", outcome=ENGINE_LOST), ["discard 1.1"]),
        (goes_on("c"), ["send 1.2 to a"]),
    ],
    "from a device that does not have the job": [
        (joined(A), []),
        (joined(B), []),
        (added("c", jobs("a", "1"), jobs("b", "2")), ["send 1.1 to a", "send 2.1 to b"]),
        (ended("1", device_id="b"), ["discard 1.1"]),
        (ended("1"), ["keep 1.1", "rest a"]),
    ],
    "of a job that nobody knows here": [
        (joined(A), []),
        (ended("9"), ["unknown 9.1"]),
        (ended("9", device_id="z"), ["unknown 9.1"]),
    ],
    "of a later attempt than was ever sent": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (ended("1", 2), ["discard 1.2"]),
        (ended("1", 1), ["keep 1.1", "completed c", "rest a"]),
    ],
    "of a job that was never sent": [(added("c", jobs("a", "1")), []), (ended("1", 1), ["discard 1.1"])],
    "an old report does not make a busy device free": [
        (added("c", [PendingJob("1", "a", state(), attempt=2)]), []),
        (joined(A, ("1", 1)), ["cancel a"]),
        (ended("7"), ["unknown 7.1"]),
        (ended("1", 0), ["discard 1.0"]),
        (ended("1", 1, outcome=CANCELLED), ["discard 1.1", "send 1.3 to a"]),
    ],
}

RESTARTED: dict[str, Story] = {
    "a device that runs a known attempt goes on with it, and rests after it": [
        (added("c", [PendingJob("1", "a", state(), attempt=1), *jobs("a", "2")]), []),
        (joined(A, ("1", 1)), []),
        (ended("1"), ["keep 1.1", "send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "completed c", "rest a"]),
    ],
    "the last job of all was taken over: its engine leaves the memory too": [
        (added("c", [PendingJob("1", "a", state(), attempt=1)]), []),
        (joined(A, ("1", 1)), []),
        (ended("1"), ["keep 1.1", "completed c", "rest a"]),
    ],
    "a report on its disk counts before it is sent anew": [
        (added("c", [PendingJob("1", "a", state(), attempt=1), *jobs("a", "2")]), []),
        (ended("1"), ["keep 1.1"]),
        (joined(A), ["send 2.1 to a"]),
    ],
    "the attempt number goes on": [
        (added("c", [PendingJob("1", "a", state(), attempt=4, failures=1)]), []),
        (joined(A), ["send 1.5 to a"]),
        (lost(), ["1.5 failed, 2: device_lost"]),
    ],
    "failures are counted on": [
        (added("c", [PendingJob("1", "a", state(), attempt=2, failures=2)]), []),
        (joined(A), ["send 1.3 to a"]),
        (ended("1", 3, outcome=ENGINE_LOST), ["keep 1.3", "completed c", "rest a"]),
    ],
    "a failure that was counted before is not counted again": [
        (added("c", [PendingJob("1", "a", state(), attempt=1, failures=1, failure_counted=True)]), []),
        (ended("1", outcome=ENGINE_LOST), ["discard 1.1"]),
        (joined(A), ["send 1.2 to a"]),
    ],
    "an attempt that nobody counts on is cancelled, and its end waited for": [
        (added("c", [PendingJob("1", "a", state(), attempt=2)]), []),
        (joined(A, ("1", 1)), ["cancel a"]),
        (ended("1", 1), ["discard 1.1", "send 1.3 to a"]),
    ],
    "a job of another ledger is cancelled": [
        (added("c", jobs("a", "1")), []),
        (joined(A, ("z", 1)), ["cancel a"]),
        (ended("z"), ["unknown z.1", "send 1.1 to a"]),
    ],
    "what ran is over when it is greeted again": [
        (added("c", jobs("a", "1")), []),
        (joined(A, ("z", 1)), ["cancel a"]),
        (joined(A), ["send 1.1 to a"]),
    ],
    "it runs something else than what it was sent: that waits again": [
        (joined(A), []),
        (added("c", [PendingJob("1", "a", state(), attempt=1), *jobs("a", "2")]), ["send 1.2 to a"]),
        (joined(A, ("1", 1)), ["1.2 failed, 1: device_lost", "cancel a"]),
        (ended("1", 1, outcome=CANCELLED), ["discard 1.1", "send 1.3 to a"]),
    ],
    "it runs another job that counts than what it was sent: neither is forgotten": [
        (joined(A), []),
        (added("c", jobs("a", "1"), [PendingJob("2", "a", state(), attempt=1)]), ["send 1.1 to a"]),
        (joined(A, ("2", 1)), ["1.1 failed, 1: device_lost"]),
        (ended("2"), ["keep 2.1", "send 1.2 to a"]),
        (ended("1", 2), ["keep 1.2", "completed c", "rest a"]),
    ],
    "a run that was cancelled ends what still runs": [
        (added("c", [PendingJob("1", "a", state(), attempt=1)]), []),
        (cancelled("c"), []),
        (joined(A, ("1", 1)), ["cancel a"]),
        (ended("1", outcome=CANCELLED), ["put back 1.1", "rest a"]),
        (goes_on("c"), ["send 1.2 to a"]),
    ],
    "a cancel that was not heard is told again": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (cancelled("c"), ["cancel a"]),
        (joined(A, ("1", 1)), ["cancel a"]),
        (ended("1", outcome=CANCELLED), ["put back 1.1", "rest a"]),
    ],
    "all that it holds counts before it is given more": [
        (added("c", [PendingJob("1", "a", state(), 1), PendingJob("2", "a", state(), 1)], jobs("a", "3")), []),
        (
            joined(A, reports=(report("2"), report("9"), report("1", outcome=ENGINE_LOST))),
            ["keep 2.1", "unknown 9.1", "1.1 failed, 1: engine_lost", "send 1.2 to a"],
        ),
    ],
    "a run that is taken up while its device is there: what that holds already counts": [
        (joined(A, reports=(report("1"), report("2", 2))), ["unknown 1.1", "unknown 2.2"]),
        (
            replace(
                added("c", [PendingJob("1", "a", state(), 1), PendingJob("2", "a", state(), 3)]),
                reports=(report("1"), report("2", 2)),
            ),
            ["keep 1.1", "discard 2.2", "send 2.4 to a"],
        ),
    ],
    "all of a run that is taken up was done": [
        (joined(A, reports=(report("1"),)), ["unknown 1.1"]),
        (replace(added("c", [PendingJob("1", "a", state(), 1)]), reports=(report("1"),)), ["keep 1.1", "completed c"]),
    ],
    "what it was running is among its reports": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (joined(A, reports=(report("1"),)), ["keep 1.1", "send 2.1 to a"]),
    ],
    "the state that it is in now decides, not that in which it left": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=1), jobs("a", "2", gib=32)), ["send 1.1 to a"]),
        (joined(machine(gib=32, boot=2), reports=(report("1"),)), ["keep 1.1", "send 2.1 to a"]),
    ],
    "a run that is paused lets it end": [
        (added("c", [PendingJob("1", "a", state(), attempt=1)]), []),
        (paused("c"), []),
        (joined(A, ("1", 1)), []),
        (ended("1"), ["keep 1.1", "completed c", "rest a"]),
    ],
}

SWITCHED: dict[str, Story] = {
    "paused: what runs ends, nothing more is sent": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2")), ["send 1.1 to a"]),
        (paused("c"), []),
        (ended("1"), ["keep 1.1", "rest a"]),
        (joined(A), []),
        (goes_on("c"), ["send 2.1 to a"]),
    ],
    "paused: others go on": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2"), age=9), ["send 1.1 to a"]),
        (added("d", jobs("a", "3")), []),
        (paused("c"), []),
        (ended("1"), ["keep 1.1", "send 3.1 to a"]),
    ],
    "cancelled: what runs is ended and waits again, and that is no failure": [
        (joined(A), []),
        (joined(B), []),
        (added("c", jobs("a", "1", "2"), jobs("b", "3")), ["send 1.1 to a", "send 3.1 to b"]),
        (cancelled("c"), ["cancel a", "cancel b"]),
        (ended("1", outcome=CANCELLED), ["put back 1.1", "rest a"]),
        (ended("3", device_id="b"), ["keep 3.1", "rest b"]),
        (goes_on("c"), ["send 1.2 to a"]),
        (lost(), ["1.2 failed, 1: device_lost"]),
    ],
    "cancelled: other runs' jobs are left alone": [
        (joined(A), []),
        (joined(B), []),
        (added("c", jobs("a", "1"), jobs("b", "2"), age=9), ["send 1.1 to a", "send 2.1 to b"]),
        (added("d", jobs("a", "3")), []),
        (ended("1"), ["keep 1.1", "send 3.1 to a"]),
        (cancelled("c"), ["cancel b"]),
    ],
    "cancelled, then the device is lost": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (cancelled("c"), ["cancel a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (joined(A), ["rest a"]),
    ],
    "cancelled without having been asked: sent anew": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (ended("1", outcome=CANCELLED), ["put back 1.1", "send 1.2 to a"]),
    ],
    "added while it is paused": [
        (joined(A), []),
        (added("c", jobs("a", "1")), ["send 1.1 to a"]),
        (paused("c"), []),
        (added("c", jobs("a", "2")), []),
        (ended("1"), ["keep 1.1", "rest a"]),
    ],
    "a run that nobody knows": [(paused("z"), []), (cancelled("z"), []), (goes_on("z"), [])],
}

SKIPPED: dict[str, Story] = {
    "what waits for the state is given up, the rest goes on": [
        (joined(A), []),
        (
            added("c", jobs("a", "1", "2", gib=32), jobs("a", "3", gib=16)),
            ["ask a: 32 GiB for c (operator_reboot)"],
        ),
        (
            skipped(gib=32),
            [
                "give up 1.1: wrong_state",
                "give up 2.1: wrong_state",
                "answered a",
                "ask a: 16 GiB for c (operator_reboot)",
            ],
        ),
    ],
    "the last ones: the run is complete": [
        (joined(A), []),
        (added("c", jobs("a", "1", gib=32)), ["ask a: 32 GiB for c (operator_reboot)"]),
        (skipped(gib=32), ["give up 1.1: wrong_state", "completed c", "answered a"]),
    ],
    "of all runs, on this device alone": [
        (joined(A), []),
        (joined(B), []),
        (added("c", jobs("a", "1", gib=32), age=9), ["ask a: 32 GiB for c (operator_reboot)"]),
        (
            added("d", jobs("a", "2", gib=32), jobs("b", "3", gib=32)),
            ["ask b: 32 GiB for d (operator_reboot)"],
        ),
        (
            skipped(gib=32),
            ["give up 1.1: wrong_state", "completed c", "give up 2.1: wrong_state", "answered a"],
        ),
    ],
    "a power limit in every split": [
        (joined(machine(watts=80)), []),
        (
            added("c", jobs("a", "1", watts=55), jobs("a", "2", gib=32, watts=55), jobs("a", "3", gib=32, watts=80)),
            ["ask a: 55 W for c (operator)"],
        ),
        (
            skipped(watts=55),
            [
                "give up 1.1: wrong_state",
                "give up 2.1: wrong_state",
                "answered a",
                "ask a: 32 GiB 80 W for c (operator_reboot)",
            ],
        ),
    ],
    "what runs is left alone": [
        (joined(A), []),
        (added("c", jobs("a", "1", "2", gib=1)), ["send 1.1 to a"]),
        (skipped(gib=1), ["give up 2.1: wrong_state"]),
        (ended("1"), ["keep 1.1", "completed c", "rest a"]),
    ],
    "on a device that is away": [
        (added("c", jobs("a", "1", gib=32), jobs("a", "2")), []),
        (skipped(gib=32), ["give up 1.1: wrong_state"]),
        (joined(A), ["send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "completed c", "rest a"]),
    ],
    "a late report of a job that is given up does not count": [
        (added("c", [PendingJob("1", "a", state(32), attempt=2)], jobs("a", "2")), []),
        (skipped(gib=32), ["give up 1.2: wrong_state"]),
        (ended("1", 2), ["discard 1.2"]),
    ],
    "each job once, though its loss was told twice": [
        (joined(machine(gib=32)), []),
        (added("c", jobs("a", "1", gib=32), jobs("a", "2")), ["send 1.1 to a"]),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (ended("1", outcome=CANCELLED), ["put back 1.1"]),
        (skipped(gib=32), ["give up 1.1: wrong_state"]),
        (joined(A), ["send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "completed c", "rest a"]),
    ],
    "each job once, though it was taken over and lost": [
        (added("c", [*jobs("a", "0", gib=32), PendingJob("1", "a", state(32), attempt=1), *jobs("a", "2")]), []),
        (joined(A, ("1", 1)), []),
        (lost(), ["1.1 failed, 1: device_lost"]),
        (skipped(gib=32), ["give up 1.1: wrong_state", "give up 0.1: wrong_state"]),
        (joined(A), ["send 2.1 to a"]),
        (ended("2"), ["keep 2.1", "completed c", "rest a"]),
    ],
    "a device that nobody knows": [(skipped("z", gib=32), []), (agent_cannot("z"), [])],
}

STORIES = {
    f"{chapter}: {name}": story
    for chapter, stories in {
        "to their end": TO_THEIR_END,
        "which first": WHICH_FIRST,
        "asked": ASKED,
        "set by the agent": SET_BY_THE_AGENT,
        "lost": LOST,
        "reports": REPORTS,
        "restarted": RESTARTED,
        "switched": SWITCHED,
        "skipped": SKIPPED,
    }.items()
    for name, story in stories.items()
}


@pytest.mark.parametrize("story", STORIES)
def test_events_and_commands(story: str) -> None:
    schedule = Schedule()
    told = [words(schedule.handle(event)) for event, _ in STORIES[story]]
    assert told == [expected for _, expected in STORIES[story]]


@pytest.mark.parametrize("cause", list(Cause))
def test_each_cause_at_its_first_attempt(cause: Cause) -> None:
    schedule = Schedule()
    schedule.handle(joined(A))
    schedule.handle(added("c", jobs("a", "1")))
    first = words(schedule.handle(ended("1", outcome=Failed(cause, "why"))))
    if cause is Cause.CANCELLED:
        assert first == ["put back 1.1", "send 1.2 to a"]
    elif cause in RETRIED:
        assert first == [f"1.1 failed, 1: {cause}", "send 1.2 to a"]
    else:
        assert first == ["keep 1.1", "completed c", "rest a"]


@pytest.mark.parametrize("cause", [each for each in Cause if each not in RETRIED and each is not Cause.CANCELLED])
def test_what_is_refused_is_kept(cause: Cause) -> None:
    schedule = Schedule()
    schedule.handle(joined(A))
    schedule.handle(added("c", jobs("a", "1")))
    assert words(schedule.handle(ended("1", outcome=Refused(cause, "why")))) == ["keep 1.1", "completed c", "rest a"]


def test_a_crash_says_something_of_the_cell() -> None:
    schedule = Schedule()
    schedule.handle(joined(A))
    schedule.handle(added("c", jobs("a", "1")))
    assert words(schedule.handle(ended("1", outcome=CRASHED)))[0] == "keep 1.1"


def test_what_is_told_of_a_failure() -> None:
    """The report goes along where there is one; its words stand in either case."""
    schedule = Schedule()
    schedule.handle(joined(A))
    schedule.handle(added("c", jobs("a", "1")))
    told = report("1", outcome=ENGINE_LOST)
    assert schedule.handle(AttemptEnded(told))[0] == Retry("c", "1", 1, 1, Cause.ENGINE_LOST, "gone", told)
    assert schedule.handle(lost())[0] == Retry("c", "1", 2, 2, Cause.DEVICE_LOST, "silent")
    schedule.handle(joined(A))
    words_of_it = f"silent ({MAX_FAILURES} times while it ran this job)"
    assert schedule.handle(lost())[0] == GiveUp("c", "1", 3, "a", Cause.DEVICE_LOST, words_of_it)


def test_an_attempt_that_never_reached_its_device_is_no_failure() -> None:
    schedule = Schedule()
    schedule.handle(joined(A))
    schedule.handle(added("c", jobs("a", "1")))
    for number in range(1, MAX_FAILURES + 2):
        undelivered = DeviceLost("a", "its agent sleeps", ("1", number))
        assert schedule.handle(undelivered) == [Retry("c", "1", number, 0, Cause.DEVICE_LOST, "its agent sleeps")]
        assert words(schedule.handle(joined(A))) == [f"send 1.{number + 1} to a"]
    assert schedule.handle(DeviceLost("a", "silent", ("1", 1)))[0] == Retry(
        "c", "1", MAX_FAILURES + 2, 1, Cause.DEVICE_LOST, "silent"
    ), "another attempt was delivered"


def test_an_operators_no_is_told_with_its_words() -> None:
    schedule = Schedule()
    schedule.handle(added("c", jobs("a", "1", gib=32), jobs("a", "2")))
    assert schedule.handle(skipped(gib=32)) == [GiveUp("c", "1", 1, "a", Cause.WRONG_STATE, "the operator says so")]


def test_an_ask_is_for_the_run_that_still_wants_it() -> None:
    schedule = Schedule()
    schedule.handle(joined(A))
    schedule.handle(added("c", jobs("a", "1", gib=32), age=9))
    schedule.handle(added("d", jobs("a", "2", gib=32)))
    assert schedule.asks()["a"].run_id == "c"
    schedule.handle(cancelled("c"))
    assert schedule.asks()["a"].run_id == "d"


class TestWhatItSaysOfItself:
    def test_what_runs(self) -> None:
        schedule = Schedule()
        schedule.handle(joined(A))
        schedule.handle(joined(B))
        schedule.handle(added("c", jobs("a", "1"), jobs("b", "2", gib=32)))
        assert schedule.running_attempts() == {"a": ("1", 1)}
        assert (schedule.current_attempt("a"), schedule.current_attempt("b"), schedule.current_attempt("z")) == (
            ("1", 1),
            None,
            None,
        )
        assert list(schedule.asks()) == ["b"]
        schedule.handle(ended("1"))
        assert schedule.running_attempts() == {}

    def test_busy(self) -> None:
        schedule = Schedule()
        assert not schedule.is_busy
        schedule.handle(joined(machine(sets=True)))
        schedule.handle(added("c", jobs("a", "1"), jobs("a", "2", gib=32)))
        assert schedule.is_busy, "a job runs"
        schedule.handle(ended("1"))
        assert schedule.is_busy, "it reboots"
        schedule.handle(agent_cannot())
        assert not schedule.is_busy, "it waits for its operator"
        schedule.handle(joined(A, ("z", 1)))
        assert schedule.is_busy, "it runs what nobody counts on"
        schedule.handle(ended("z"))
        assert not schedule.is_busy
        schedule.handle(joined(A, ("z", 2)))
        schedule.handle(lost())
        assert not schedule.is_busy, "what a lost device runs is not waited for"

    def test_absent_devices_are_those_with_work(self) -> None:
        schedule = Schedule()
        schedule.handle(added("c", jobs("a", "1"), jobs("b", "2")))
        assert sorted(schedule.absent_devices) == ["a", "b"]
        schedule.handle(joined(A))
        assert schedule.absent_devices == ("b",)
        schedule.handle(lost())
        assert sorted(schedule.absent_devices) == ["a", "b"]

    def test_an_absent_device_whose_jobs_are_given_up_has_no_work(self) -> None:
        schedule = Schedule()
        schedule.handle(added("c", jobs("a", "1", gib=32), jobs("b", "2")))
        schedule.handle(skipped(gib=32))
        assert schedule.absent_devices == ("b",)


def test_a_device_that_another_name_is_given_is_the_same() -> None:
    schedule = Schedule()
    schedule.handle(joined(A))
    schedule.handle(added("c", jobs("a", "1", "2")))
    assert schedule.handle(joined(replace(A, name="renamed"), ("1", 1))) == []
    assert words(schedule.handle(ended("1"))) == ["keep 1.1", "send 2.1 to a"]
