"""When a job process that hangs is ended, and when it is given up."""

from __future__ import annotations

import pytest

from agents.agent.hang_detector import Abandon, HangDetector, HangLimits, Kill

LIMITS = HangLimits(extra_s=60.0, cancel_s=10.0, close_s=5.0, kill_s=5.0, look_s=5.0, missed_s=15.0)
Step = Kill | Abandon | None


def looked(detector: HangDetector, from_s: float, until_s: float) -> tuple[float, Step]:
    """Looks as its agent does, from one time to another; when something was due, and what."""
    now_s = from_s
    while now_s < until_s:
        now_s = min(now_s + max(detector.wait_s(now_s), 0.001), until_s)
        if (step := detector.look(now_s)) is not None:
            return now_s, step
    return until_s, None


@pytest.fixture
def detector() -> HangDetector:
    return HangDetector(LIMITS, 0.0)


def test_an_idle_job_process_may_stay_for_ever(detector: HangDetector) -> None:
    assert looked(detector, 0.0, 1e5) == (1e5, None)


def test_a_stage_that_outlives_its_limit_and_a_minute_is_a_hang(detector: HangDetector) -> None:
    detector.begin_stage("loading", 600.0, 100.0)
    at_s, step = looked(detector, 0.0, 2000.0)
    assert at_s == pytest.approx(760.0)
    words = 'the job process hung at "loading": no end after 660 s, 60 s past its limit'
    assert step == Kill("loading", words)


def test_each_stage_has_its_own_time(detector: HangDetector) -> None:
    detector.begin_stage("loading", 600.0, 0.0)
    assert looked(detector, 0.0, 650.0)[1] is None
    detector.begin_stage("measuring", 10.0, 650.0)
    at_s, step = looked(detector, 650.0, 2000.0)
    assert at_s == pytest.approx(720.0)
    assert isinstance(step, Kill) and step.stage == "measuring"


def test_a_job_that_has_ended_in_time_leaves_nothing_behind(detector: HangDetector) -> None:
    detector.begin_stage("measuring", 10.0, 0.0)
    detector.cancel(5.0)
    detector.end_job()
    assert looked(detector, 5.0, 1000.0)[1] is None


def test_a_cancel_is_answered_within_ten_seconds_whatever_the_stage_may_take(detector: HangDetector) -> None:
    detector.begin_stage("measuring", 3600.0, 0.0)
    assert looked(detector, 0.0, 100.0)[1] is None
    detector.cancel(100.0)
    detector.cancel(108.0)  # gives no more time
    at_s, step = looked(detector, 100.0, 200.0)
    assert at_s == pytest.approx(110.0)
    assert step == Kill("measuring", 'the job process hung at "measuring": a cancel was not answered within 10 s')


def test_the_end_of_a_job_answers_a_cancel_another_stage_does_not(detector: HangDetector) -> None:
    detector.begin_stage("loading", 600.0, 0.0)
    detector.cancel(1.0)
    detector.begin_stage("measuring", 600.0, 2.0)
    assert looked(detector, 2.0, 60.0)[0] == pytest.approx(11.0)
    again = HangDetector(LIMITS, 0.0)
    again.begin_stage("measuring", 600.0, 0.0)
    again.cancel(1.0)
    again.begin_stage("ending", 60.0, 2.0, answers_cancel=True)
    at_s, step = looked(again, 2.0, 300.0)
    assert at_s == pytest.approx(122.0)
    assert isinstance(step, Kill) and step.stage == "ending"


def test_a_cancel_without_a_job_asks_for_no_answer(detector: HangDetector) -> None:
    detector.cancel(0.0)
    assert looked(detector, 0.0, 100.0)[1] is None


def test_what_is_to_end_and_does_not_is_killed(detector: HangDetector) -> None:
    assert not detector.is_ending
    detector.close(0.0)
    assert detector.is_ending
    at_s, step = looked(detector, 0.0, 100.0)
    assert at_s == pytest.approx(5.0)
    assert step == Kill("", "the job process did not end within 5 s")


def test_what_sigkill_does_not_end_is_given_up_after_five_seconds(detector: HangDetector) -> None:
    detector.begin_stage("loading", 600.0, 0.0)
    detector.kill(100.0)
    detector.kill(104.0)  # gives no more time
    assert detector.is_ending
    assert looked(detector, 0.0, 104.9)[1] is None, "killed once, and not each time that is looked"
    at_s, step = looked(detector, 104.9, 200.0)
    assert at_s == pytest.approx(105.0)
    assert step == Abandon()


def test_time_in_which_the_agent_itself_did_not_run_is_no_hang(detector: HangDetector) -> None:
    """A laptop that slept for an hour, on a system whose monotonic clock goes on; a machine that was stopped."""
    detector.begin_stage("measuring", 100.0, 0.0)
    assert looked(detector, 0.0, 50.0)[1] is None
    assert detector.look(3650.0) is None
    at_s, step = looked(detector, 3650.0, 5000.0)
    assert isinstance(step, Kill)
    assert at_s == pytest.approx(3600.0 + 160.0)


@pytest.mark.parametrize("begin", ["cancel", "close", "kill"])
def test_nor_is_it_counted_against_what_was_begun(detector: HangDetector, begin: str) -> None:
    detector.begin_stage("measuring", 10_000.0, 0.0)
    detector.look(0.0)
    getattr(detector, begin)(0.0)
    assert detector.look(3600.0) is None
    assert looked(detector, 3600.0, 3700.0)[1] is not None


def test_a_look_that_is_a_little_late_counts(detector: HangDetector) -> None:
    detector.begin_stage("measuring", 0.0, 0.0)
    now_s, step = 0.0, None
    while step is None:
        now_s += LIMITS.missed_s  # a busy machine
        step = detector.look(now_s)
    assert now_s == 60.0
