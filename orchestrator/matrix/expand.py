"""A matrix as its cells, by index arithmetic: a cell is made when it is asked for. PURE"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import overload

from orchestrator.errors import UsageError
from orchestrator.matrix.axes import Value
from orchestrator.matrix.cells import Block, Cell, World
from orchestrator.matrix.matrix import Matrix

ASK_ABOVE_JOBS = 100_000
MOST_JOBS = 10_000_000
MOST_CELLS = 10_000_000
MOST_INCLUDED = 100_000


class Cells(Sequence[Cell]):
    """All cells of a matrix in the order of the file. ``duplicates`` and ``excluded`` count what was left out."""

    def __init__(self, blocks: tuple[Block, ...], duplicates: int, excluded: int) -> None:
        self.blocks = blocks
        self.duplicates = duplicates
        self.excluded = excluded
        self._ends = list(accumulate(len(block) for block in blocks))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Cell]:
        for block in self.blocks:
            yield from block

    @overload
    def __getitem__(self, index: int) -> Cell: ...
    @overload
    def __getitem__(self, index: slice) -> list[Cell]: ...
    def __getitem__(self, index: int | slice) -> Cell | list[Cell]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"cell {index} of {len(self)}")
        which = bisect_right(self._ends, at)
        return self.blocks[which].cell(at - (self._ends[which - 1] if which else 0))


def expand(matrix: Matrix) -> Cells:
    """The cells: those of the product without what is excluded, then those of each ``include`` entry."""
    world = World(matrix)
    blocks: list[Block] = []
    excluded = 0
    if matrix.product is not None:
        block = Block(matrix.product, world)
        excluded = _exclude(block, matrix.excludes)
        blocks.append(block)
    included = [Block(grid, world) for grid in matrix.includes]
    repeated = _drop_repeated(blocks, included)
    blocks += included
    return Cells(tuple(blocks), sum(block.duplicates for block in blocks) + repeated, excluded)


def _exclude(block: Block, excludes: tuple[Mapping[str, tuple[Value, ...]], ...]) -> int:
    if not excludes:
        return 0
    positions = bytearray(block.size)
    for wanted in excludes:
        chosen = block.matching(wanted)
        if chosen is not None:
            block.mark(chosen, positions)
    block.drop(positions)
    return positions.count(1)


def _drop_repeated(before: Sequence[Block], included: Sequence[Block]) -> int:
    """Drops cells of ``included`` that stand in ``before`` or in an earlier one of ``included``; their count."""
    seen: set[frozenset[tuple[str, Value]]] = set()
    repeated = 0
    for block in included:
        positions = bytearray(block.size)
        for at, cell in enumerate(block):
            values = cell.values
            key = frozenset(values.items())
            if key in seen or any(earlier.has(values) for earlier in before):
                positions[at] = 1
                repeated += 1
            elif len(included) > 1:
                seen.add(key)
        block.drop(positions)
    return repeated


def job_count(matrix: Matrix, cells: Cells, devices: int) -> int:
    """Jobs = cells x repeats x devices; a cell that names its device counts once, not for each device."""
    return matrix.measure.repeats * sum(
        len(block) * (1 if "device" in block.names else devices) for block in cells.blocks
    )


def check_size(matrix: Matrix, cells: Cells, devices: int, *, confirmed: bool = False) -> int:
    """``job_count``. Raises UsageError above MOST_JOBS, and above ASK_ABOVE_JOBS unless ``confirmed`` (``--yes``)."""
    jobs = job_count(matrix, cells, devices)
    sum_of = f"{len(cells):,} cells x {matrix.measure.repeats} repeats x {devices} devices = {jobs:,} jobs"
    if jobs > MOST_JOBS:
        raise UsageError(f"{matrix.path.name}: {sum_of}; at most {MOST_JOBS:,} can be run as one matrix")
    if jobs > ASK_ABOVE_JOBS and not confirmed:
        raise UsageError(f"{matrix.path.name}: {sum_of}; more than {ASK_ABOVE_JOBS:,} need --yes")
    return jobs
