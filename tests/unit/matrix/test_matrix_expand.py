"""Expansion: the laws of product, zip, include and exclude, order, ids, labels, and what a cell asks of a device."""

from __future__ import annotations

import itertools
import math
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.job import LoadSettings, MachineState, ModelSource, Runtime, Synthetic
from orchestrator.errors import UsageError
from orchestrator.matrix import (
    Cell,
    CellCounts,
    Matrix,
    check_size,
    count_cells,
    expand,
    job_count,
    matrix_from_json,
    matrix_to_json,
    parse_matrix,
)
from orchestrator.matrix.axes import AXES, Value
from orchestrator.matrix.problems import BadValue
from tests.unit.matrix.matrix_file import GOOD, read

TUNED = {"threads": "1 2 3 4", "batch": "32 64 128", "micro_batch": "8 16", "context": "512 1024 2048"}


def matrix_of(text: str) -> Matrix:
    def no_file(name: str) -> bytes:
        raise BadValue("no such file")

    return parse_matrix(text, Path("m.yaml"), no_file)


def cells_of(text: str) -> tuple[Cell, ...]:
    """The cells, which are as many as ``count_cells`` says."""
    matrix = matrix_of(text)
    cells, counts = expand(matrix), count_cells(matrix)
    assert counts.cells == len(cells)
    assert counts.for_one_device == sum(cell.device is not None for cell in cells)
    return cells


def rows(cells: tuple[Cell, ...], *names: str) -> list[tuple[Value | None, ...]]:
    return [tuple(cell.values.get(name) for name in names) for cell in cells]


def test_product_in_the_order_of_the_file() -> None:
    cells = cells_of(GOOD.replace("}", ", threads: [2, 1], mmap: [on, off]}"))
    assert rows(cells, "threads", "mmap") == [(2, True), (2, False), (1, True), (1, False)]


def test_zip_goes_together_and_groups_multiply() -> None:
    cells = cells_of(GOOD + "zip: [{threads: [1, 2], batch: [32, 64]}, {mmap: [on, off]}]")
    assert rows(cells, "threads", "batch", "mmap") == [(1, 32, True), (1, 32, False), (2, 64, True), (2, 64, False)]


def test_defaults_are_overridden_by_axes_zip_and_include() -> None:
    cells = cells_of(
        "defaults: {model: tiny:llama, workload: pp1, threads: 9, batch: 9}\naxes: {threads: [1, 2]}\n"
        "zip: [{batch: [3]}]\ninclude: [{threads: [7, 8]}]"
    )
    assert rows(cells, "threads", "batch") == [(1, 3), (2, 3), (7, 9), (8, 9)]
    assert {cell.values["engine"] for cell in cells} == {"embedded"}


def test_exclude_drops_from_the_product_and_leaves_include_alone() -> None:
    text = (
        GOOD.replace("}", ", threads: [1, 2, 3], mmap: [on, off]}")
        + "exclude: [{threads: [1, 3], mmap: on}, {threads: 3}]\n"
        + "include: [{model: tiny:llama, workload: pp512, threads: 3, mmap: on}]"
    )
    assert rows(cells_of(text), "threads", "mmap") == [(1, False), (2, True), (2, False), (3, True)]
    assert count_cells(matrix_of(text)).excluded == 3


def test_no_axes_give_one_cell_and_only_include_gives_only_that() -> None:
    assert len(cells_of("defaults: {model: tiny:llama, workload: pp1}")) == 1
    assert rows(cells_of("include: [{model: tiny:llama, workload: pp1, threads: [1, 2]}]"), "threads") == [(1,), (2,)]


def test_duplicates_are_dropped_and_counted() -> None:
    text = (
        GOOD.replace("}", ", context: [16K, 16384, 1K]}")
        + "defaults: {model: tiny:llama, workload: pp512}\n"
        + "include: [{context: [1K, 2K]}, {context: 2K}]"
    )
    assert rows(cells_of(text), "context") == [(16384,), (1024,), (2048,)]
    assert count_cells(matrix_of(text)).duplicates == 3


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{from: 16K, to: 128K, factor: 2}", [16384, 32768, 65536, 131072]),
        ("{from: 16K, to: 100K, factor: 2}", [16384, 32768, 65536]),
        ("{from: 1K, to: 3K, step: 512}", [1024, 1536, 2048, 2560, 3072]),
        ("[512, {from: 1K, to: 2K, step: 1K}, 5]", [512, 1024, 2048, 5]),
        ("{from: 2, to: 9, factor: 1.5}", [2, 3, 4, 7]),
    ],
)
def test_ranges(text: str, values: list[int]) -> None:
    assert [row[0] for row in rows(cells_of(GOOD.replace("}", f", context: {text}}}")), "context")] == values


def test_range_of_fractions_hits_its_end() -> None:
    cells = cells_of(GOOD.replace("}", ", power_limit: {from: 0.1W, to: 0.5W, step: 0.1W}}"))
    assert [row[0] for row in rows(cells, "power_limit")] == [0.1, 0.2, 0.3, 0.4, 0.5]


axis_values = st.fixed_dictionaries(
    {name: st.lists(st.sampled_from(words.split()), min_size=1, max_size=4) for name, words in TUNED.items()}
)


@given(
    axis_values,
    st.lists(st.fixed_dictionaries({}, optional={n: st.sampled_from(w.split()) for n, w in TUNED.items()}), max_size=4),
)
def test_cells_are_those_of_a_plain_product(axes: dict[str, list[str]], excludes: list[dict[str, str]]) -> None:
    """Against itertools.product and a filter over all cells, with the same order."""
    expected = [
        dict(zip(axes, map(int, row), strict=True)) for row in itertools.product(*map(dict.fromkeys, axes.values()))
    ]
    used = [entry for entry in excludes if entry and all(value in axes[name] for name, value in entry.items())]
    left = [row for row in expected if not any(all(row[n] == int(v) for n, v in entry.items()) for entry in used)]
    if not left:
        return
    text = GOOD.replace("}", "".join(f", {name}: [{', '.join(values)}]" for name, values in axes.items()) + "}")
    text += f"exclude: [{', '.join('{' + ', '.join(f'{n}: {v}' for n, v in entry.items()) + '}' for entry in used)}]\n"
    cells = cells_of(text)
    assert [{name: cell.values[name] for name in axes} for cell in cells] == left
    assert len({cell.cell_id for cell in cells}) == len(cells) == len(left)
    counts = count_cells(matrix_of(text))
    assert counts.excluded == len(expected) - len(left)
    assert counts.duplicates == len(list(itertools.product(*axes.values()))) - len(expected)


@given(
    axis_values,
    st.lists(axis_values, max_size=3),
    st.lists(st.sampled_from(["1 2", "3"]), max_size=1),
)
def test_included_cells_come_once(
    axes: dict[str, list[str]], includes: list[dict[str, list[str]]], excluded: list[str]
) -> None:
    """Against a dict of all values that were seen: an excluded cell may be included again."""
    without = {int(value) for text in excluded for value in text.split() if value in axes["threads"]}
    product = [row for row in plain_product(axes) if row["threads"] not in without]
    expected = list(
        dict.fromkeys(tuple(row[n] for n in axes) for grid in (product, *map(plain_product, includes)) for row in grid)
    )
    if not product:
        return
    text = GOOD.replace("}", "".join(f", {name}: [{', '.join(values)}]" for name, values in axes.items()) + "}")
    for at, entry in enumerate(includes):
        text += "include:\n" if at == 0 else ""
        text += f"  - {{model: tiny:llama, workload: pp512, {', '.join(f'{n}: {v}' for n, v in entry.items())}}}\n"
    text += f"exclude: [{{threads: [{', '.join(map(str, without))}]}}]\n" if without else ""
    cells = cells_of(text)
    assert rows(cells, *axes) == expected
    every = sum(math.prod(map(len, grid.values())) for grid in (axes, *includes))
    counts = count_cells(matrix_of(text))
    assert counts.duplicates == every - counts.excluded - len(expected)


def plain_product(axes: dict[str, list[str]]) -> list[dict[str, int]]:
    return [
        dict(zip(axes, map(int, row), strict=True)) for row in itertools.product(*map(dict.fromkeys, axes.values()))
    ]


def test_counting_makes_no_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error about too many cells comes before they are in memory."""
    axes = ", ".join(f"{name}: {{from: 1, to: 100, step: 1}}" for name in ("threads", "batch", "micro_batch"))
    matrix = matrix_of(GOOD.replace("}", f", {axes}, mmap: [on, off]}}") + "exclude: [{threads: 1}, {batch: 1}]")
    monkeypatch.setattr(import_module("orchestrator.matrix.expand"), "_product_choices", None)
    assert count_cells(matrix) == CellCounts(2 * 99 * 99 * 100, 0, 2 * 100 * (100 + 99), 0)
    with pytest.raises(UsageError, match="1,960,200 cells x 3 repeats x 1 devices = 5,880,600 jobs"):
        check_size(matrix, 1)


def test_a_cell_asks_for_what_the_file_says() -> None:
    (cell,) = cells_of(
        "axes: {model: tiny:qwen3vl, quantization: q8_0, runtime: CPU, context: 4K, kv_type: q8_0/f16,"
        " flash_attention: yes, gpu_layers: all, threads: 2, batch: 2K, micro_batch: 512, mmap: off,"
        " keep_in_memory: no, kv_offload: true,"
        " dedicated_vram: 512M, power_limit: 80W, power_profile: low-power, workload: tg128@d4K, device: lab-1}"
    )
    assert cell.load == LoadSettings(
        engine="embedded", model="tiny:qwen3vl", quantisation="Q8_0", runtime=Runtime.CPU, context_tokens=4096,
        kv_type_k="q8_0", kv_type_v="f16", flash_attention=True, gpu_layers=-1, threads=2, batch_tokens=2048,
        micro_batch_tokens=512, mmap=False, keep_in_memory=False, kv_offload=True, source=ModelSource(tiny="qwen3vl"),
    )  # fmt: skip
    assert cell.state == MachineState(512 * 1024**2, power_limit_w=80.0, power_profile="low-power")
    assert cell.workload == Synthetic("tg128@d4096", 0, 128, 4096)
    assert cell.device == "lab-1"
    assert set(cell.values) == {axis.name for axis in AXES}


def test_every_axis_goes_to_fields_that_the_job_has() -> None:
    load = set(LoadSettings.__dataclass_fields__) - {"source"}
    state = set(MachineState.__dataclass_fields__)
    assert {column for axis in AXES if axis.part == "load" for column in axis.columns} == load
    assert {column for axis in AXES if axis.part == "state" for column in axis.columns} == state


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("tiny:llama-0.6b", ModelSource(tiny="llama-0.6b")),
        ("hf:Qwen/Qwen3-8B-GGUF", ModelSource(hf_repo="Qwen/Qwen3-8B-GGUF")),
        ("hf:o/r/sub/f.gguf@main", ModelSource(hf_repo="o/r", hf_file="sub/f.gguf", hf_revision="main")),
        ("/models/a.bin", ModelSource(path="/models/a.bin")),
        ("~/a.gguf", ModelSource(path="~/a.gguf")),
        ("C:\\models\\a.gguf", ModelSource(path="C:\\models\\a.gguf")),
        ("qwen/qwen3-vl-32b", ModelSource()),
        ("qwen3-vl:32b", ModelSource()),
    ],
)
def test_model_values(model: str, source: ModelSource) -> None:
    (cell,) = cells_of(f"axes: {{model: '{model}', workload: pp1, engine: lmstudio}}")
    assert cell.load.source == source
    assert cell.load.model == model


def test_named_models_take_the_quantisation_into_their_names(tmp_path: Path) -> None:
    matrix = read(
        tmp_path,
        "models:\n"
        "  a: {hf: o/r, file: '*{quantisation}*.gguf', names: {lmstudio: 'o/a@{quantisation_lower}'}}\n"
        "  b: {path: 'sub/b-{quantisation}.gguf', mmproj: mmproj.gguf}\n"
        "axes: {model: [a, b], quantisation: Q4_K_M, workload: pp1}",
    )
    first, second = (cell.load.source for cell in expand(matrix))
    assert first == ModelSource(hf_repo="o/r", hf_file="*Q4_K_M*.gguf", engine_names=(("lmstudio", "o/a@q4_k_m"),))
    assert second == ModelSource(path=str(tmp_path / "sub" / "b-Q4_K_M.gguf"), mmproj="mmproj.gguf")


def test_ids_hash_content_and_nothing_else() -> None:
    base = "axes: {model: m, workload: w, threads: 2}\nmodels: {m: {path: a.gguf}}\n"
    base += "workloads: {w: {prompt: hi, max_tokens: 8}}\n"
    (cell,) = cells_of(base)
    assert len(cell.cell_id) == 20
    assert int(cell.cell_id, 16) >= 0
    same = [base.replace("threads: 2", "threads: 2, device: d"), base + "name: other\nmeasure: {repeats: 9}\n"]
    same.append("axes: {threads: 2, workload: w}\ndefaults: {model: m}" + base[base.index("\n") :])
    same.append(
        base.replace("axes: {model: m, workload: w, threads: 2}", "include: [{threads: 2, workload: w, model: m}]")
    )
    for text in same:
        assert cells_of(text)[0].cell_id == cell.cell_id, text
    other = [
        ("threads: 2", "threads: 3"),
        ("hi", "ho"),
        ("a.gguf", "b.gguf"),
        ("max_tokens: 8", "max_tokens: 8, seed: 1"),
    ]
    for old, new in other:
        assert cells_of(base.replace(old, new))[0].cell_id != cell.cell_id, new


def test_ids_do_not_change_from_release_to_release() -> None:
    """A ledger holds them: an id that changes would run its cell again."""
    assert cells_of("axes: {model: tiny:llama, workload: pp512, context: 4K}")[0].cell_id == "18bce1dfd1ce93690c1f"


def test_labels_hold_the_axes_that_vary() -> None:
    cells = cells_of(
        "axes: {model: tiny:llama, quantisation: [Q8_0, Q4_0], context: [16K], kv_type: [q8_0, f16], workload: pp1}"
    )
    assert cells[0].label() == "Q8_0 kv q8_0"
    assert cells_of(GOOD)[0].label() == "tiny:llama pp512"
    cells = cells_of(GOOD.replace("}", ", gpu_layers: [all, 3], power_limit: [80W, 7.5W], dedicated_vram: [32G, 0]}"))
    assert (cells[0].label(), cells[-1].label()) == ("vram 32GiB 80W ngl all", "vram 0 7.5W ngl 3")


def test_jobs_are_cells_times_repeats_times_devices(tmp_path: Path) -> None:
    text = GOOD.replace("}", ", threads: {from: 1, to: 1000, step: 1}}") + "measure: {repeats: 50}\n"
    text += "include: [{model: tiny:llama, workload: pp1, device: [a, b]}]"
    matrix = read(tmp_path, text)
    assert job_count(matrix, count_cells(matrix), devices=2) == 1000 * 50 * 2 + 2 * 50
    with pytest.raises(
        UsageError, match="1,002 cells x 50 repeats x 2 devices = 100,100 jobs; more than 100,000 need --yes"
    ):
        check_size(matrix, 2)
    assert check_size(matrix, 2, confirmed=True) == 100_100
    with pytest.raises(UsageError, match="at most 10,000,000 can be run as one matrix"):
        check_size(matrix, 1000, confirmed=True)


def test_a_saved_matrix_needs_no_files(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a long story")
    matrix = read(
        tmp_path,
        "workloads: {w: {prompt_file: p.txt, max_tokens: 8}}\n"
        "axes: {model: [a.gguf, tiny:llama], workload: [w, pp1], threads: [1, 2]}\n"
        "exclude: [{threads: 1, workload: w}]",
    )
    saved = matrix_to_json(matrix)
    (tmp_path / "p.txt").unlink()
    (tmp_path / "m.yaml").unlink()
    again = matrix_from_json(saved)
    assert again == matrix
    assert [cell.cell_id for cell in expand(again)] == [cell.cell_id for cell in expand(matrix)]
    assert [cell.load for cell in expand(again)] == [cell.load for cell in expand(matrix)]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 9, "path": "a", "text": "", "files": {}}'])
def test_what_was_not_saved_here_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="saved matrix"):
        matrix_from_json(text)


def test_a_saved_matrix_that_was_changed_is_refused(tmp_path: Path) -> None:
    saved = matrix_to_json(read(tmp_path, GOOD))
    with pytest.raises(UsageError, match="digest differs"):
        matrix_from_json(saved.replace("pp512", "pp513"))
