"""Our trials as llama-bench's records, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.errors import UsageError
from orchestrator.report.llama_bench import llama_bench_file
from orchestrator.results import schema
from orchestrator.results.foreign.importing import ForeignFile, import_files
from orchestrator.results.store import Store

RECORDED = Path(__file__).parents[2] / "recordings" / "llama_bench"

NEEDED = {
    *("cpu_info", "gpu_info", "backends", "n_gpu_layers", "n_cpu_moe", "tensor_buft_overrides", "model_filename"),
    *("model_type", "n_batch", "n_ubatch", "embeddings", "cpu_mask", "cpu_strict", "poll", "n_threads", "type_k"),
    *("type_v", "use_mmap", "load_mode", "no_kv_offload", "split_mode", "main_gpu", "tensor_split", "flash_attn"),
    *("n_prompt", "n_gen", "n_depth", "fit_target", "fit_min_ctx", "build_commit", "test_time", "avg_ts"),
}
"""``LLAMA_BENCH_KEY_PROPERTIES`` of scripts/compare-llama-bench.py, before and after load_mode, and what it adds."""

SAME: dict[str, Any] = {
    "run": "r",
    "attempt": 1,
    "trial": 0,
    "repeat": 0,
    "warmup": False,
    "status": "ok",
    "origin": "measured",
    "engine": "embedded",
    "engine_version": "xllamacpp 2026.10.11549",
    "device": "laptop",
    "device_id": "d",
    "fingerprint": "f00d",
    "model": "tiny:llama",
    "model_file": "tiny.gguf",
    "model_architecture": "llama",
    "quantisation": "Q8_0",
    "runtime": "vulkan",
    "workload_kind": "synthetic",
    "prompt_tokens_asked": 0,
    "max_tokens": 0,
    "depth": 0,
    "flags": [],
}
PP = SAME | {"workload": "pp64", "prompt_tokens_asked": 64}
TG = SAME | {"workload": "tg16", "max_tokens": 16}
NO_DEVICES = schema.schema("devices").empty_table()
DEVICE = {"run": "r", "fingerprint": "f00d", "device_id": "d", "cpu": "a CPU", "physical_cores": 8}
DEVICES = pa.Table.from_pylist(
    [DEVICE | {"gpus": [{"name": "GPU 1"}, {"name": "GPU 2"}]}], schema=schema.schema("devices")
)


def trials(*rows: dict[str, Any]) -> pa.Table:
    numbered = [{"job_id": f"j{number}", "cell_id": "c"} | row for number, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, schema=schema.schema())


def test_a_test_has_a_sample_a_trial() -> None:
    table = trials(
        PP | {"prompt_tps": 6400.0},
        PP | {"prompt_tps": 3200.0},
        TG | {"decode_tps": 32.0},
        SAME
        | {"workload": "pp8+tg8", "prompt_tokens_asked": 8, "max_tokens": 8, "duration_s": 0.5, "decode_tps": 99.0},
        TG | {"decode_tps": 1.0, "warmup": True},
    )
    prompt, generation, both = llama_bench_file(table, DEVICES).records
    assert set(prompt) >= NEEDED
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["n_depth"]) == (64, 0, 0)
    assert (prompt["samples_ts"], prompt["samples_ns"]) == ([6400.0, 3200.0], [10_000_000, 20_000_000])
    assert (prompt["avg_ts"], prompt["avg_ns"]) == (4800.0, 15_000_000)
    assert (prompt["stddev_ts"], prompt["stddev_ns"]) == (pytest.approx(2262.7417), 7_071_068)
    assert (generation["samples_ts"], generation["stddev_ts"], generation["avg_ns"]) == ([32.0], 0.0, 500_000_000)
    assert both["samples_ts"] == [32.0]  # (8 + 8) / 0.5 s, as llama-bench counts -pg


def test_fields_of_a_measured_trial() -> None:
    settings = {"batch_tokens": 1024, "kv_type_k": "q8_0", "flash_attention": True, "mmap": False, "kv_offload": False}
    found = llama_bench_file(trials(PP | {"prompt_tps": 1.0} | settings), DEVICES)
    expected = {
        "build_number": 11549,
        "cpu_info": "a CPU",
        "gpu_info": "GPU 1, GPU 2",
        "backends": "Vulkan",
        "model_filename": "tiny.gguf",
        "model_type": "llama Q8_0",
        "n_batch": 1024,
        "n_ubatch": 512,
        "n_threads": 8,
        "type_k": "q8_0",
        "type_v": "f16",
        "flash_attn": 1,
        "load_mode": "none",
        "use_mmap": False,
        "no_kv_offload": True,
    }
    (record,) = found.records
    assert {name: record[name] for name in expected} == expected
    assert found.builds == {record["build_commit"]: "embedded xllamacpp 2026.10.11549"}
    assert len(record["build_commit"]) == 8


@pytest.mark.parametrize(
    ("version", "commit", "number"),
    [("b5163 (8cf427ff)", "8cf427ff", 5163), ("llama.cpp b11549-0104b151c", "0104b151c", 11549)],
)
def test_a_version_that_tells_its_commit(version: str, commit: str, number: int) -> None:
    (record,) = llama_bench_file(trials(TG | {"decode_tps": 1.0, "engine_version": version}), NO_DEVICES).records
    assert (record["build_commit"], record["build_number"]) == (commit, number)
    assert (record["cpu_info"], record["gpu_info"]) == ("laptop", "")  # no inventory


def test_builds_can_be_named() -> None:
    table = trials(TG | {"decode_tps": 1.0})
    assert llama_bench_file(table, NO_DEVICES, build="old").records[0]["build_commit"] == "old-----"
    with pytest.raises(UsageError, match="at most 8"):
        llama_bench_file(table, NO_DEVICES, build="a long name")


def test_what_has_no_equivalent_is_counted() -> None:
    table = trials(
        TG | {"decode_tps": 1.0},
        TG | {"decode_tps": 2.0, "flags": ["prompt_cached"]},
        TG | {"decode_tps": None},
        TG | {"status": "failed", "cause": "ram", "trial": None},
        SAME | {"workload": "hello", "workload_kind": "chat", "decode_tps": 3.0},
        SAME | {"workload": "hello", "workload_kind": "chat", "decode_tps": 3.0},
    )
    found = llama_bench_file(table, NO_DEVICES)
    assert [record["samples_ts"] for record in found.records] == [[1.0]]
    assert found.left_out == {
        "flagged": 1,
        "without a rate of their own": 1,
        "without a figure (failed, refused, not measured)": 1,
        "of workloads that are not synthetic (chats, images)": 2,
    }
    with pytest.raises(UsageError, match="nothing here has an equivalent in llama-bench: 2 of workloads that are not"):
        llama_bench_file(table, NO_DEVICES, where=["workload=hello"])


def test_cells_that_llama_bench_cannot_tell_apart_are_not_mixed() -> None:
    table = trials(*(TG | {"decode_tps": watts, "power_limit_w": watts} for watts in (40.0, 80.0)))
    with pytest.raises(UsageError) as caught:
        llama_bench_file(table, NO_DEVICES)
    assert str(caught.value) == (
        "llama-bench has no field for power_limit: its 0/16 test would mix 40 W, 80 W;"
        " choose by --where, such as --where power_limit=80W"
    )
    (record,) = llama_bench_file(table, NO_DEVICES, where=["power_limit=80W"]).records
    assert record["samples_ts"] == [80.0]
    two_builds = trials(
        *(TG | {"decode_tps": 1.0, "engine_version": version} for version in ("b1-aaaaaaa", "b2-bbbbbbb"))
    )
    assert len(llama_bench_file(two_builds, NO_DEVICES).records) == 2
    with pytest.raises(UsageError, match="has no field for engine_version"):
        llama_bench_file(two_builds, NO_DEVICES, build="one")


@pytest.mark.parametrize("name", ["b11549.json", "b11549.jsonl", "readme.json"])
def test_llama_bench_s_own_file_comes_back(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    import_files(store, [ForeignFile(name, (RECORDED / name).read_bytes())], run="r", device="a name of mine")
    text = (RECORDED / name).read_text()
    was = json.loads(text) if name.endswith("json") else [json.loads(line) for line in text.splitlines()]
    back = {(r["n_prompt"], r["n_gen"], r["n_depth"]): r for r in llama_bench_file(store.load("r"), NO_DEVICES).records}
    for record in was:
        found = back[record["n_prompt"], record["n_gen"], record["n_depth"]]
        rates = ("avg_ns", "avg_ts", "stddev_ts", "samples_ts")
        # llama-bench takes stddev_ns in whole numbers; use_direct_io came and went.
        plain = set(record) - {*rates, "use_direct_io", "stddev_ns"}
        assert {key: found[key] for key in plain} == {key: record[key] for key in plain}
        assert {key: found[key] for key in rates} == {key: pytest.approx(record[key], rel=1e-5, abs=1) for key in rates}


def test_our_export_can_be_imported(tmp_path: Path) -> None:
    rates = {"pp64": (6401.3, 6388.7), "tg16": (31.7, 33.1)}
    rows = [PP | {"prompt_tps": rate} for rate in rates["pp64"]] + [TG | {"decode_tps": rate} for rate in rates["tg16"]]
    exported = llama_bench_file(trials(*rows), DEVICES)
    store = Store(tmp_path)
    import_files(store, [ForeignFile("x.json", json.dumps(exported.records).encode())])
    table = store.load("x")
    for workload, metric in (("pp64", "prompt_tps"), ("tg16", "decode_tps")):
        found = [row[metric] for row in table.to_pylist() if row["workload"] == workload]
        assert found == pytest.approx(list(rates[workload]), rel=1e-6)
    again = llama_bench_file(table, NO_DEVICES).records
    assert [{**r, "samples_ts": 0, "avg_ts": 0, "stddev_ts": 0} for r in again] == [
        {**r, "samples_ts": 0, "avg_ts": 0, "stddev_ts": 0} for r in exported.records
    ]
