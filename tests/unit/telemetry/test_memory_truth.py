"""Baseline, peak and what a model took, on the kinds of machine there are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.measure import Reading
from agents.contract.report import Loaded
from agents.telemetry.memory_truth import MemoryTruth, baseline_of, memory_truth
from agents.telemetry.series import Series, Window
from agents.telemetry.sources.base import Quantity
from tests.fakes.telemetry import readings

GIB = 2**30
VRAM, GTT, RAM, SWAP = Quantity.VRAM_USED, Quantity.GTT_USED, Quantity.RAM_USED, Quantity.SWAP_USED
LOADED = Loaded(1.0, False, "b1")


def truth(found: dict[tuple[str, Quantity], tuple[float, ...]], loaded: Loaded | None = LOADED) -> MemoryTruth:
    """The first figure of each, in GiB, is from before the load; negative: not read."""
    before: list[Reading] = []
    during: list[Reading] = []
    for (source, quantity), (first, *others) in found.items():
        before += readings(source, quantity, [first * GIB]) if first >= 0 else []
        during += readings(source, quantity, [each * GIB for each in others], from_s=1.0)
    return memory_truth(Series([*before, *during]), Window(0.5, 9.0), baseline_of(before), loaded)


def added_gib(found: MemoryTruth) -> dict[str, float | None]:
    return {
        quantity.removesuffix("_used"): None if pool.added_bytes is None else round(pool.added_bytes / GIB, 2)
        for quantity, pool in found.pools.items()
    }


@pytest.mark.parametrize(
    ("found", "added"),
    [
        # the carve-out holds it
        (
            {("amdgpu:card0", VRAM): (0.9, 12, 18.9, 18.8), ("amdgpu:card0", GTT): (0.1, 0.2)},
            {"vram": 18.0, "gtt": 0.1},
        ),
        # 512 MiB of VRAM: it goes to GTT
        ({("amdgpu:card0", VRAM): (0.3, 0.5), ("amdgpu:card0", GTT): (0.1, 18.1)}, {"vram": 0.2, "gtt": 18.0}),
        # two cards of one kind
        ({("nvml:0", VRAM): (1, 10), ("nvml:1", VRAM): (0, 8)}, {"vram": 17.0}),
        # the display's GPU beside the one that computes
        ({("amdgpu:card0", VRAM): (0.4, 0.4), ("nvml:0", VRAM): (0.2, 6.2)}, {"vram": 6.0}),
        ({("memory", RAM): (4, 9, 7), ("memory", SWAP): (0, 0.5)}, {"ram": 5.0, "swap": 0.5}),
        ({("memory", RAM): (4, 3.5)}, {"ram": 0.0}),  # less than before at all times but the first
        ({("memory", RAM): (-1, 9)}, {"ram": None}),
        ({}, {}),
    ],
)
def test_where_the_bytes_went(
    found: dict[tuple[str, Quantity], tuple[float, ...]], added: dict[str, float | None]
) -> None:
    assert added_gib(truth(found)) == added


def test_the_peak_of_two_cards_with_one_unknown_baseline_tells_no_difference() -> None:
    (pool,) = truth({("nvml:0", VRAM): (1, 10), ("nvml:1", VRAM): (-1, 8)}).pools.values()
    assert (pool.source, pool.baseline_bytes, pool.peak_bytes, pool.added_bytes) == ("nvml", None, 18 * GIB, None)


@pytest.mark.parametrize(
    ("found", "loaded", "words"),
    [
        (
            {("nvml:0", VRAM): (1, 10), ("windows", VRAM): (1, 7)},
            LOADED,
            ("vram: nvml:0 9 GiB, windows 6 GiB",),
        ),
        ({("nvml:0", VRAM): (1, 10), ("windows", VRAM): (1, 9.5)}, LOADED, ()),
        (
            {("nvml:0", VRAM): (1, 10)},
            replace(LOADED, engine_vram_bytes=12 * GIB),
            ("vram: nvml:0 9 GiB, the engine 12 GiB",),
        ),
        (
            {("memory", RAM): (4, 5)},
            replace(LOADED, weights_bytes=3 * GIB, kv_bytes=GIB),
            ("in all: measured 1 GiB, the engine's buffers 4 GiB; weights mapped from a file count as cache",),
        ),
        (
            {("memory", RAM): (4, 5), ("nvml:0", VRAM): (0, 5)},
            replace(LOADED, weights_bytes=3 * GIB, kv_bytes=GIB, compute_bytes=GIB // 2),
            ("in all: measured 6 GiB, the engine's buffers 4.5 GiB",),
        ),
        ({("memory", RAM): (4, 8)}, replace(LOADED, engine_model_bytes=4 * GIB, weights_bytes=9 * GIB), ()),
        ({("memory", RAM): (-1, 8)}, replace(LOADED, weights_bytes=9 * GIB), ()),
        ({("memory", RAM): (4, 4.1)}, replace(LOADED, weights_bytes=GIB // 4), ()),  # too little to argue about
        ({("memory", RAM): (4, 8)}, None, ()),
    ],
)
def test_who_disagrees(
    found: dict[tuple[str, Quantity], tuple[float, ...]], loaded: Loaded | None, words: tuple[str, ...]
) -> None:
    assert truth(found, loaded).disagreements == words


def test_the_engines_own_memory_stands_beside_it() -> None:
    assert truth({("engine", Quantity.ENGINE_RAM): (-1, 2, 3, 1)}).engine_ram_peak_bytes == 3 * GIB
    assert truth({}).engine_ram_peak_bytes is None
