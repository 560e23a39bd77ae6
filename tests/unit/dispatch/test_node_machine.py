"""Stories of nodes whose answers come late, twice or never; the real schedule stands behind them."""

from __future__ import annotations

import pytest

from orchestrator.dispatch.fleet import DeviceGreeted, DeviceUnreachable, NodeTroubleChanged
from orchestrator.dispatch.messages import GiveUp, Keep, Retry, Send
from orchestrator.dispatch.nodes.calls import AGAIN_S, GREET_S, NAME_FREE_S, POLL_S
from orchestrator.dispatch.nodes.identity import CLAIM_S
from orchestrator.dispatch.nodes.machine import AGAIN_MOST_S, CHECK_S, CLOSE_S, SENDS, SILENT_POLLS, TICK_S
from orchestrator.dispatch.nodes.node import CallError, CallKind, Failure, NodePhase
from tests.fakes.simulated_nodes import Flight, World

SILENT_S = SILENT_POLLS * POLL_S
UNAVAILABLE = Failure(CallError.UNAVAILABLE, "not reached")


def joined(*node_ids: str, version: str = "1") -> World:
    """Nodes that have been greeted; the first letter is the device's id."""
    world = World()
    for node_id in node_ids or ("a1",):
        world.join(node_id, node_id[0], version)
    world.advance(0.1)
    world.settle()
    return world


def running(*job_ids: str) -> World:
    world = joined()
    world.submit("run-1", [(job_id, "a") for job_id in job_ids or ("j",)])
    world.settle()
    return world


def latest(world: World, kind: CallKind) -> Flight:
    return [each for each in world.flights if each.call.kind is kind][-1]


def phase(world: World, node_id: str = "a1") -> NodePhase:
    return world.machine.nodes[node_id].phase


def unreachable(world: World) -> list[str]:
    return [each.detail for each in world.events if isinstance(each, DeviceUnreachable)]


def troubles(world: World) -> list[str]:
    return [each.detail for each in world.events if isinstance(each, NodeTroubleChanged)]


def retries(world: World) -> list[tuple[int, int]]:
    """Attempts, and the failures counted so far."""
    return [(each.attempt, each.failures) for each in world.commands if isinstance(each, Retry)]


def end_job(world: World, node_id: str = "a1") -> None:
    actor = world.hosts[node_id].actor
    assert actor is not None
    actor.end_job()


def complete(world: World) -> list[tuple[str, int]]:
    """Jobs that are kept, with their attempts, when all goes well from now on."""
    for _ in range(100):
        world.settle()
        for host in world.hosts.values():
            if host.actor is not None:
                host.actor.end_job()
        world.advance(TICK_S)
    assert not world.jobs
    return [(each.report.job_id, each.report.attempt) for each in world.commands if isinstance(each, Keep)]


def test_a_job_is_sent_polled_and_kept() -> None:
    world = running("j", "k")
    assert world.schedule.running_attempts() == {"a": ("j", 1)}
    assert complete(world) == [("j", 1), ("k", 1)]
    assert phase(world) is NodePhase.UP
    assert CallKind.POLL not in world.machine.nodes["a1"].pending, "an idle device is not polled"
    assert unreachable(world) == []


def test_a_late_answer_to_close_ends_nobody_but_whom_it_concerns() -> None:
    world = joined()
    first = world.hosts["a1"].actor
    world.carry_out(world.machine.sleep_devices(world.now_s))
    close = latest(world, CallKind.CLOSE)
    world.advance(CLOSE_S)
    assert phase(world) is NodePhase.ASLEEP, "who does not close in time is killed"
    assert first is not None
    assert not first.is_alive
    world.machine.wake_devices(world.now_s)
    world.advance(NAME_FREE_S)
    world.settle()
    world.submit("run-1", [("j", "a")])
    world.settle()
    second = world.hosts["a1"].actor
    assert second is not None and second is not first
    world.execute(close)
    world.answer(close)
    world.answer(close, UNAVAILABLE)
    assert second.is_alive
    assert phase(world) is NodePhase.UP
    assert complete(world) == [("j", 1)]


def test_an_answer_counts_for_the_call_that_it_is_of() -> None:
    world = joined()
    closes = []
    for _ in range(2):
        world.carry_out(world.machine.sleep_devices(world.now_s))
        closes.append(latest(world, CallKind.CLOSE))
        if len(closes) == 1:
            world.advance(CLOSE_S)
            world.machine.wake_devices(world.now_s)
            world.advance(NAME_FREE_S)
            world.settle()
    world.answer(closes[0], UNAVAILABLE)
    assert phase(world) is NodePhase.CLOSING
    world.answer(closes[1], UNAVAILABLE)
    assert phase(world) is NodePhase.ASLEEP


def test_an_agent_that_closes_is_not_used_again() -> None:
    world = joined()
    world.carry_out(world.machine.sleep_devices(world.now_s))
    world.machine.wake_devices(world.now_s)
    world.submit("run-1", [("j", "a")])
    assert world.machine.nodes["a1"].phase is NodePhase.WAKING
    world.advance(CLOSE_S)
    world.advance(NAME_FREE_S)
    assert phase(world) is NodePhase.GREETING
    assert complete(world) == [("j", 2)]
    assert retries(world) == [(1, 0)], "an attempt that was never sent is no failure"


def test_a_job_for_a_device_that_sleeps_waits_until_it_is_awake() -> None:
    world = joined()
    world.carry_out(world.machine.sleep_devices(world.now_s))
    world.settle()
    assert phase(world) is NodePhase.ASLEEP
    world.machine.wake_devices = lambda now_s: None  # type: ignore[method-assign]
    world.submit("run-1", [("j", "a")])
    assert unreachable(world) == ["its agent sleeps"]
    assert retries(world) == [(1, 0)]
    assert complete(world) == [("j", 2)]


def test_a_job_for_a_device_that_left_is_pending_again() -> None:
    world = joined()
    world.machine.nodes.clear()
    world.machine._by_device.clear()
    world.submit("run-1", [("j", "a")])
    assert retries(world) == [(1, 0)]
    assert complete(world) == [("j", 2)]


def test_a_greeting_that_was_asked_before_a_job_was_sent_is_no_failure_of_that_job() -> None:
    world = running("j", "k", "l")
    for _ in range(4):
        world.advance(SILENT_S + TICK_S)
        assert phase(world) is NodePhase.CHECKING
        old = latest(world, CallKind.HELLO)
        end_job(world)
        world.execute(old)  # "nothing runs here", says the answer that comes late
        poll = latest(world, CallKind.POLL)
        world.execute(poll)
        world.answer(poll)
        if not world.jobs:
            break
        world.advance(SILENT_S + TICK_S)
        world.answer(old)
        assert phase(world) is NodePhase.CHECKING
        assert retries(world) == []
        world.settle()
    assert [each.attempt for each in world.commands if isinstance(each, Send)] == [1, 1, 1]
    assert not any(isinstance(each, GiveUp) for each in world.commands)


def test_a_start_that_is_overtaken_by_a_greeting_is_no_failure() -> None:
    world = joined()
    world.submit("run-1", [("j", "a")])
    start = latest(world, CallKind.START)
    world.answer(start, UNAVAILABLE)
    hello = latest(world, CallKind.HELLO)
    world.execute(hello)
    world.answer(hello)
    assert retries(world) == []
    again = latest(world, CallKind.START)
    assert again is not start
    assert troubles(world)[-1] == ""
    world.execute(start)
    world.execute(again)
    world.answer(again)
    assert complete(world) == [("j", 1)]


def test_an_agent_that_never_gets_its_job_is_reported() -> None:
    world = joined()
    world.submit("run-1", [("j", "a")])
    for _ in range(SENDS):
        world.answer(latest(world, CallKind.START), UNAVAILABLE)
        hello = latest(world, CallKind.HELLO)
        world.execute(hello)
        world.answer(hello)
    assert unreachable(world) == [f"it was sent a job {SENDS} times, and has not taken it"]
    assert retries(world) == [(1, 1)]


def test_a_start_that_is_lost_again_and_again_is_reported_in_time() -> None:
    """Each greeting is answered, and late."""
    world = joined()
    world.submit("run-1", [("j", "a")])
    began_s = world.now_s
    while not unreachable(world):
        world.advance(1.0)
        hello = latest(world, CallKind.HELLO)
        if world.now_s - hello.asked_s > CHECK_S - 10 and not hello.deliveries:
            world.execute(hello)
            world.answer(hello)
    assert world.now_s - began_s <= SILENT_S + GREET_S + 2 * TICK_S
    assert retries(world) == [(1, 1)]


def test_a_job_that_the_agent_lost_is_tried_again() -> None:
    world = running()
    actor = world.hosts["a1"].actor
    assert actor is not None
    actor.job = None
    world.settle()
    assert phase(world) is NodePhase.CHECKING
    world.settle()
    assert retries(world) == [(1, 1)]
    assert complete(world) == [("j", 2)]


def test_a_poll_from_before_a_job_says_nothing_of_it() -> None:
    world = running("j", "k")
    world.advance(SILENT_S + TICK_S)
    poll, hello = latest(world, CallKind.POLL), latest(world, CallKind.HELLO)
    end_job(world)
    for each in (poll, hello):
        world.execute(each)
    world.answer(hello)
    assert world.schedule.running_attempts() == {"a": ("k", 1)}
    world.answer(poll)
    assert phase(world) is NodePhase.UP
    assert complete(world) == [("j", 1), ("k", 1)]


def test_an_agent_that_hangs_is_killed_and_its_device_goes_on() -> None:
    world = running()
    hung = world.hosts["a1"].actor
    assert hung is not None
    hung.is_hung = True
    began_s = world.now_s
    while not unreachable(world):
        world.advance(1.0)
        world.settle()
    assert world.now_s - began_s <= SILENT_S + CHECK_S + 2 * TICK_S
    assert "has been silent for" in unreachable(world)[0]
    assert not hung.is_alive
    assert complete(world) == [("j", 2)]
    assert retries(world) == [(1, 1)]


def test_a_start_that_takes_its_time_is_no_silence() -> None:
    """The agent waits for its job process, and so does a greeting."""
    world = joined()
    world.submit("run-1", [("j", "a")])
    for _ in range(int(GREET_S / 10) - 1):
        world.advance(10.0)
    assert unreachable(world) == []
    assert complete(world) == [("j", 1)]


def test_a_device_that_speaks_again_while_it_is_checked_is_up() -> None:
    world = running()
    world.advance(SILENT_S + TICK_S)
    assert phase(world) is NodePhase.CHECKING
    assert "silent for 2" in troubles(world)[-1], "who watches is sent a word at once"
    greeted = [each for each in world.events if isinstance(each, DeviceGreeted)]
    world.settle()
    assert phase(world) is NodePhase.UP
    assert [each for each in world.events if isinstance(each, DeviceGreeted)] == greeted, "it was never away"
    assert troubles(world)[-1] == ""
    assert complete(world) == [("j", 1)]


def test_an_agent_that_is_not_reached_is_asked_again_soon() -> None:
    world = World()
    world.join("a1", "a")
    world.advance(0.1)
    world.answer(latest(world, CallKind.HELLO), UNAVAILABLE)
    world.advance(TICK_S)
    world.settle()
    assert phase(world) is NodePhase.UP


def test_a_node_that_never_answers_is_reported_and_its_agent_replaced() -> None:
    world = World()
    world.join("a1", "a")
    world.advance(0.1)
    first = world.hosts["a1"].actor
    assert first is not None
    first.is_hung = True
    world.advance(GREET_S + TICK_S)
    assert not first.is_alive
    assert "did not answer within" in troubles(world)[-1]
    world.advance(AGAIN_S)
    world.settle()
    assert phase(world) is NodePhase.UP


def test_an_agent_that_an_earlier_coordinator_closed_is_replaced() -> None:
    world = joined()
    world.carry_out(world.machine.sleep_devices(world.now_s))
    world.restart()
    world.submit("run-1", [("j", "a")])
    world.advance(0.1)
    assert complete(world) == [("j", 1)]


def test_every_answer_twice() -> None:
    world = joined()
    world.submit("run-1", [("j", "a"), ("k", "a")])
    while world.jobs:
        for flight in [each for each in world.flights if not each.deliveries]:
            world.execute(flight)
            world.answer(flight)
            world.answer(flight)
        end_job(world)
    assert [each.attempt for each in world.commands if isinstance(each, Send)] == [1, 1]
    assert unreachable(world) == []


def test_a_device_of_another_version_keeps_nothing_and_is_greeted_less_and_less_often() -> None:
    world = joined("a1", version="0")
    assert phase(world) is NodePhase.REFUSED
    pauses_s, greeted_s, count = [], world.now_s, 0
    for _ in range(3000):
        actor = world.hosts["a1"].actor
        assert actor is None or not actor.is_alive, "its agent is kept"
        world.advance(1.0)
        greetings = sum(each.call.kind is CallKind.HELLO for each in world.flights)
        if greetings > count:
            pauses_s.append(round(world.now_s - greeted_s))
            count, greeted_s = greetings, world.now_s
        world.settle()
    assert pauses_s[1:] == pytest.approx([10, 20, 40, 80, 160, 320, 600, 600, 600], abs=2)
    assert AGAIN_MOST_S == 600
    assert not world.machine.agent_of("a")


def test_a_refused_device_that_does_not_close_is_killed_and_a_new_node_begins_anew() -> None:
    world = World()
    world.join("a1", "a", "0")
    world.advance(0.1)
    hello = latest(world, CallKind.HELLO)
    world.execute(hello)
    world.answer(hello)
    actor = world.hosts["a1"].actor
    assert actor is not None and actor.is_alive
    world.advance(CLOSE_S + TICK_S)
    assert not actor.is_alive
    world.leave("a1")
    world.join("a2", "a")
    world.advance(TICK_S)
    world.settle()
    assert phase(world, "a2") is NodePhase.UP
    assert world.machine.nodes["a2"].refusals == 0


def claiming() -> tuple[World, Flight]:
    """Two nodes say that they are one device; the first was asked whether it lives."""
    world = joined("a1")
    world.join("a2", "a")
    world.advance(0.1)
    hello = latest(world, CallKind.HELLO)
    world.execute(hello)
    world.answer(hello)
    assert phase(world, "a2") is NodePhase.CLAIMING
    return world, latest(world, CallKind.CLAIM)


def test_two_live_nodes_of_one_device_are_refused_until_one_leaves() -> None:
    world, claim = claiming()
    world.execute(claim)
    world.answer(claim)
    assert phase(world, "a1") is phase(world, "a2") is NodePhase.DUPLICATE
    world.join("a3", "a")
    world.advance(0.1)
    world.settle()
    assert phase(world, "a3") is NodePhase.DUPLICATE, "a third one is no better"
    world.leave("a3")
    world.leave("a1")
    world.advance(0.1)
    world.settle()
    assert phase(world, "a2") is NodePhase.UP


def test_a_node_that_does_not_answer_loses_its_device() -> None:
    world, claim = claiming()
    world.advance(CLAIM_S)
    assert phase(world, "a2") is NodePhase.UP
    assert phase(world, "a1") is NodePhase.UNUSABLE
    world.execute(claim)
    world.answer(claim)
    assert phase(world, "a2") is NodePhase.UP, "the answer came too late"


def test_a_claim_that_is_answered_when_the_other_has_left_is_no_duplicate() -> None:
    world, claim = claiming()
    world.execute(claim)
    world.leave("a1")
    world.advance(0.1)
    world.answer(claim)
    assert phase(world, "a2") is NodePhase.UP


def test_a_node_that_closes_while_it_is_claimed_stays_a_duplicate() -> None:
    world, claim = claiming()
    world.carry_out(world.machine.sleep_devices(world.now_s))
    world.execute(claim)
    world.answer(claim)
    world.settle()
    assert phase(world, "a1") is phase(world, "a2") is NodePhase.DUPLICATE
    world.advance(CLOSE_S)
    assert phase(world, "a1") is NodePhase.DUPLICATE
    world.leave("a2")
    world.advance(TICK_S)
    world.settle()
    assert phase(world, "a1") is NodePhase.UP
