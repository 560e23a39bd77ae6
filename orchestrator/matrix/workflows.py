"""A workflow: ComfyUI's graph from its file, and which of its inputs a run sets. PURE given ``open_file``"""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from pydantic import Field

from agents.contract.job import NodeInput, Workflow
from orchestrator.matrix.parsers import NAME, Parsed, ParsedList, Section, whole
from orchestrator.matrix.problems import BadValue, nearest, quoted
from orchestrator.matrix.workloads import FileProblem, FileReader

Graph = dict[str, dict[str, Any]]

EXPORT = "ComfyUI writes it with Workflow > Export (API)"
_BY_NAME = {"seed": ("seed", "noise_seed"), "steps": ("steps",)}
_OF_LATENTS = {"width": "width", "height": "height", "batch": "batch_size"}


def _parse_node_input(text: str) -> tuple[str, str]:
    node, dot, name = text.strip().partition(".")
    if not (node and dot and name):
        raise BadValue(f"{quoted(text)} is not an input of a node. Allowed: NODE.INPUT, such as 5.steps")
    return node, name


_NODE_INPUT = Parsed(_parse_node_input, {"type": ["string", "number"], "pattern": r"^[^.]+\..+$"})
NodeInputs = Annotated[tuple[tuple[str, str], ...], ParsedList(_NODE_INPUT)]


class NodeInputsSpec(Section):
    seed: NodeInputs = Field(default_factory=tuple, description="Else every input seed and noise_seed")
    steps: NodeInputs = Field(default_factory=tuple, description="Else every input steps")
    width: NodeInputs = Field(default_factory=tuple, description="Else in every node with width, height, batch_size")
    height: NodeInputs = Field(default_factory=tuple, description="Else in every node with width, height, batch_size")
    batch: NodeInputs = Field(default_factory=tuple, description="Else every batch_size beside a width and a height")
    model: NodeInputs = Field(default_factory=tuple, description="Takes the name of the cell's model; else none does")


class WorkflowSpec(Section):
    workflow: Annotated[str, NAME] = Field(
        description="ComfyUI's graph in its API format (Workflow > Export (API)); relative to the matrix file"
    )
    images: Annotated[int | None, whole(1, 10_000)] = Field(
        default=None, description="Images that a run makes; else the batch"
    )
    seed: Annotated[int, whole(0, 2**32 - 1)] = Field(default=0, description="Seed; counted up from run to run")
    steps: Annotated[int | None, whole(1, 10_000)] = Field(default=None, description="Sampler steps; else the graph's")
    width: Annotated[int | None, whole(1, 100_000)] = Field(default=None, description="Pixels; else the graph's")
    height: Annotated[int | None, whole(1, 100_000)] = Field(default=None, description="Pixels; else the graph's")
    batch: Annotated[int | None, whole(1, 10_000)] = Field(
        default=None, description="Images made at once; else the graph's"
    )
    inputs: NodeInputsSpec = Field(
        default_factory=NodeInputsSpec, description="Which inputs of nodes (NODE.INPUT) take them"
    )


def workflow(name: str, spec: WorkflowSpec, open_file: FileReader) -> Workflow:
    """Raises ``FileProblem`` with the key of what cannot be used."""
    graph = _graph(spec.workflow, open_file)
    places = [place for sets in _BY_NAME for place in _by_name(graph, sets, spec)]
    places += [place for sets in _OF_LATENTS for place in _of_latents(graph, sets, spec)]
    places += _chosen(graph, "model", spec)
    return Workflow(
        name=name,
        graph=json.dumps(graph, separators=(",", ":")),
        images=spec.images or _batch(graph, places, spec),
        seed=spec.seed,
        steps=spec.steps,
        width=spec.width,
        height=spec.height,
        batch=spec.batch,
        inputs=tuple(places),
    )


def _graph(path: str, open_file: FileReader) -> Graph:
    try:
        text = open_file(path).decode("utf-8-sig")
        found = json.loads(text, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()
    except BadValue as error:
        raise FileProblem("workflow", f"{quoted(path)}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise FileProblem("workflow", f"{quoted(path)} is not JSON in UTF-8: {error}") from None
    if isinstance(found, dict) and isinstance(found.get("nodes"), list):
        message = f"{quoted(path)} is in the format of ComfyUI's editor. Allowed: the API format; {EXPORT}"
        raise FileProblem("workflow", message)
    if not isinstance(found, dict) or not found:
        raise FileProblem("workflow", f"{quoted(path)} holds no graph. Allowed: the API format; {EXPORT}")
    for node, content in found.items():
        good = isinstance(content, dict) and isinstance(content.get("class_type"), str)
        if not good or not isinstance(content.get("inputs"), dict):
            message = f"{quoted(path)}: node {quoted(node)} has no class_type, or no inputs. Allowed: the API format"
            raise FileProblem("workflow", f"{message}; {EXPORT}")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _by_name(graph: Graph, sets: str, spec: WorkflowSpec) -> list[NodeInput]:
    """Where the file says, else every input of that name."""
    if chosen := _chosen(graph, sets, spec):
        return chosen
    found = [
        NodeInput(sets, node, name)
        for node, content in graph.items()
        for name in _BY_NAME[sets]
        if _is_number(content["inputs"].get(name))
    ]
    if not found and (sets == "seed" or getattr(spec, sets) is not None):
        names = " or ".join(_BY_NAME[sets])
        why = "; without a new seed ComfyUI does not run a graph again" if sets == "seed" else ""
        message = f"no node has an input {names}{why}. Say which takes it: inputs: {{{sets}: NODE.INPUT}}"
        raise FileProblem("workflow" if sets == "seed" else sets, message)
    return found


def _of_latents(graph: Graph, sets: str, spec: WorkflowSpec) -> list[NodeInput]:
    """Where the file says, else in every node that has a width, a height and a batch size: an empty latent image."""
    if chosen := _chosen(graph, sets, spec):
        return chosen
    latents = [
        node
        for node, content in graph.items()
        if all(_is_number(content["inputs"].get(name)) for name in _OF_LATENTS.values())
    ]
    if not latents and getattr(spec, sets) is not None:
        message = f"no node has {', '.join(_OF_LATENTS.values())}. Say which takes it: inputs: {{{sets}: NODE.INPUT}}"
        raise FileProblem(sets, message)
    return [NodeInput(sets, node, _OF_LATENTS[sets]) for node in latents]


def _chosen(graph: Graph, sets: str, spec: WorkflowSpec) -> list[NodeInput]:
    return [_existing(graph, sets, node, name) for node, name in getattr(spec.inputs, sets)]


def _existing(graph: Graph, sets: str, node: str, name: str) -> NodeInput:
    if node not in graph:
        near = nearest(node, graph) or "."
        raise FileProblem("inputs", f"{sets}: no node {quoted(node)}{near} Allowed: {', '.join(list(graph)[:50])}")
    inputs = graph[node]["inputs"]
    if name not in inputs:
        near = nearest(name, inputs) or "."
        kind = graph[node]["class_type"]
        message = f"{sets}: node {node} ({kind}) has no input {quoted(name)}{near} Allowed: {', '.join(inputs)}"
        raise FileProblem("inputs", message)
    if isinstance(inputs[name], list):
        raise FileProblem("inputs", f"{sets}: {node}.{name} comes from node {inputs[name][:1]}; name an input of that")
    return NodeInput(sets, node, name)


def _batch(graph: Graph, places: list[NodeInput], spec: WorkflowSpec) -> int:
    """Images that a run makes, by default the size of the graph's batch."""
    if spec.batch is not None:
        return spec.batch
    sizes = [graph[place.node]["inputs"][place.input] for place in places if place.sets == "batch"]
    return max((int(size) for size in sizes if _is_number(size) and size >= 1), default=1)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
