"""How much memory a loaded model really takes: in use at the peak less in use before the load, pool by pool. PURE

Sources of one kind (``nvml:0``, ``nvml:1``) are added up, for they are different devices. Sources of different kinds
may be different devices or two views of one: the one in which most was added is believed, and those that differ
from it are listed. What the engine reports of its own buffers stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agents.contract.measure import Reading
from agents.contract.report import Loaded
from agents.telemetry.series import Series, Window, kind_of
from agents.telemetry.sources.base import Quantity
from agents.units import format_size

DISAGREE = 0.10
DISAGREE_FLOOR_BYTES = 256 * 2**20  # what a desktop may take or give back meanwhile

Baseline = dict[tuple[str, str], float]
"""(source, quantity) -> bytes in use just before the load."""

IN_USE = (Quantity.VRAM_USED, Quantity.GTT_USED, Quantity.RAM_USED, Quantity.SWAP_USED)


@dataclass(frozen=True, slots=True)
class Pool:
    """One kind of memory by one kind of source. ``baseline_bytes`` is None where nothing was read before the load."""

    source: str
    baseline_bytes: int | None
    peak_bytes: int

    @property
    def added_bytes(self) -> int | None:
        """None also where less is in use than before: others gave back more than the model took."""
        if self.baseline_bytes is None or self.peak_bytes < self.baseline_bytes:
            return None
        return self.peak_bytes - self.baseline_bytes


@dataclass(frozen=True, slots=True)
class MemoryTruth:
    """By quantity; a pool that no source reads is not there."""

    pools: dict[Quantity, Pool]
    engine_ram_peak_bytes: int | None
    disagreements: tuple[str, ...]


def baseline_of(readings: Iterable[Reading]) -> Baseline:
    """The last values of the memory in use."""
    return {
        (each.source, each.quantity): each.value
        for each in readings
        if each.quantity in IN_USE and each.value is not None
    }


def memory_truth(series: Series, window: Window, baseline: Baseline, loaded: Loaded | None) -> MemoryTruth:
    """``window`` is from the beginning of the load (or of the job, where it reused one) to the job's end."""
    pools: dict[Quantity, Pool] = {}
    disagreements: list[str] = []
    for quantity in IN_USE:
        views = _views(series, quantity, window, baseline)
        if not views:
            continue
        best = max(views, key=lambda view: view.added_bytes or 0)  # the first of equal ones
        pools[quantity] = best
        disagreements += [
            f"{quantity.removesuffix('_used')}: {best.source} {_gib(best.added_bytes)}, {view.source}"
            f" {_gib(view.added_bytes)}"
            for view in views
            if _differ(best.added_bytes, view.added_bytes)
        ]
    return MemoryTruth(pools, _engine_ram(series, window), (*disagreements, *_against_engine(pools, loaded)))


def _views(series: Series, quantity: Quantity, window: Window, baseline: Baseline) -> list[Pool]:
    kinds: dict[str, list[str]] = {}
    for source in series.sources(quantity):
        kinds.setdefault(kind_of(source), []).append(source)
    views = []
    for kind, sources in kinds.items():
        peaks = [series.most(source, quantity, window) for source in sources]
        befores = [baseline.get((source, quantity)) for source in sources]
        known_peaks = [peak for peak in peaks if peak is not None]
        known_before = [before for before in befores if before is not None]
        if known_peaks:
            complete = len(known_before) == len(sources)
            name = sources[0] if len(sources) == 1 else kind
            views.append(Pool(name, int(sum(known_before)) if complete else None, int(sum(known_peaks))))
    return views


def _engine_ram(series: Series, window: Window) -> int | None:
    """Of readings inside the window alone: the one before it may be of the engine that was there before."""
    sources = series.sources(Quantity.ENGINE_RAM)
    known = [value for source in sources for _, value in series.inside(source, Quantity.ENGINE_RAM, window)]
    return int(max(known)) if known else None


def _against_engine(pools: dict[Quantity, Pool], loaded: Loaded | None) -> list[str]:
    """The engine's own figures, where it has some and they are not what was added."""
    if loaded is None:
        return []
    vram = pools.get(Quantity.VRAM_USED)
    disagreements = []
    if (
        vram is not None
        and loaded.engine_vram_bytes is not None
        and _differ(vram.added_bytes, loaded.engine_vram_bytes)
    ):
        disagreements.append(
            f"vram: {vram.source} {_gib(vram.added_bytes)}, the engine {_gib(loaded.engine_vram_bytes)}"
        )
    added = [pool.added_bytes for pool in pools.values()]
    buffers = loaded.engine_model_bytes
    if buffers is None and loaded.weights_bytes is not None:
        buffers = loaded.weights_bytes + (loaded.kv_bytes or 0) + (loaded.compute_bytes or 0)
    known = [each for each in added if each is not None]
    if buffers is not None and known and len(known) == len(added) and _differ(sum(known), buffers):
        mapped = "; weights mapped from a file count as cache" if sum(known) < buffers else ""
        disagreements.append(f"in all: measured {_gib(sum(known))}, the engine's buffers {_gib(buffers)}{mapped}")
    return disagreements


def _differ(one: int | None, other: int | None) -> bool:
    if one is None or other is None:
        return False
    return abs(one - other) > max(DISAGREE * max(abs(one), abs(other)), DISAGREE_FLOOR_BYTES)


def _gib(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else format_size(size_bytes, 2)
