from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agents.contract.job import NODE_INPUTS, NodeInput, Workflow
from orchestrator.matrix import expand, read_matrix
from orchestrator.matrix.workflows import NodeInputsSpec
from tests.unit.matrix.matrix_file import errors, read

GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 3}},
    "5": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": 1, "steps": 20, "latent_image": ["4", 0]}},
    "10:2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
}
TEXT = (
    "axes: {{model: sd15, workload: w}}\ndefaults: {{engine: comfyui}}\nworkloads: {{w: {{workflow: g.json{more}}}}}\n"
)


def workflow(folder: Path, more: str = "", graph: Any = GRAPH) -> Workflow:
    (folder / "g.json").write_text(json.dumps(graph), "utf-8")
    found = read(folder, TEXT.format(more=more)).workloads["w"]
    assert isinstance(found, Workflow)
    return found


def test_inputs_are_found_by_their_usual_names(tmp_path: Path) -> None:
    found = workflow(tmp_path)
    assert json.loads(found.graph) == GRAPH
    assert (found.images, found.seed, found.steps, found.width, found.height, found.batch) == (
        3,
        0,
        None,
        None,
        None,
        None,
    )
    places = [f"{each.sets}={each.node}.{each.input}" for each in found.inputs]
    assert places == [
        "seed=5.seed", "seed=10:2.noise_seed", "steps=5.steps", "width=4.width", "height=4.height", "batch=4.batch_size"
    ]  # fmt: skip


def test_what_is_said_counts(tmp_path: Path) -> None:
    more = ", seed: 9, steps: 4, width: 64, height: 32, batch: 2, inputs: {seed: 5.seed, model: [1.ckpt_name]}"
    found = workflow(tmp_path, more)
    assert (found.images, found.seed, found.steps, found.width, found.height, found.batch) == (2, 9, 4, 64, 32, 2)
    assert [each for each in found.inputs if each.sets in ("seed", "model")] == [
        NodeInput("seed", "5", "seed"),
        NodeInput("model", "1", "ckpt_name"),
    ]
    assert workflow(tmp_path, ", batch: 2, images: 7").images == 7


def test_how_the_file_is_laid_out_changes_no_cell(tmp_path: Path) -> None:
    workflow(tmp_path)
    text = TEXT.format(more="")
    ids = []
    for written in (json.dumps(GRAPH), "\ufeff" + json.dumps(GRAPH, indent=4), json.dumps({**GRAPH, "1": GRAPH["4"]})):
        (tmp_path / "g.json").write_text(written, "utf-8")
        ids.append(next(iter(expand(read(tmp_path, text)))).cell_id)
    assert ids[0] == ids[1] != ids[2]


UNSEEDED = {"1": GRAPH["1"]}
UNLATENT = {"5": GRAPH["5"]}


@pytest.mark.parametrize(
    ("more", "graph", "words"),
    [
        ("", {"nodes": [], "links": []}, "workflow: .*format of ComfyUI's editor.*Export \\(API\\)"),
        ("", [], "workflow: .*holds no graph"),
        ("", {}, "workflow: .*holds no graph"),
        ("", {"1": {"inputs": {}}}, 'workflow: .*node "1" has no class_type'),
        ("", {"prompt": GRAPH}, 'workflow: .*node "prompt" has no class_type'),
        ("", {"1": {"class_type": "X", "inputs": {"v": float("nan")}}}, "not JSON in UTF-8: NaN is no JSON number"),
        ("", {"1": {"class_type": "X", "inputs": {"v": "\ud800"}}}, "not JSON in UTF-8: .*surrogates"),
        ("", UNSEEDED, "workflow: no node has an input seed or noise_seed; without a new seed"),
        (", steps: 4, inputs: {seed: 1.ckpt_name}", UNSEEDED, "steps: no node has an input steps"),
        (", width: 64", UNLATENT, "width: no node has width, height, batch_size. Say which takes it"),
        (", inputs: {seed: 6.seed}", GRAPH, 'inputs: seed: no node "6".* Allowed: 1, 4, 5, 10:2'),
        (", inputs: {steps: 5.step}", GRAPH, r'node 5 \(KSampler\) has no input "step"; did you mean "steps"'),
        (", inputs: {model: 5.model}", GRAPH, r"inputs: model: 5.model comes from node \['1'\]"),
        (", inputs: {steps: steps}", GRAPH, "inputs.steps: .*is not an input of a node. Allowed: NODE.INPUT"),
        (", inputs: {stepz: 5.steps}", GRAPH, 'unknown key "stepz"; did you mean "steps"?.*Allowed: seed, steps'),
        (", imagez: 4", GRAPH, 'unknown key "imagez"; did you mean "images"'),
        (", prompt: hello", GRAPH, 'unknown key "prompt"'),
        (", batch: 0", GRAPH, "batch: "),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_with_its_key(tmp_path: Path, more: str, graph: Any, words: str) -> None:
    (tmp_path / "g.json").write_text(json.dumps(graph), "utf-8")

    (line,) = errors(tmp_path, TEXT.format(more=more))
    assert re.search(words, line), line
    assert "workloads.w" in line


def test_a_graph_that_is_missing_or_no_json(tmp_path: Path) -> None:
    assert 'workflow: "g.json": no such file' in errors(tmp_path, TEXT.format(more=""))[0]
    (tmp_path / "g.json").write_bytes(b"{\xff}")
    assert "not JSON in UTF-8" in errors(tmp_path, TEXT.format(more=""))[0]


def test_the_example_asks_for_the_model_and_the_batch() -> None:
    matrix = read_matrix(Path(__file__).parents[3] / "matrices" / "comfyui.yaml")
    four = matrix.workloads["four-512"]
    assert isinstance(four, Workflow)
    assert (four.images, four.batch, four.steps) == (4, 4, 20)
    assert {each.sets for each in four.inputs} == set(NODE_INPUTS) == set(NodeInputsSpec.model_fields)
    assert matrix.files and matrix.files[0][0] == "workflows/text-to-image.json"
