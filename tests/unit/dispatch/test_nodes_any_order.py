"""Answers that come late, twice or never, nodes that come and go: each job that was sent is answered about in time."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.dispatch.nodes.calls import GREET_S, POLL_S
from orchestrator.dispatch.nodes.machine import AGAIN_MOST_S, SILENT_POLLS, TICK_S
from orchestrator.dispatch.nodes.node import CallError, Failure
from tests.fakes.simulated_nodes import VERSION, Actor, Flight, World

DEVICES = ("a", "b")
NODES = ("a1", "a2", "b1", "b2")
BOUND_S = SILENT_POLLS * POLL_S + GREET_S + 2 * TICK_S
"""From a word of a device that runs a job to the next one, or to the report that it is unreachable."""
MOST_RUNS = 4
STEPS_TO_THE_END = 3_000
nodes, seconds = st.sampled_from(NODES), st.sampled_from((0.5, 3.0, 12.0, 25.0, 70.0, 140.0))


class AnyOrderOfAnswers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.runs = 0

    def flight(self, data: st.DataObject, *, carried_out: bool) -> Flight | None:
        found = [each for each in self.world.flights[-40:] if each.is_carried_out is carried_out]
        return data.draw(st.sampled_from(found)) if found else None

    def actors(self) -> list[Actor]:
        return [host.actor for host in self.world.hosts.values() if host.actor is not None]

    @initialize(well=st.booleans())
    def begins(self, well: bool) -> None:
        self.joins("a1", VERSION)
        self.joins("b1", VERSION)
        if well:
            self.world.settle()

    @precondition(lambda self: self.runs < MOST_RUNS)
    @rule(count=st.integers(1, 3))
    def is_submitted(self, count: int) -> None:
        self.runs += 1
        keys = [(f"{self.runs}{key}{number}", key) for key in DEVICES for number in range(count)]
        self.world.submit(f"run-{self.runs}", keys)

    @rule()
    def the_coordinator_restarts(self) -> None:
        self.world.restart()

    @rule(node_id=nodes, version=st.sampled_from((VERSION, VERSION, VERSION, "0")))
    def joins(self, node_id: str, version: str) -> None:
        if node_id not in self.world.hosts:
            self.world.join(node_id, node_id[0], version)
            self.world.advance(0.1)

    @rule(node_id=nodes, noticed=st.booleans())
    def leaves(self, node_id: str, noticed: bool) -> None:
        if node_id in self.world.hosts:
            self.world.leave(node_id)
            if noticed:
                self.world.advance(0.1)

    @precondition(lambda self: self.actors())
    @rule(data=st.data(), how=st.sampled_from(("dies", "hangs", "goes on", "ends its job")))
    def an_agent(self, data: st.DataObject, how: str) -> None:
        actor = data.draw(st.sampled_from(self.actors()))
        match how:
            case "dies":
                actor.die()
            case "hangs" | "goes on":
                actor.is_hung = how == "hangs"
            case _:
                actor.end_job()

    @rule(data=st.data())
    def a_call_is_carried_out(self, data: st.DataObject) -> None:
        if flight := self.flight(data, carried_out=False):
            self.world.execute(flight)

    @rule(data=st.data())
    def a_call_goes_well(self, data: st.DataObject) -> None:
        if flight := self.flight(data, carried_out=False):
            self.world.execute(flight)
            self.world.answer(flight)

    @rule(data=st.data())
    def a_call_is_answered(self, data: st.DataObject) -> None:
        """For the first time or once more."""
        if flight := self.flight(data, carried_out=True):
            self.world.answer(flight)

    @rule(data=st.data(), carried_out=st.booleans(), error=st.sampled_from((CallError.UNAVAILABLE, CallError.FAILED)))
    def a_call_fails(self, data: st.DataObject, carried_out: bool, error: CallError) -> None:
        flight = self.flight(data, carried_out=carried_out)
        if flight is not None and not flight.deliveries:
            self.world.answer(flight, Failure(error, "failed"))

    @rule()
    def all_goes_well(self) -> None:
        self.world.settle()

    @rule(seconds=seconds)
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def devices_sleep(self) -> None:
        """Also while there is work, as where work comes just then."""
        self.world.carry_out(self.world.machine.sleep_devices(self.world.now_s))

    @rule()
    def devices_wake(self) -> None:
        self.world.machine.wake_devices(self.world.now_s)

    @invariant()
    def a_device_that_runs_a_job_is_heard_of(self) -> None:
        self.world.check()
        for device_id, attempt in self.world.schedule.running_attempts().items():
            silent_s = self.world.now_s - self.world.word_s[device_id]
            assert silent_s <= BOUND_S, f"{device_id} runs {attempt} and was silent for {silent_s} s"

    def teardown(self) -> None:
        """All goes well: each device has one node, and each job is done."""
        world = self.world
        for key in DEVICES:
            its = [node_id for node_id, host in world.hosts.items() if host.device.device_id == key]
            good = [node_id for node_id in its if world.hosts[node_id].device.agent_version == VERSION]
            for node_id in its:
                if node_id not in good[:1]:
                    world.leave(node_id)
            if not good:
                world.join(f"{key}9", key)
        world.advance(3.0)
        world.machine.wake_devices(world.now_s)
        for _ in range(STEPS_TO_THE_END):
            world.advance(3.0)
            world.settle()
            for actor in self.actors():
                actor.end_job()
            if not world.jobs:
                break
        assert not world.jobs, "something is not done, and nothing goes on"


TestAnyOrderOfAnswers: Any = AnyOrderOfAnswers.TestCase
TestAnyOrderOfAnswers.settings = settings(max_examples=250, stateful_step_count=50, deadline=None, database=None)
assert AGAIN_MOST_S < STEPS_TO_THE_END
