from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agents.contract.report import RETRIED, Cause, Failed, Outcome, Refused, Report
from orchestrator.dispatch.campaign import (
    MAX_ATTEMPTS,
    AttemptEnded,
    Campaign,
    Cancel,
    Command,
    DeviceFree,
    DeviceLost,
    Discard,
    Event,
    Finish,
    Keep,
    PutBack,
    Send,
    StopAsked,
)
from tests.unit.results.attempts_made_up import MEASURED, job
from tests.unit.results.attempts_made_up import report as report_of

LOST = Failed(Cause.ENGINE_LOST, "gone")
CRASHED = Failed(Cause.ENGINE_CRASHED, "signal 11")
CANCELLED = Failed(Cause.CANCELLED, "asked to")


def report(job_id: str, attempt: int = 1, device: str = "a", outcome: Outcome = MEASURED) -> Report:
    return replace(report_of(job(job_id), outcome), attempt=attempt, device_id=device)


def ended(job_id: str, attempt: int = 1, device: str = "a", outcome: Outcome = MEASURED) -> AttemptEnded:
    return AttemptEnded(report(job_id, attempt, device, outcome))


def words(commands: Sequence[Command]) -> list[str]:
    """Commands as short text, so that a table can be read."""
    return [_word(command) for command in commands]


def _word(command: Command) -> str:
    match command:
        case Send(job_id, attempt, device_id):
            return f"send {job_id}.{attempt} to {device_id}"
        case Keep(kept, final):
            return f"keep {kept.job_id}.{kept.attempt}" + ("" if final else " and repeat")
        case PutBack(kept):
            return f"put back {kept.job_id}.{kept.attempt}"
        case Discard(kept):
            return f"discard {kept.job_id}.{kept.attempt}"
        case Cancel(device_id):
            return f"cancel {device_id}"
        case Finish():
            return "finish"


FREE, FREE_B = DeviceFree("a"), DeviceFree("b")
GONE, GONE_B = DeviceLost("a", "silent"), DeviceLost("b", "silent")

STORIES: dict[str, tuple[Mapping[str, Sequence[str]], list[tuple[Event, list[str]]]]] = {
    "one device, to its end": (
        {"a": ["1", "2"]},
        [
            (FREE, ["send 1.1 to a"]),
            (ended("1"), ["keep 1.1", "send 2.1 to a"]),
            (ended("2"), ["keep 2.1", "finish"]),
        ],
    ),
    "two devices run side by side": (
        {"a": ["1"], "b": ["2", "3"]},
        [
            (FREE, ["send 1.1 to a"]),
            (FREE_B, ["send 2.1 to b"]),
            (ended("1"), ["keep 1.1"]),
            (ended("2", device="b"), ["keep 2.1", "send 3.1 to b"]),
            (ended("3", device="b"), ["keep 3.1", "finish"]),
        ],
    ),
    "a device without jobs waits for the others": (
        {"a": [], "b": ["1"]},
        [(FREE, []), (FREE_B, ["send 1.1 to b"]), (ended("1", device="b"), ["keep 1.1", "finish"])],
    ),
    "a device that the plan does not know": ({"a": ["1"]}, [(FREE_B, []), (FREE, ["send 1.1 to a"])]),
    "nothing to do": ({"a": []}, [(FREE, ["finish"])]),
    "free twice: one job at a time": ({"a": ["1", "2"]}, [(FREE, ["send 1.1 to a"]), (FREE, [])]),
    "refused is a result": (
        {"a": ["1"]},
        [
            (FREE, ["send 1.1 to a"]),
            (ended("1", outcome=Refused(Cause.UNSUPPORTED, "no")), ["keep 1.1", "finish"]),
        ],
    ),
    "a crash is a result": (
        {"a": ["1"]},
        [(FREE, ["send 1.1 to a"]), (ended("1", outcome=CRASHED), ["keep 1.1", "finish"])],
    ),
    "a lost engine is tried again, at once, and no more than three times": (
        {"a": ["1", "2"]},
        [
            (FREE, ["send 1.1 to a"]),
            (ended("1", 1, outcome=LOST), ["keep 1.1 and repeat", "send 1.2 to a"]),
            (ended("1", 2, outcome=LOST), ["keep 1.2 and repeat", "send 1.3 to a"]),
            (ended("1", 3, outcome=LOST), ["keep 1.3", "send 2.1 to a"]),
            (ended("2"), ["keep 2.1", "finish"]),
        ],
    ),
    "a report that is told twice": (
        {"a": ["1", "2"]},
        [
            (FREE, ["send 1.1 to a"]),
            (ended("1"), ["keep 1.1", "send 2.1 to a"]),
            (ended("1"), ["discard 1.1"]),
            (ended("2"), ["keep 2.1", "finish"]),
            (ended("2"), ["discard 2.1"]),
        ],
    ),
    "a stale attempt does not pass for the current one": (
        {"a": ["1"]},
        [
            (FREE, ["send 1.1 to a"]),
            (GONE, ["finish"]),
            (FREE, ["send 1.2 to a"]),
            (ended("1", 1), ["discard 1.1"]),
            (ended("1", 2), ["keep 1.2", "finish"]),
        ],
    ),
    "a report from a device that does not have the job": (
        {"a": ["1"], "b": ["2"]},
        [(FREE, ["send 1.1 to a"]), (FREE_B, ["send 2.1 to b"]), (ended("1", device="b"), ["discard 1.1"])],
    ),
    "the only device is lost": ({"a": ["1", "2"]}, [(FREE, ["send 1.1 to a"]), (GONE, ["finish"])]),
    "one of two is lost: the other goes on, then the end": (
        {"a": ["1", "2"], "b": ["3", "4"]},
        [
            (FREE, ["send 1.1 to a"]),
            (FREE_B, ["send 3.1 to b"]),
            (GONE, []),
            (ended("3", device="b"), ["keep 3.1", "send 4.1 to b"]),
            (ended("4", device="b"), ["keep 4.1", "finish"]),
        ],
    ),
    "both are lost, one after the other": (
        {"a": ["1"], "b": ["2"]},
        [(FREE, ["send 1.1 to a"]), (FREE_B, ["send 2.1 to b"]), (GONE_B, []), (GONE, ["finish"])],
    ),
    "a lost device that comes back gets its job again": (
        {"a": ["1"], "b": ["2"]},
        [
            (FREE, ["send 1.1 to a"]),
            (FREE_B, ["send 2.1 to b"]),
            (GONE, []),
            (FREE, ["send 1.2 to a"]),
            (ended("2", device="b"), ["keep 2.1"]),
            (ended("1", 2), ["keep 1.2", "finish"]),
        ],
    ),
    "lost with nothing to do": ({"a": [], "b": ["1"]}, [(FREE_B, ["send 1.1 to b"]), (GONE, [])]),
    "stop: what runs is cancelled and waits again": (
        {"a": ["1", "2"], "b": ["3"]},
        [
            (FREE, ["send 1.1 to a"]),
            (FREE_B, ["send 3.1 to b"]),
            (StopAsked(), ["cancel a", "cancel b"]),
            (ended("1", outcome=CANCELLED), ["put back 1.1"]),
            (ended("3", device="b", outcome=CANCELLED), ["put back 3.1", "finish"]),
        ],
    ),
    "stop: what ends well all the same is kept": (
        {"a": ["1", "2"]},
        [(FREE, ["send 1.1 to a"]), (StopAsked(), ["cancel a"]), (ended("1"), ["keep 1.1", "finish"])],
    ),
    "stop while nothing runs": ({"a": ["1"]}, [(StopAsked(), ["finish"]), (FREE, ["finish"])]),
    "stop, then the device is lost": (
        {"a": ["1"]},
        [(FREE, ["send 1.1 to a"]), (StopAsked(), ["cancel a"]), (GONE, ["finish"])],
    ),
    "cancelled without a stop: the job is sent anew": (
        {"a": ["1"]},
        [(FREE, ["send 1.1 to a"]), (ended("1", outcome=CANCELLED), ["put back 1.1", "send 1.2 to a"])],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_events_and_commands(story: str) -> None:
    queues, steps = STORIES[story]
    campaign = Campaign(queues)
    assert [words(campaign.handle(event)) for event, _ in steps] == [expected for _, expected in steps]


@pytest.mark.parametrize("cause", list(Cause))
def test_each_cause_at_its_first_attempt(cause: Cause) -> None:
    campaign = Campaign({"a": ["1"]})
    campaign.handle(FREE)
    first = words(campaign.handle(ended("1", outcome=Failed(cause, "why"))))
    if cause is Cause.CANCELLED:
        assert first == ["put back 1.1", "send 1.2 to a"]
    elif cause in RETRIED:
        assert first == ["keep 1.1 and repeat", "send 1.2 to a"]
    else:
        assert first == ["keep 1.1", "finish"]


def test_attempts_go_on_after_a_restart() -> None:
    campaign = Campaign({"a": ["1"]}, {"1": MAX_ATTEMPTS - 1})
    assert words(campaign.handle(FREE)) == [f"send 1.{MAX_ATTEMPTS} to a"]
    assert words(campaign.handle(ended("1", MAX_ATTEMPTS, outcome=LOST))) == [f"keep 1.{MAX_ATTEMPTS}", "finish"]


def test_waiting_counts_what_is_not_sent() -> None:
    campaign = Campaign({"a": ["1", "2"], "b": ["3"]})
    counts = [campaign.waiting]
    for event in (FREE, FREE_B, GONE, ended("3", device="b")):
        campaign.handle(event)
        counts.append(campaign.waiting)
    assert counts == [3, 2, 1, 2, 2]


DEVICES = ("a", "b", "c")
OUTCOMES = (MEASURED, LOST, CRASHED, CANCELLED, Failed(Cause.DEVICE_LOST, "x"), Refused(Cause.RAM, "too big"))


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Devices end jobs, vanish, come back, and tell old reports again, in any order.

    ``truth`` is what each device really runs, also while the campaign takes it for lost.
    """

    @initialize(sizes=st.tuples(*[st.integers(0, 4)] * len(DEVICES)))
    def begin(self, sizes: tuple[int, ...]) -> None:
        self.queues = {
            device: [f"{device}{n}" for n in range(size)] for device, size in zip(DEVICES, sizes, strict=True)
        }
        self.campaign = Campaign(self.queues)
        self.truth: dict[str, tuple[str, int]] = {}
        self.lost: set[str] = set()
        self.kept: list[str] = []
        self.sent: dict[str, int] = {}
        self.old: list[Report] = []
        self.finished = False

    def handle(self, event: Event) -> None:
        for command in self.campaign.handle(event):
            match command:
                case Send(job_id, attempt, device_id):
                    assert device_id not in self.truth, "two jobs on one device"
                    assert job_id in self.queues[device_id], "a job on a device that it is not for"
                    assert job_id not in self.kept, "a job that is done is sent again"
                    assert attempt == self.sent.get(job_id, 0) + 1
                    self.sent[job_id] = attempt
                    self.truth[device_id] = (job_id, attempt)
                case Keep(report, True):
                    assert report.job_id not in self.kept, "kept twice"
                    assert report.attempt == self.sent[report.job_id], "a stale attempt is kept"
                    self.kept.append(report.job_id)
                case Finish():
                    self.finished = True
                case _:
                    pass

    @rule(device=st.sampled_from(DEVICES))
    def is_free(self, device: str) -> None:
        if device not in self.truth:
            self.lost.discard(device)
            self.handle(DeviceFree(device))

    @rule(device=st.sampled_from(DEVICES), outcome=st.sampled_from(OUTCOMES))
    def ends(self, device: str, outcome: Outcome) -> None:
        if device in self.truth:
            job_id, attempt = self.truth.pop(device)
            told = report(job_id, attempt, device, outcome)
            self.old.append(told)
            self.handle(AttemptEnded(told))

    @rule(device=st.sampled_from(DEVICES), with_its_job=st.booleans())
    def is_lost(self, device: str, with_its_job: bool) -> None:
        self.lost.add(device)
        if with_its_job:
            self.truth.pop(device, None)
        self.handle(DeviceLost(device, "silent"))

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def tells_again(self, data: st.DataObject) -> None:
        commands = self.campaign.handle(AttemptEnded(data.draw(st.sampled_from(self.old))))
        assert all(isinstance(command, Discard) for command in commands)

    @invariant()
    def nothing_is_lost(self) -> None:
        here = len(self.truth.keys() - self.lost)
        assert self.campaign.waiting + here + len(self.kept) == sum(map(len, self.queues.values()))

    def teardown(self) -> None:
        """Every device comes back and measures: then every job is kept, once, and the campaign says that it is done."""
        for device in DEVICES:
            if device in self.lost:
                self.truth.pop(device, None)
            self.is_free(device)
        while self.truth:
            self.finished = False
            self.ends(next(iter(self.truth)), MEASURED)
        assert sorted(self.kept) == sorted(job for jobs in self.queues.values() for job in jobs)
        assert self.finished or not self.kept
        self.is_free("a")
        assert self.finished


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, database=None)
