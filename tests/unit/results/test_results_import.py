"""Files of other tools become rows; recordings of llama-bench: tests/recordings/llama_bench/README.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.errors import UsageError
from orchestrator.results import schema
from orchestrator.results.durable import StoreFull
from orchestrator.results.foreign.importing import STDIN, ForeignFile, Imported, import_files, run_name
from orchestrator.results.foreign.llama_bench import quantisation
from orchestrator.results.foreign.mapping import COLUMNS, parse_mapping
from orchestrator.results.store import Store
from tests.unit.results.made_attempts import DEVICE, job, report

RECORDED = Path(__file__).parents[2] / "recordings" / "llama_bench"
EXAMPLE: list[dict[str, Any]] = json.loads((RECORDED / "readme.json").read_text())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def recorded(name: str) -> ForeignFile:
    return ForeignFile(name, (RECORDED / name).read_bytes())


def as_json(*records: dict[str, Any]) -> ForeignFile:
    return ForeignFile("f.json", json.dumps(records).encode())


def rows(store: Store, run: str) -> list[dict[str, Any]]:
    return store.load(run).to_pylist(maps_as_pydicts="strict")


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_each_repetition_is_a_trial_with_its_own_rate(store: Store, ending: str) -> None:
    (done,) = import_files(store, [recorded(f"b11549.{ending}")])
    assert (done.run, done.records, done.trials, done.added) == ("b11549", 6, 18, True)
    text = (RECORDED / f"b11549.{ending}").read_text()
    records = json.loads(text) if ending == "json" else [json.loads(line) for line in text.splitlines()]
    told = {(r["n_prompt"], r["n_gen"], r["n_depth"]): r["samples_ts"] for r in records}
    found = rows(store, "b11549")
    assert len({row["job_id"] for row in found}) == 6
    for row in found:
        rate = told[row["prompt_tokens_asked"], row["max_tokens"], row["depth"]][row["trial"]]
        n = row["prompt_tokens_asked"] + row["max_tokens"]
        assert n / row["duration_s"] == pytest.approx(rate, rel=1e-5)
        figures = {"pp64": (rate, None), "tg16": (None, rate), "pp32+tg8": (None, None)}
        prompt, decode = figures[row["workload"].partition("@")[0]]
        assert row["prompt_tps"] == (pytest.approx(prompt, rel=1e-5) if prompt else None)
        assert row["decode_tps"] == (pytest.approx(decode, rel=1e-5) if decode else None)
        assert (row["origin"], row["engine"], row["warmup"], row["ttft_s"]) == ("imported", "llama-bench", False, None)
    assert {row["workload"] for row in found} == {
        *("pp64", "tg16", "pp32+tg8", "pp64@d128", "tg16@d128", "pp32+tg8@d128"),
    }


def test_what_the_record_says_stands_in_our_columns(store: Store) -> None:
    import_files(store, [recorded("b11549.json"), recorded("readme.json")])
    ours, theirs = rows(store, "b11549")[0], rows(store, "readme")[0]
    expected = {
        "device": ("AMD EPYC", "NVIDIA GeForce RTX 4080"),  # the GPU where there is one
        "model": ("tiny-llama-Q8_0.g1", "Qwen2.5-7B-Instruct"),
        "quantisation": ("Q8_0", "Q4_K_M"),
        "model_file": ("tiny-llama-Q8_0.g1.gguf", "Qwen2.5-7B-Instruct-Q4_K_M.gguf"),
        "model_architecture": ("llama", "qwen2"),
        "model_bytes": (4465664, 4677120000),
        "runtime": ("cpu", "cuda"),
        "engine_version": ("b11549 (xllamacpp)", "b5163 (8cf427ff)"),
        "kv_type_k": ("f16", "f16"),
        "flash_attention": (True, None),  # 1 | -1: the engine chose
        "mmap": (None, True),  # load_mode auto | use_mmap
        "keep_in_memory": (None, None),
        "gpu_layers": (-1, -1),
        "threads": (2, 8),
        "batch_tokens": (2048, 2048),
        "micro_batch_tokens": (512, 512),
        "kv_offload": (True, True),
    }
    assert {name: (ours[name], theirs[name]) for name in expected} == expected
    assert theirs["started_at"].isoformat() == "2025-04-24T11:58:50+00:00"
    settings = dict(theirs["settings"])
    assert (settings["poll"], settings["no_host"], settings["cpu_mask"]) == ("50", "false", "0x0")
    assert not {"avg_ts", "samples_ns", "test_time"} & set(settings)


def test_a_csv_of_llama_bench_holds_means_and_says_so(store: Store) -> None:
    import_files(store, [recorded("b11549.csv")])
    found = rows(store, "b11549")
    assert len(found) == 6
    (tg,) = (row for row in found if row["workload"] == "tg16")
    assert tg["decode_tps"] == 3677.411563
    assert (tg["note"], tg["flash_attention"]) == ("a mean: the file does not hold the single repetitions", True)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"load_mode": "mmap+mlock", "use_mmap": None}, {"mmap": True, "keep_in_memory": True}),
        ({"load_mode": "none"}, {"mmap": False, "keep_in_memory": False}),
        ({"load_mode": "dio"}, {"mmap": False, "keep_in_memory": False}),
        ({"flash_attn": True}, {"flash_attention": True}),  # builds before -1 wrote true and false
        ({"flash_attn": 0}, {"flash_attention": False}),
        ({"backends": "Metal,BLAS"}, {"runtime": "metal", "engine_runtime": "Metal,BLAS"}),
        ({"backends": "BLAS"}, {"runtime": "cpu"}),
        ({"backends": "CUDA,Vulkan"}, {"runtime": None}),
        ({"backends": "SYCL"}, {"runtime": "sycl"}),
        ({"no_kv_offload": True}, {"kv_offload": False}),
        ({"model_filename": "C:\\m\\Big-UD-Q6_K-00001-of-00002.gguf", "model_type": "x ?B Q6_K"}, {"model": "Big-UD"}),
        ({"samples_ns": None}, {"duration_s": pytest.approx(512 / 6863.1), "prompt_tps": 6863.1}),
        ({"samples_ns": None, "samples_ts": None}, {"prompt_tps": 7100.002165, "duration_s": 0.07213564}),
        ({"gpu_info": ""}, {"device": "AMD Ryzen 7 7800X3D 8-Core Processor"}),
        ({"n_depth": None}, {"depth": 0, "workload": "pp512"}),
        ({"n_depth": 4096}, {"depth": 4096, "workload": "pp512@d4096"}),
        ({"a_new_field": [1]}, {"workload": "pp512"}),
    ],
)
def test_fields_as_versions_write_them(store: Store, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    import_files(store, [as_json(EXAMPLE[0] | fields)])
    row = rows(store, "f")[0]
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("qwen2 7B Q4_K - Medium", "Q4_K_M"),
        ("llama 7B mostly Q4_0", "Q4_0"),
        ("gpt-oss 20B MXFP4 MoE", "MXFP4"),
        ("llama 8B IQ2_XXS - 2.0625 bpw", "IQ2_XXS"),
        ("qwen3moe 30B.A3B Q2_K - Medium", "Q2_K"),
        ("llama 1B all F32", "F32"),
        ("Qwen3-0.6B-bf16", "BF16"),
        ("llama 1B unknown, may not work", None),
    ],
)
def test_quantisation_from_words(text: str, said: str | None) -> None:
    assert quantisation(text) == said


def test_the_same_file_twice_is_there_once(store: Store) -> None:
    first = import_files(store, [recorded("b11549.json")])
    before = {path: path.read_bytes() for path in store.root.rglob("*.parquet")}
    renamed = ForeignFile("elsewhere/other.json", recorded("b11549.json").data)
    again = [*import_files(store, [recorded("b11549.json")]), *import_files(store, [renamed, renamed])]
    assert [(each.run, each.added) for each in (*first, *again)] == [("b11549", True), *[("b11549", False)] * 3]
    store.compact("b11549")
    assert not import_files(store, [renamed])[0].added
    assert {path: path.read_bytes() for path in store.root.rglob("*.parquet")} == before
    other = import_files(store, [renamed], run="other")  # asked for by name
    assert (other[0].run, other[0].added) == ("other", True)


def test_a_run_takes_more_files_where_it_is_named(store: Store) -> None:
    files = [recorded("b11549.json"), recorded("readme.json")]
    import_files(store, files[:1], run="all")
    assert [each.added for each in import_files(store, files, run="all")] == [False, True]
    assert len(rows(store, "all")) == 28
    assert store.load("all", "tokens").num_rows == store.load("all", "devices").num_rows == 0


def same_name(store: Store) -> list[Imported]:
    return import_files(store, [as_json(EXAMPLE[0]), as_json(EXAMPLE[1])])


def another_device(store: Store) -> list[Imported]:
    import_files(store, [as_json(EXAMPLE[0])])
    return import_files(store, [as_json(EXAMPLE[0])], device="mine")


def into_a_measured_run(store: Store) -> list[Imported]:
    store.append(job(), report(job()), DEVICE)
    return import_files(store, [as_json(EXAMPLE[0])], run="run-1")


def into_a_run_of_the_ledger(store: Store) -> list[Imported]:
    return import_files(store, [as_json(EXAMPLE[0])], run="quick-1", measured=["quick-1"])


def badly_named(store: Store) -> list[Imported]:
    return import_files(store, [as_json(EXAMPLE[0])], run="../x")


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (same_name, "f.json: run f is there already, from another file; --run f adds to it"),
        (another_device, "f.json: is in run f already, imported with another --device or --map"),
        (into_a_measured_run, "f.json: run run-1 was measured here; give another name by --run"),
        (into_a_run_of_the_ledger, "f.json: run quick-1 was measured here"),
        (badly_named, '--run "../x": allowed: letters'),
    ],
)
def test_runs_are_not_mixed_up(store: Store, act: Callable[[Store], list[Imported]], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        act(store)
    assert str(caught.value).startswith(said)


def test_runs_are_named_after_the_file() -> None:
    assert run_name(ForeignFile("a b/.my bench.v2.json", b"")) == "my-bench.v2"
    assert run_name(ForeignFile(STDIN, b"")) == "import-e3b0c442"


GOOD = json.dumps(EXAMPLE[0])
HEADER = "build_commit,n_prompt,n_gen,avg_ts,model_filename,gpu_info"


def changed(**fields: Any) -> str:
    return json.dumps([EXAMPLE[1], EXAMPLE[0] | fields])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f: the file is empty. Allowed: llama-bench's output"),
        ("| model | size |\n", "f: a Markdown table: its rates are rounded"),
        ("CREATE TABLE IF NOT EXISTS llama_bench (", "f: SQL cannot be read"),
        ("[]", "f: holds no records"),
        ('[\n{"n_prompt": 1,\n', "f:3: not JSON: "),
        (f"{GOOD}\n{GOOD[:-3]}\n", "f:2: not JSON: "),
        ('[{"avg_ts": NaN}]', "f:1: not JSON: NaN is no number"),
        ("[" * 100_000, "f:1: not JSON: "),
        ("[1]", "f: record 1: not an object"),
        ('[{"model": "x"}]', "f: not llama-bench's JSON: n_prompt, n_gen, avg_ts missing. Its columns need a mapping"),
        ("a,b\n1,2\n", "f: not llama-bench's CSV: n_prompt, n_gen, avg_ts missing"),
        (f"{HEADER}\n1,2\n", "f:2: 2 cells; the header has 6"),
        (f"{HEADER},avg_ts\n", 'f:1: column "avg_ts" stands there twice'),
        (f"{HEADER}\n,8,0,x,m.gguf,gpu\n", 'f:2: avg_ts: "x" is not allowed here. Allowed: a number above 0'),
        (f'{HEADER}\n,8,0,"1\n', "f:2: not CSV: "),
        (changed(n_prompt="many"), 'f: record 2: n_prompt: "many" is not allowed here. Allowed: a whole number from 0'),
        (changed(n_prompt=-1), 'f: record 2: n_prompt: "-1" is not allowed here'),
        (changed(n_gen=True), 'f: record 2: n_gen: "True" is not allowed here'),
        (changed(n_prompt=0), "f: record 2: n_prompt, n_gen: both are 0: nothing was measured"),
        (changed(samples_ns=[1, 0]), 'f: record 2: samples_ns[1]: "0" is not allowed here. Allowed: a number above 0'),
        (changed(samples_ns=5), "f: record 2: samples_ns: is not allowed here. Allowed: a list"),
        (changed(samples_ts=[1.0]), "f: record 2: samples_ts: 1 values; samples_ns has 5"),
        (changed(n_prompt=511), "f: record 2: samples_ts: 6863.1 is not 511 tokens by their time in samples_ns"),
        (changed(samples_ns=[], samples_ts=[], avg_ts=None), "f: record 2: avg_ts: is missing"),
        (changed(test_time="today"), 'f: record 2: test_time: "today" is not a time. Allowed: ISO 8601'),
        (changed(flash_attn=2), 'f: record 2: flash_attn: "2" is not allowed here. Allowed: 1, true, on'),
        (changed(backends=1), 'f: record 2: backends: "1" is not allowed here. Allowed: a text'),
        (changed(gpu_info="", cpu_info=""), "f: record 2: gpu_info, cpu_info: neither tells the device; give --device"),
        (changed(model_filename=None, model_type=""), "f: record 2: model_filename: is missing"),
    ],
    ids=lambda text: text[-40:],
)
def test_a_bad_file_is_told_by_place_and_key_and_nothing_is_kept(store: Store, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        import_files(store, [recorded("readme.json"), ForeignFile("f", text.encode())])
    assert str(caught.value).startswith(said)
    assert not store.root.exists()


def test_encodings() -> None:
    store_text = GOOD.replace("AMD Ryzen", "AMD Ryzén")
    for data in (store_text.encode("utf-16"), store_text.encode("utf-8-sig")):
        table = _imported(ForeignFile("f", data))
        assert table.column("workload").to_pylist() == ["pp512"] * 5
    with pytest.raises(UsageError, match=r"^f:1: not UTF-8: byte 0 "):
        _imported(ForeignFile("f", b"\xe9" + GOOD.encode()))


def _imported(foreign: ForeignFile) -> pa.Table:
    class Kept(Store):
        def append_rows(self, run: str, attempts: pa.Table) -> Path:
            self.table = attempts
            return self.root

    store = Kept("/nowhere")
    import_files(store, [foreign])
    return store.table


def test_a_full_disk_leaves_nothing_of_any_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Store.append_rows

    def second_fails(self: Store, run: str, attempts: pa.Table) -> Path:
        if run == "readme":
            raise StoreFull("no space left")
        return whole(self, run, attempts)

    monkeypatch.setattr(Store, "append_rows", second_fails)
    with pytest.raises(StoreFull):
        import_files(store, [recorded("b11549.json"), recorded("readme.json")])
    assert store.runs() == ()
    assert not list(store.root.rglob("*.parquet"))


MAPPING = """
columns:
  model: Model
  workload: Test
  decode_tps: {column: t/s}
  ttft_s: {column: TTFT, unit: ms}
  model_bytes: {column: Size, unit: GB}
  context_tokens: ctx
  power_limit_w: Watts
  flash_attention: fa
  started_at: When
  load_s: {column: load, scale: 60}
constants: {engine: some-tool, runtime: vulkan, kv_type_k: q8_0, dedicated_vram_bytes: 32GiB}
delimiter: ";"
"""
TABLE = """Model;Test;t/s;TTFT;Size;ctx;Watts;fa;When;load
a;tg128;17.5;250;4.5;16K;80W;on;2026-01-02T03:04:05Z;0.5
"b; c";poem;;;;;;;;
"""


def test_a_table_by_a_mapping(store: Store) -> None:
    mapping = parse_mapping(MAPPING, "m.yaml")
    table = TABLE + TABLE.splitlines()[1].replace("17.5", "17.6") + "\n"  # the first line's test, repeated
    (done,) = import_files(store, [ForeignFile("t.csv", table.encode())], mapping=mapping, device="box")
    assert done.kind == "CSV by m.yaml"
    first, second, third = sorted(rows(store, "t"), key=lambda row: str(row["job_id"]))
    assert first["cell_id"] == third["cell_id"] != second["cell_id"]
    expected = {
        "status": "ok",
        "origin": "imported",
        "device": "box",
        "engine": "some-tool",
        "runtime": "vulkan",
        "workload_kind": "synthetic",
        "max_tokens": 128,
        "decode_tps": 17.5,
        "ttft_s": 0.25,
        "model_bytes": 4_500_000_000,
        "context_tokens": 16_384,
        "power_limit_w": 80.0,
        "flash_attention": True,
        "load_s": 30.0,
        "dedicated_vram_bytes": 32 * 2**30,
    }
    assert {name: first[name] for name in expected} == expected
    told = {name: second[name] for name in ("model", "workload", "workload_kind", "status", "decode_tps")}
    assert told == {
        **{"model": "b; c", "workload": "poem", "workload_kind": None},
        **{"status": "not_measured", "decode_tps": None},
    }


def test_a_tool_with_one_column_for_both_rates(store: Store) -> None:
    mapping = parse_mapping(MAPPING, "m.yaml")
    table = TABLE.splitlines()[0] + "\n" + TABLE.splitlines()[1].replace("tg128", "pp512") + "\n"
    import_files(store, [ForeignFile("t.csv", table.encode())], mapping=mapping, device="box")
    (row,) = rows(store, "t")
    assert (row["prompt_tps"], row["decode_tps"], row["status"]) == (17.5, None, "ok")


def test_a_mapping_of_constants_adds_to_llama_bench(store: Store) -> None:
    mapping = parse_mapping("constants: {power_limit_w: 80W, device: laptop, model: qwen}", "m.yaml")
    import_files(store, [recorded("readme.json")], mapping=mapping)
    found = {(row["power_limit_w"], row["device"], row["model"], row["engine"]) for row in rows(store, "readme")}
    assert found == {(80.0, "laptop", "qwen", "llama-bench")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "m: a mapping with the keys columns and constants belongs here"),
        ("colums: {}", 'm:1: colums: unknown key "colums"; did you mean "columns"? Allowed: columns, constants'),
        ("columns: [a]", "m:1: columns: a mapping (our column: ...) belongs here"),
        ("columns: {decode_tp: x}", 'm:1: columns.decode_tp: "decode_tp" is no column of ours that can be filled; did'),
        ("columns:\n  job_id: x", 'm:2: columns.job_id: "job_id" is no column of ours'),
        ("columns: {ttft_s: {unit: ms}}", "m:1: columns.ttft_s: key column is missing"),
        ("columns: {ttft_s: {column: x, units: ms}}", 'm:1: columns.ttft_s.units: unknown key "units"; did'),
        ("columns: {ttft_s: {column: x, unit: h}}", 'm:1: columns.ttft_s.unit: "h" is no unit of ttft_s. Allowed: s, '),
        ("columns: {model: {column: x, unit: s}}", 'm:1: columns.model.unit: "s" is no unit of model. This column has'),
        ("columns: {ttft_s: {column: x, scale: -1}}", 'm:1: columns.ttft_s.scale: "-1" is not allowed here'),
        ("columns: {ttft_s: [x]}", "m:1: columns.ttft_s: their column's name belongs here"),
        ("constants: {context_tokens: many}", 'm:1: constants.context_tokens: "many" is not allowed here'),
        ("constants: {model: [x]}", "m:1: constants.model: one value belongs here"),
        ("columns: {model: x}\nconstants: {model: y}", "m:2: constants.model: stands in columns too"),
        ("delimiter: ab", "m:1: delimiter: one character belongs here"),
        ("columns: {", "m:2: not YAML: "),
    ],
)
def test_a_bad_mapping(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_mapping(text, "m")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("mapping", "table", "said"),
    [
        ("model: Modell", "Model\nx\n", 't:2: model: no column "Modell"; did you mean "Model"? There are: "Model"'),
        ("model: Model", "Model\nx\n", "t:2: engine: nothing says it; give it in columns or constants of m"),
        (
            "{model: M, engine: M, workload: M}",
            "M\nx\n",
            "t:2: device: nothing says it; give it in columns or constants",
        ),
        ("ttft_s: s", "s\nfast\n", 't:2: s (ttft_s): "fast" is not allowed here. Allowed: a number from 0'),
        ("ttft_s: s", "s\n-1\n", 't:2: s (ttft_s): "-1" is not allowed here'),
        ("ttft_s: s", "s\ninf\n", 't:2: s (ttft_s): "inf" is not allowed here'),
        ("threads: n", "n\n1.5\n", 't:2: n (threads): "1.5" is not allowed here. Allowed: a whole number'),
        (
            "model_bytes: n",
            "n\n512\n",
            't:2: n (model_bytes): "512" is not allowed here. Allowed: a size with its unit',
        ),
        ("flash_attention: n", "n\nmaybe\n", 't:2: n (flash_attention): "maybe" is not a switch'),
        ("started_at: n", "n\nnoon\n", 't:2: n (started_at): "noon" is not a time'),
    ],
)
def test_a_table_that_does_not_fit_its_mapping(store: Store, mapping: str, table: str, said: str) -> None:
    read = parse_mapping(f"columns: {mapping if mapping[0] == '{' else '{' + mapping + '}'}", "m")
    with pytest.raises(UsageError) as caught:
        import_files(store, [ForeignFile("t", table.encode())], mapping=read)
    assert str(caught.value).startswith(said)


def test_every_column_that_can_be_filled_is_one_of_trials() -> None:
    assert set(COLUMNS) < set(schema.schema().names)
    assert {"decode_tps", "prompt_tps", "ttft_s", "power_limit_w", "device"} <= set(COLUMNS)
    assert not {"run", "job_id", "origin", "flags", "settings"} & set(COLUMNS)
