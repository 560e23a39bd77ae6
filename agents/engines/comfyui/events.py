"""ComfyUI's websocket messages -> one run of a graph: its steps, images, times, errors. PURE

Nothing that a server sends makes these functions raise. Messages as ComfyUI 0.3.64 sends them (recorded). One of
before July 2025 has no ``progress_state``; one of before July 2024 no ``execution_success``: the end is then
``executing`` without a node.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.engines.stream.chunks import one_line


@dataclass(frozen=True, slots=True)
class SocketMessage:
    """One text frame. ``at_ns``: the client's clock just after it was received."""

    at_ns: int
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    at_ns: int
    node: str
    done: float
    of: float


@dataclass(frozen=True, slots=True)
class GraphExecution:
    """One run of a graph, as the messages report it. Times are None where their message did not come.

    ``success`` is None where the run has not ended. ``error``: a node's exception, where it raised. ``nodes``: when
    each node that ran began, in order; ``others``: the queue held more than this prompt while it ran.
    """

    started_ns: int | None = None
    ended_ns: int | None = None
    success: bool | None = None
    error: str | None = None
    interrupted: bool = False
    cached: frozenset[str] = frozenset()
    nodes: tuple[tuple[int, str], ...] = ()
    steps: tuple[Step, ...] = ()
    images: int = 0
    others: bool = False
    engine_s: float | None = None


def parse_message(at_ns: int, text: str) -> SocketMessage | None:
    """The message in a text frame; None for a frame that is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        return None
    data = found.get("data")
    return SocketMessage(at_ns, found["type"], data if isinstance(data, dict) else {})


def ends(message: SocketMessage, prompt_id: str) -> bool:
    """Whether the run of ``prompt_id`` ends with this message, well or not."""
    if message.data.get("prompt_id") != prompt_id:
        return False
    over = message.kind in ("execution_success", "execution_error", "execution_interrupted")
    return over or _is_idle(message)


def is_last_message(message: SocketMessage, prompt_id: str) -> bool:
    """Whether this is ComfyUI's very last message of ``prompt_id``: it has cleaned up."""
    return _is_idle(message) and message.data.get("prompt_id") == prompt_id


def _is_idle(message: SocketMessage) -> bool:
    return message.kind == "executing" and message.data.get("node") is None


def read_run(messages: Sequence[SocketMessage], prompt_id: str) -> GraphExecution:
    """The run of ``prompt_id``; messages of other prompts are left out."""
    ours = [each for each in messages if each.data.get("prompt_id", prompt_id) == prompt_id]
    end = next((each for each in ours if ends(each, prompt_id)), None)
    until = [each for each in ours if end is None or each.at_ns <= end.at_ns]
    start = next((each for each in until if each.kind == "execution_start"), None)
    nodes = tuple((each.at_ns, _node(each)) for each in until if each.kind == "executing" and not _is_idle(each))
    return GraphExecution(
        started_ns=start.at_ns if start else nodes[0][0] if nodes else None,
        ended_ns=end.at_ns if end else None,
        success=None if end is None else end.kind in ("execution_success", "executing"),
        error=_error_text(end.data) if end is not None and end.kind == "execution_error" else None,
        interrupted=end is not None and end.kind == "execution_interrupted",
        cached=frozenset(name for each in until if each.kind == "execution_cached" for name in _names(each.data)),
        nodes=nodes,
        steps=_steps(until),
        images=_images(until),
        others=any(_queued(each.data) > 1 for each in messages if end is None or each.at_ns <= end.at_ns),
        engine_s=_engine_s(start, end),
    )


def node_seconds(run: GraphExecution, wanted: frozenset[str]) -> float:
    """Time in the nodes of ``wanted``, s: from each one's beginning to the next one's, or to the end."""
    if run.ended_ns is None:
        return 0.0
    ends_ns = [*(at_ns for at_ns, _ in run.nodes[1:]), run.ended_ns]
    spans = zip(run.nodes, ends_ns, strict=False)
    spent = (end - at_ns for (at_ns, node), end in spans if node in wanted or _of(node) in wanted)
    return sum(spent) / 1e9


def steps_of(run: GraphExecution, samplers: frozenset[str]) -> tuple[Step, ...]:
    """The steps of samplers; of all nodes that reported steps where none of ``samplers`` did."""
    some = tuple(step for step in run.steps if step.node in samplers or _of(step.node) in samplers)
    return some or run.steps


def iterations(steps: Sequence[Step]) -> int:
    """How many sampler steps were done. A counter that falls back began anew, and is added."""
    total, last = 0.0, dict[str, float]()
    for step in steps:
        before = last.get(step.node, 0.0)
        total += step.done - before if step.done >= before else step.done
        last[step.node] = step.done
    return round(total)


def _of(node: str) -> str:
    """The node of the graph that a node made while it ran (``5.0.1``) belongs to."""
    return node.partition(".")[0]


def _node(message: SocketMessage) -> str:
    return str(message.data.get("node"))


def _names(data: Mapping[str, Any]) -> list[str]:
    nodes = data.get("nodes")
    return [str(each) for each in nodes] if isinstance(nodes, list) else []


def _steps(messages: Sequence[SocketMessage]) -> tuple[Step, ...]:
    """From ``progress``, which all versions send; from ``progress_state`` where there is none."""
    single: list[Step] = []
    states: list[Step] = []
    running = ""
    for each in messages:
        if each.kind == "executing":
            running = _node(each)
        elif each.kind == "progress":
            single += _step(each.at_ns, each.data.get("node") or running, each.data)
        elif each.kind == "progress_state" and isinstance(each.data.get("nodes"), dict):
            for node, state in each.data["nodes"].items():
                if isinstance(state, dict) and state.get("state") == "running":
                    states += _step(each.at_ns, node, state)
    return tuple(single or _changes(states))


def _changes(states: Sequence[Step]) -> list[Step]:
    """Each message holds the state of every node: only what changed is a step."""
    last: dict[str, float] = {}
    steps = []
    for step in states:
        if step.done > 0 and last.get(step.node) != step.done:
            steps.append(step)
        last[step.node] = step.done
    return steps


def _step(at_ns: int, node: Any, data: Mapping[str, Any]) -> list[Step]:
    done, of = _number(data.get("value")), _number(data.get("max"))
    return [] if done is None or of is None else [Step(at_ns, str(node), done, of)]


def _images(messages: Sequence[SocketMessage]) -> int:
    """Saved images, or where none was saved, previews (kind ``temp``): each file once."""
    found: dict[str, set[tuple[str, str]]] = {}
    for each in messages:
        output = each.data.get("output") if each.kind == "executed" else None
        images = output.get("images") if isinstance(output, dict) else None
        for image in images if isinstance(images, list) else ():
            if isinstance(image, dict):
                one = (str(image.get("subfolder")), str(image.get("filename")))
                found.setdefault(str(image.get("type")), set()).add(one)
    return len(found.get("output") or found.get("temp") or ())


def _queued(data: Mapping[str, Any]) -> float:
    status = data.get("status")
    info = status.get("exec_info") if isinstance(status, dict) else None
    return (_number(info.get("queue_remaining")) or 0) if isinstance(info, dict) else 0


def _engine_s(start: SocketMessage | None, end: SocketMessage | None) -> float | None:
    """The engine's own time for the run, s, from its time stamps (ms of its wall clock)."""
    if start is None or end is None or end.kind != "execution_success":
        return None
    first, last = _number(start.data.get("timestamp")), _number(end.data.get("timestamp"))
    return (last - first) / 1e3 if first is not None and last is not None and last >= first else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 2**53 and math.isfinite(value) else None


def _error_text(data: Mapping[str, Any]) -> str:
    """``node 4 (EmptyLatentImage): RuntimeError: ...``"""
    where = f"node {data.get('node_id')} ({data.get('node_type')})"
    return one_line(f"{where}: {data.get('exception_type')}: {data.get('exception_message')}")
