from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

import orchestrator
from orchestrator.errors import UsageError
from orchestrator.results import schema
from orchestrator.results.reference import HEADER, load_reference, published, references

GIB = 2**30


def test_the_published_figures_come_with_the_package_and_with_their_source() -> None:
    assert references() == ("aimax395-64g",)
    page = resources.files("orchestrator.reference").joinpath("aimax395-64g.md").read_text("utf-8")
    assert "Ryzen AI Max+ 395" in page and "gathered by hand" in page
    table = load_reference("reference:aimax395-64g")
    assert table.schema.equals(schema.schema(), check_metadata=True)
    assert table.num_rows == 16
    assert Counter(table.column("status").to_pylist()) == {"ok": 12, "failed": 2, "estimate_only": 1, "not_measured": 1}
    assert set(table.column("origin").to_pylist()) == {"published"}


def test_units_are_parsed_and_failures_have_their_cause() -> None:
    rows = load_reference("aimax395-64g").to_pylist()
    first = rows[0]
    expected = {
        "device": "aimax395-64g-laptop",
        "engine": "lmstudio",
        "model": "glm-4.7-flash",
        "quantisation": "Q4_K_M",
        "context_tokens": 16_384,
        "dedicated_vram_bytes": GIB // 2,
        "runtime": "vulkan",
        "workload": "website-html",
        "decode_tps": 17.26,
        "completion_tokens": 6970,
        "ttft_s": 0.8,
        "model_bytes": 18_130_000_000,
        "memory_used_bytes": round(20.8 * GIB),
        "memory_estimate_bytes": round(18.59 * GIB),
    }
    assert {name: first[name] for name in expected} == expected
    failed = [(row["context_tokens"], row["dedicated_vram_bytes"], row["cause"]) for row in rows if row["cause"]]
    assert failed == [(198 * 1024, GIB // 2, "ram"), (None, 48 * GIB, "ram")]
    (estimate,) = [row for row in rows if row["status"] == "estimate_only"]
    assert (estimate["runtime"], estimate["decode_tps"], estimate["trial"]) == (None, None, None)
    assert {row["image_width_px"] for row in rows if row["model"] == "qwen3-vl-32b"} == {1486, None}


def test_any_csv_with_these_columns_is_a_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(",".join(HEADER) + "\nbox,ollama,m,Q8_0,,8K,96G,cuda,p,load_failed,,,,,,no reason told\n")
    (row,) = orchestrator.load(path).to_pylist()
    assert (row["run"], row["cause"], row["dedicated_vram_bytes"]) == ("mine", "load_failed", 96 * GIB)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("status", "fine", 'f.csv:2: status: "fine" is not allowed. Allowed: ok'),
        ("context", "sixteen", 'f.csv:2: context: "sixteen"'),
        ("dedicated_vram", "32", 'f.csv:2: dedicated_vram: "32"'),
        ("decode_tps", "fast", "f.csv:2: decode_tps"),
    ],
)
def test_what_cannot_be_read_is_named(column: str, value: str, said: str) -> None:
    line = dict.fromkeys(HEADER, "") | {"status": "ok", column: value}
    with pytest.raises(UsageError) as caught:
        published(",".join(HEADER) + "\n" + ",".join(line.values()) + "\n", "f", "f.csv")
    assert str(caught.value).startswith(said)
