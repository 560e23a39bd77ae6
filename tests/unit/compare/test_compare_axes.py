from __future__ import annotations

from typing import Any

import pytest

from agents.contract.job import LoadSettings, MachineState
from orchestrator.compare import axes
from orchestrator.matrix.axes import AXES as MATRIX_AXES
from orchestrator.report.text_table import format_figure
from orchestrator.results.schema import contract_columns

GIB = 2**30


def test_every_axis_of_a_matrix_has_a_name_here() -> None:
    for axis in MATRIX_AXES:
        assert axes.axis_named(axis.name) in axes.NAMED


def test_every_setting_that_a_job_can_carry_is_an_axis() -> None:
    wanted = {each.name for kind in (LoadSettings, MachineState) for each in contract_columns(kind)}
    assert wanted - {"kv_type_k", "kv_type_v"} <= set(axes.AXES)
    assert {"kv_type_k", "kv_type_v"} <= set(axes.NAMED)


@pytest.mark.parametrize(
    ("axis", "value", "said"),
    [
        ("context_tokens", 16_384, "16K"),
        ("context_tokens", 1000, "1000"),
        ("dedicated_vram_bytes", 32 * GIB, "32 GiB"),
        ("dedicated_vram_bytes", GIB // 2, "512 MiB"),
        ("dedicated_vram_bytes", 0, "0 bytes"),
        ("power_limit_w", 80.0, "80 W"),
        ("power_limit_w", 7.5, "7.5 W"),
        ("flash_attention", True, "on"),
        ("mmap", False, "off"),
        ("runtime", None, "-"),
        ("threads", 8, "8"),
        ("fingerprint", "0123456789abcdef", "0123456789"),
    ],
)
def test_values_as_people_write_them_and_back(axis: str, value: Any, said: str) -> None:
    assert axes.label(axis, value) == said
    assert axes.choose(axis, said, [value, "another"]) == value


def test_values_are_in_an_order_that_people_expect() -> None:
    def ordered(axis: str, values: list[Any]) -> list[Any]:
        return sorted(values, key=lambda value: axes.sort_key(axis, value))

    assert ordered("context_tokens", [None, 65536, 16384]) == [16384, 65536, None]
    assert ordered("runtime", ["cpu", "rocm", "vulkan"]) == ["vulkan", "rocm", "cpu"]
    assert ordered("quantisation", ["Q10", "Q4_K_M", "q4_0", "F16"]) == ["F16", "q4_0", "Q4_K_M", "Q10"]
    assert ordered("flash_attention", [True, None, False]) == [False, True, None]


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("decode_tps", 17.26, "17.26"),
        ("decode_tps", 3.1, "3.10"),
        ("decode_tps", 1234.567, "1234.57"),
        ("decode_tps", 0.0, "0"),
        ("ttft_s", 0.04, "0.04"),
        ("ttft_s", 0.01234, "0.0123"),
        ("ttft_s", 0.000999, "0.000999"),
        ("ttft_s", 36.67, "36.67"),
        ("joules_per_token", 0.0412, "0.0412"),
        ("tokens_per_joule", 24.27, "24.27"),
        ("completion_tokens", 6970, "6970"),
        ("completion_tokens", 7.5, "7.5"),
        ("memory_used_bytes", 20.8 * GIB, "20.8"),
    ],
)
def test_figures_as_people_read_them(metric: str, value: float, said: str) -> None:
    assert format_figure(axes.METRICS[metric], value) == said


def test_directions() -> None:
    better = {name: axes.METRICS[name].better for name in ("decode_tps", "prompt_tps", "ttft_s", "completion_tokens")}
    assert better == {"decode_tps": "higher", "prompt_tps": "higher", "ttft_s": "lower", "completion_tokens": ""}
