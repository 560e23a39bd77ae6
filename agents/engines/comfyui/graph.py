"""ComfyUI's graphs in their API format, and its refusals of them. PURE

A graph is ``{"5": {"class_type": "KSampler", "inputs": {"seed": 0, "model": ["1", 0]}}}``: an input is a value, or a
link to an output of another node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from agents.contract.job import Workflow
from agents.contract.report import Cause
from agents.engines.stream.chunks import one_line
from agents.errors import RequestFailed, Unsupported

Graph = dict[str, Any]
_MODEL_FILE = re.compile(r".+\.(safetensors|sft|ckpt|pt2?|pth|bin|gguf|onnx|pkl)", re.IGNORECASE)


def filled(workflow: Workflow, nonce: int, model: str) -> Graph:
    """The graph of one run; ``model`` is what ComfyUI calls the cell's model.

    Raises Unsupported where the graph names another model than the cell, and the workload names no input for it.
    """
    graph = _read(workflow)
    wanted: dict[str, Any] = {
        "seed": seed_of(workflow, nonce),
        "steps": workflow.steps,
        "width": workflow.width,
        "height": workflow.height,
        "batch": workflow.batch,
        "model": model,
    }
    for place in workflow.inputs:
        node = graph.get(place.node)
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            raise Unsupported(f"workflow {workflow.name}: the graph has no node {place.node}, which takes {place.sets}")
        if wanted[place.sets] is not None:
            node["inputs"][place.input] = wanted[place.sets]
    named = models_of(graph)
    if named and model not in named and not any(place.sets == "model" for place in workflow.inputs):
        raise Unsupported(
            f"workflow {workflow.name} names {', '.join(named)}, and the cell asks for {model}:"
            " say which input takes the model, inputs: {model: NODE.INPUT}"
        )
    return graph


def seed_of(workflow: Workflow, nonce: int) -> int:
    return int((workflow.seed + nonce) % 2**64)


def _read(workflow: Workflow) -> Graph:
    try:
        graph = json.loads(workflow.graph)
    except (ValueError, RecursionError) as error:
        raise Unsupported(f"workflow {workflow.name} is not JSON: {error}") from error
    if not isinstance(graph, dict):
        raise Unsupported(f"workflow {workflow.name} is no graph in the API format")
    return graph


def models_of(graph: Graph) -> tuple[str, ...]:
    """Model files that the graph names, each once, in its order."""
    return tuple(dict.fromkeys(value for _, _, value in _model_inputs(graph)))


def loaders_of(graph: Graph) -> frozenset[str]:
    """Nodes that read model files."""
    return frozenset(node for node, _, _ in _model_inputs(graph))


def samplers_of(graph: Graph) -> frozenset[str]:
    """Nodes whose progress counts sampler steps: by their class, or because they have an input ``steps``."""
    return frozenset(
        node
        for node, kind, inputs in _nodes(graph)
        if "sampler" in kind.lower() or isinstance(inputs.get("steps"), (int, float))
    )


def seeded_of(workflow: Workflow) -> frozenset[str]:
    """Nodes that a new seed must make run."""
    return frozenset(place.node for place in workflow.inputs if place.sets == "seed")


def _model_inputs(graph: Graph) -> Iterator[tuple[str, str, str]]:
    for node, _, inputs in _nodes(graph):
        for name, value in inputs.items():
            if isinstance(value, str) and _MODEL_FILE.fullmatch(value):
                yield node, str(name), value


def _nodes(graph: Graph) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for node, content in graph.items():
        if isinstance(content, dict) and isinstance(content.get("inputs"), dict):
            yield node, str(content.get("class_type")), content["inputs"]


def refusal(status: int, answer: Any, otherwise: str = "") -> RequestFailed:
    """The error for a prompt that ComfyUI did not take. Its detail is that of the nodes, from an ``answer`` such as
    ``{"error": {...}, "node_errors": {...}}``; ``otherwise`` where there is none."""
    answer = answer if isinstance(answer, dict) else {}
    faults = list(_faults(answer.get("node_errors")))
    faults_text = [f"node {node} ({kind}): {_fault_text(fault)}" for node, kind, fault in faults]
    if not faults_text and isinstance(answer.get("error"), dict):
        faults_text = [_fault_text(answer["error"])]
    missing = any(_is_missing_model(fault) for _, _, fault in faults)
    cause = Cause.MODEL_FILE_MISSING if missing else Cause.REQUEST_REFUSED
    return RequestFailed(cause, one_line(f"HTTP {status}: {'; '.join(faults_text) or otherwise}"))


def _faults(found: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for node, content in found.items() if isinstance(found, dict) else ():
        errors = content.get("errors") if isinstance(content, dict) else None
        for fault in errors if isinstance(errors, list) else ():
            if isinstance(fault, dict):
                yield str(node), str(content.get("class_type")), fault


def _fault_text(fault: Mapping[str, Any]) -> str:
    return ": ".join(str(fault[key]) for key in ("message", "details") if fault.get(key))


def _is_missing_model(fault: Mapping[str, Any]) -> bool:
    info = fault.get("extra_info")
    received = info.get("received_value") if isinstance(info, dict) else None
    is_file = isinstance(received, str) and _MODEL_FILE.fullmatch(received) is not None
    return fault.get("type") == "value_not_in_list" and is_file
