from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.engines.comfyui.events import (
    GraphExecution,
    SocketMessage,
    Step,
    ends,
    is_last_message,
    iterations,
    node_seconds,
    parse_message,
    read_run,
    steps_of,
)
from tests.fakes.comfy_server import recorded, timed

S = 1_000_000_000


def messages(name: str) -> list[SocketMessage]:
    found = [parse_message(int(at_s * S), text) for at_s, text in timed(name) if isinstance(text, str)]
    return [each for each in found if each is not None]


def id_of(name: str) -> str:
    return str(recorded()["runs"][name]["answer"]["prompt_id"])


def run(name: str) -> GraphExecution:
    return read_run(messages(name), id_of(name))


def said(*kinds: tuple[str, dict[str, Any]]) -> list[SocketMessage]:
    """Messages of prompt ``p``, one a second."""
    return [SocketMessage(at * S, kind, {"prompt_id": "p", **data}) for at, (kind, data) in enumerate(kinds)]


def test_the_first_run_reads_the_model() -> None:
    first = run("first")
    assert first.success and first.error is None and not first.interrupted and not first.others
    assert first.cached == frozenset()
    assert [node for _, node in first.nodes] == ["1", "4", "3", "2", "5", "6", "7"]
    assert node_seconds(first, frozenset("1")) == pytest.approx(3.4606, abs=1e-3)
    assert node_seconds(first, frozenset("7")) == pytest.approx(0.0, abs=1e-3)
    assert (first.images, first.engine_s) == (1, 9.771)


def test_the_second_run_takes_from_the_cache_what_did_not_change() -> None:
    second = run("second")
    assert second.cached == frozenset("1234")
    assert [(step.node, step.done, step.of) for step in second.steps] == [("5", n, 4.0) for n in (1.0, 2.0, 3.0, 4.0)]
    assert iterations(second.steps) == 4
    assert node_seconds(second, frozenset("1")) == 0.0


def test_an_unchanged_graph_is_not_run() -> None:
    cached = run("cached")
    assert cached.success and cached.cached == frozenset("1234567") and cached.nodes == () and cached.steps == ()
    assert cached.images == 1  # told again, from the cache


def test_an_interrupted_run() -> None:
    interrupted = run("interrupted")
    assert interrupted.interrupted and interrupted.success is False
    assert [step.done for step in interrupted.steps] == [1.0]


def test_an_error_has_the_nodes_words() -> None:
    error = run("error")
    assert error.success is False and error.error is not None
    assert error.error.startswith("node 4 (EmptyLatentImage): RuntimeError: [enforce fail at alloc_cpu.cpp:127]")
    assert "can't allocate memory" in error.error


@pytest.mark.parametrize("name", ["first", "second", "cached", "interrupted", "error"])
def test_a_run_without_its_last_messages_has_not_ended(name: str) -> None:
    some = messages(name)
    end = next(at for at, each in enumerate(some) if ends(each, id_of(name)))
    cut = read_run(some[:end], id_of(name))
    assert cut.success is None and cut.ended_ns is None and cut.engine_s is None
    assert is_last_message(some[-1], id_of(name)) and not any(is_last_message(each, id_of(name)) for each in some[:-1])


def test_messages_of_another_prompt_are_left_out() -> None:
    other = read_run(messages("second"), "another")
    assert (other.success, other.steps, other.nodes, other.images, other.cached) == (None, (), (), 0, frozenset())
    both = read_run([*messages("interrupted"), *messages("second")], id_of("second"))
    assert iterations(both.steps) == 4 and not both.interrupted


def test_an_engine_of_before_2024_07_ends_with_an_idle_message() -> None:
    old = said(("execution_start", {}), ("executing", {"node": "5"}), ("progress", {"value": 1, "max": 2}))
    old += [SocketMessage(9 * S, "executing", {"node": None, "prompt_id": "p"})]
    found = read_run(old, "p")
    assert (found.success, found.ended_ns, found.engine_s) == (True, 9 * S, None)
    assert found.steps == (Step(2 * S, "5", 1.0, 2.0),)


def test_steps_from_progress_state_alone() -> None:
    def state(done: float, state: str = "running") -> tuple[str, dict[str, Any]]:
        nodes = {"1": {"value": 1, "max": 1, "state": "finished"}, "5": {"value": done, "max": 2, "state": state}}
        return "progress_state", {"nodes": nodes}

    found = read_run(said(state(0), state(1), state(1), state(2), state(2, "finished")), "p")
    assert found.steps == (Step(1 * S, "5", 1.0, 2.0), Step(3 * S, "5", 2.0, 2.0))


def test_a_queue_with_work_of_others() -> None:
    status = {"status": {"exec_info": {"queue_remaining": 2}}}
    begun = said(("execution_start", {}), ("execution_success", {}))
    assert read_run([SocketMessage(0, "status", status), *begun], "p").others
    assert not read_run([*begun, SocketMessage(9 * S, "status", status)], "p").others  # after the end


def test_saved_images_count_once_and_previews_only_without_them() -> None:
    def made(kind: str, *names: str) -> tuple[str, dict[str, Any]]:
        files = [{"filename": name, "subfolder": "", "type": kind} for name in names]
        return "executed", {"output": {"images": files}}

    assert read_run(said(made("temp", "a", "b")), "p").images == 2
    assert read_run(said(made("temp", "a", "b"), made("output", "c"), made("output", "c", "d")), "p").images == 2


def test_steps_of_samplers_and_of_what_they_made() -> None:
    steps = (Step(1, "5", 1, 2), Step(2, "8", 1, 9), Step(3, "5.0.1", 1, 2))
    found = read_run([], "p")
    assert steps_of(found, frozenset("5")) == ()
    told = GraphExecution(steps=steps)
    assert steps_of(told, frozenset("5")) == (steps[0], steps[2])
    assert steps_of(told, frozenset("7")) == steps  # none of the known samplers told any


@pytest.mark.parametrize(
    ("done", "total"), [((1, 2, 3), 3), ((0, 1, 2), 2), ((1, 2, 1, 2), 4), ((2, 4), 4), ((3,), 3), ((), 0)]
)
def test_iterations(done: tuple[float, ...], total: int) -> None:
    assert iterations([Step(at, "5", value, 9) for at, value in enumerate(done)]) == total


@pytest.mark.parametrize("text", ["", "hello", "[]", "null", "{}", '{"type": 1}', "[" * 100_000, '{"type"'])
def test_what_is_no_message_is_let_pass(text: str) -> None:
    assert parse_message(1, text) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.just("p"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("prompt_id", "node", "nodes", "value", "max", "output", "status", "timestamp", "exception_message")
KINDS = ("execution_start", "execution_cached", "executing", "progress", "progress_state", "executed", "status")
ENDS = ("execution_success", "execution_error", "execution_interrupted", "new_event")


@given(st.lists(st.tuples(st.sampled_from((*KINDS, *ENDS)), st.dictionaries(st.sampled_from(KEYS), JSON))))
def test_no_message_makes_it_raise(some: list[tuple[str, dict[str, Any]]]) -> None:
    texts = [json.dumps({"type": kind, "data": data}) for kind, data in some]
    found = [message for at, text in enumerate(texts) if (message := parse_message(at, text))]
    seen = read_run(found, "p")
    assert node_seconds(seen, frozenset("5")) >= 0 and iterations(seen.steps) is not None
