"""The JSON Schema for editors beside the program, and the example matrices."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.contract.job import Chat
from orchestrator.matrix import AXES, MatrixErrors, expand, json_schema, parse_matrix, read_matrix
from tests.unit.matrix.matrix_file import read

jsonschema: Any = importlib.import_module("jsonschema")  # comes with ray; has no type stubs here
EXAMPLES = sorted((Path(__file__).parents[3] / "matrices").glob("*.yaml"))


class Yaml12(yaml.SafeLoader):
    """As an editor reads: YAML 1.2's core schema, in which `on` is text."""


Yaml12.yaml_implicit_resolvers = {}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
Yaml12.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]*\.[0-9]+$"), list("-+.0123456789"))
Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def schema_faults(text: str) -> list[Any]:
    return list(jsonschema.Draft202012Validator(json_schema()).iter_errors(yaml.load(text, Yaml12)))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "section",
    [
        "contxt: 1K",
        "context: 16X",
        "context: 0",
        "runtime: vulcan",
        "mmap: maybe",
        "batch: []",
        "kv_type: q8",
        "dedicated_vram: 512",
        "threads: {from: 1, to: 2}",
        "threads: {from: 1, to: 2, step: 1, factor: 2}",
        "power_limit: 80%",
        "gpu_layers: most",
    ],
)
def test_the_schema_refuses_what_the_program_refuses(tmp_path: Path, section: str) -> None:
    text = f"axes: {{model: tiny:llama, workload: pp512, {section}}}"
    assert schema_faults(text)
    with pytest.raises(MatrixErrors):
        read(tmp_path, text)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    matrix = read_matrix(path)
    assert matrix.name == path.stem
    assert len(expand(matrix)) > 0
    assert schema_faults(path.read_text(encoding="utf-8")) == []
    assert path.read_text(encoding="utf-8").startswith("# Question: ")


def test_the_examples_are_all_there() -> None:
    names = {"quickstart", "aimax395-64g", "minipc-128g", "apple-unified", "discrete-gpu", "power-sweep"}
    assert names <= {path.stem for path in EXAMPLES}


def test_the_handbook_names_every_axis_and_its_example_is_read() -> None:
    text = (Path(__file__).parents[3] / "docs" / "matrix.md").read_text(encoding="utf-8")
    for axis in AXES:
        assert re.search(rf"^\| `{axis.name}`", text, re.MULTILINE), axis.name
        assert all(f"`{column}`" in text for column in axis.columns)
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    matrix = parse_matrix(example[1], Path("kv-cache.yaml"), lambda name: b"")
    assert len(expand(matrix)) == 42
    assert schema_faults(example[1]) == []


def test_the_articles_grid() -> None:
    (path,) = (path for path in EXAMPLES if path.stem == "aimax395-64g")
    matrix = read_matrix(path)
    cells = expand(matrix)
    assert len(cells) == 5 * 2 * 4 * 3
    assert {cell.state.dedicated_vram_bytes for cell in cells} == {512 * 1024**2, 32 * 1024**3, 48 * 1024**3}
    shot = matrix.workloads["screenshot-to-html"]
    assert isinstance(shot, Chat) and shot.image is not None
    assert (shot.image.width, shot.image.height) == (1486, 831)
