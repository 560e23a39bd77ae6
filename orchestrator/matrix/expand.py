"""A matrix as its cells, and how many they are before one is made. PURE

All cells are made at once: 1,000,000 take about 2 s and 300 MiB. So whoever expands a matrix asks ``check_size``
first: the count is arithmetic on the lengths of the axes, and beyond ASK_ABOVE_JOBS a person must want it (``--yes``).

Excludes are sets of bits. Each option of a dimension has a bit for every entry of ``exclude`` that does not contradict
it; a combination is excluded if one bit stands in all of its options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.errors import UsageError
from orchestrator.matrix.axes import Value
from orchestrator.matrix.cells import Cell, Definitions
from orchestrator.matrix.matrix import Dimension, Grid, Matrix

ASK_ABOVE_JOBS = 100_000
MOST_JOBS = 10_000_000
MOST_CELLS = 10_000_000
MOST_INCLUDED = 100_000

Choices = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class CellCounts:
    """``cells`` that a matrix has, ``for_one_device`` of them; combinations that are left out count as the others."""

    cells: int
    for_one_device: int
    excluded: int
    duplicates: int


def expand(matrix: Matrix) -> tuple[Cell, ...]:
    """The cells: those of the product without what is excluded, then those of each ``include`` entry."""
    definitions = Definitions(matrix)
    cells: list[Cell] = []
    if matrix.product is not None:
        axes = matrix.product.names
        cells += [Cell(axes, choices, definitions) for choices in _product_choices(matrix, matrix.product)]
    for grid, included in _included(matrix):
        cells += [Cell(grid.names, choices, definitions) for choices in included]
    return tuple(cells)


def count_cells(matrix: Matrix) -> CellCounts:
    """``expand`` in numbers; of the product no combination is made."""
    counts = [(grid, len(choices)) for grid, choices in _included(matrix)]
    excluded = 0
    if matrix.product is not None:
        excluded = _excluded_count(matrix, matrix.product)
        counts.append((matrix.product, matrix.product.count_unique() - excluded))
    cells = sum(count for _, count in counts)
    for_one_device = sum(count for grid, count in counts if "device" in grid.names)
    duplicates = sum(grid.count() for grid in matrix.grids) - excluded - cells
    return CellCounts(cells, for_one_device, excluded, duplicates)


def matches_product(matrix: Matrix, wanted: Mapping[str, tuple[Value, ...]]) -> bool:
    """Whether an entry of ``exclude`` takes at least one cell away."""
    grid = matrix.product
    if grid is None or not set(wanted) <= set(grid.names):
        return False
    sets = _as_sets(wanted)
    return all(any(_agrees(dim, option, sets) for option in dim.options) for dim in grid.dims)


def job_count(matrix: Matrix, counts: CellCounts, devices: int) -> int:
    """Jobs = cells x repeats x devices; a cell that names its device counts once, not for each device."""
    return matrix.measure.repeats * (counts.for_one_device + (counts.cells - counts.for_one_device) * devices)


def check_size(matrix: Matrix, devices: int, *, confirmed: bool = False) -> int:
    """``job_count``. Raises UsageError above MOST_JOBS, and above ASK_ABOVE_JOBS unless ``confirmed`` (``--yes``)."""
    counts = count_cells(matrix)
    jobs = job_count(matrix, counts, devices)
    sum_of = f"{counts.cells:,} cells x {matrix.measure.repeats} repeats x {devices} devices = {jobs:,} jobs"
    if jobs > MOST_JOBS:
        raise UsageError(f"{matrix.path.name}: {sum_of}; at most {MOST_JOBS:,} can be run as one matrix")
    if jobs > ASK_ABOVE_JOBS and not confirmed:
        raise UsageError(f"{matrix.path.name}: {sum_of}; more than {ASK_ABOVE_JOBS:,} need --yes")
    return jobs


def _product_choices(matrix: Matrix, grid: Grid) -> Iterator[Choices]:
    """The combinations that are not excluded, each once; the last dimension changes fastest."""
    *slower, fastest = _options_with_bits(matrix, grid)
    # Every entry of exclude agrees with a combination of nothing; each option that is added can only clear bits.
    rows: list[tuple[Choices, int]] = [((), (1 << len(matrix.excludes)) - 1)]
    for options in slower:
        rows = [(choices + option, bits & own) for choices, bits in rows for option, own in options]
    # The last dimension makes nearly all of the tuples: they go straight into cells, without a list between.
    return (choices + option for choices, bits in rows for option, own in fastest if not bits & own)


def _excluded_count(matrix: Matrix, grid: Grid) -> int:
    """As ``_product_choices``, but combinations with equal bits are counted together."""
    counts = Counter({(1 << len(matrix.excludes)) - 1: 1})
    for options in _options_with_bits(matrix, grid):
        alike = Counter(own for _, own in options)
        following: Counter[int] = Counter()
        for bits, count in counts.items():
            for own, options_count in alike.items():
                following[bits & own] += count * options_count
        counts = following
    return sum(count for bits, count in counts.items() if bits)


def _options_with_bits(matrix: Matrix, grid: Grid) -> list[list[tuple[Choices, int]]]:
    """For each dimension its options, each once, with a bit for each entry of ``exclude`` that agrees with it."""
    entries = [(1 << at, _as_sets(each)) for at, each in enumerate(matrix.excludes) if set(each) <= set(grid.names)]
    found = []
    for dim in grid.dims:
        # An entry says nothing about a dimension without its axes: it agrees with all options there.
        always = sum(bit for bit, wanted in entries if not wanted.keys() & set(dim.names))
        here = [(bit, wanted) for bit, wanted in entries if wanted.keys() & set(dim.names)]
        found.append(
            [
                (option, always + sum(bit for bit, wanted in here if _agrees(dim, option, wanted)))
                for option in dict.fromkeys(dim.options)
            ]
        )
    return found


def _as_sets(wanted: Mapping[str, tuple[Value, ...]]) -> dict[str, frozenset[Value]]:
    return {name: frozenset(values) for name, values in wanted.items()}


def _agrees(dim: Dimension, option: Choices, wanted: Mapping[str, frozenset[Value]]) -> bool:
    return all(value in wanted[name] for name, value in zip(dim.names, option, strict=True) if name in wanted)


def _included(matrix: Matrix) -> list[tuple[Grid, list[Choices]]]:
    """For each ``include`` entry the combinations that stand neither in the product nor in an entry before it."""
    product = matrix.product
    options = {} if product is None else {dim.names: set(dim.options) for dim in product.dims}
    seen: set[frozenset[tuple[str, Value]]] = set()

    def is_new(values: dict[str, Value]) -> bool:
        key = frozenset(values.items())
        if key in seen:
            return False
        seen.add(key)
        # A cell with other axes than the product's is none of the product's; nor is one with another value; and one
        # that was excluded there may be included here.
        if product is None or set(values) != set(product.names):
            return True
        if any(tuple(values[name] for name in names) not in having for names, having in options.items()):
            return True
        return any(all(values.get(name) in among for name, among in wanted.items()) for wanted in matrix.excludes)

    found = []
    for grid in matrix.includes:
        rows: list[Choices] = [()]
        for dim in grid.dims:
            rows = [row + option for row in rows for option in dict.fromkeys(dim.options)]
        found.append((grid, [row for row in rows if is_new(dict(zip(grid.names, row, strict=True)))]))
    return found
