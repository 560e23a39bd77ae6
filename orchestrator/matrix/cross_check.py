"""What pydantic cannot see: names, files, lengths and axes that must fit together across the file. PURE

Each check reports and goes on; what a section that is wrong already might have held is not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agents.contract.engines import facts_of
from agents.contract.job import ModelSource, Workload
from orchestrator.matrix.axes import ALIASES, BY_NAME, DEFAULT_ENGINE, Value
from orchestrator.matrix.cells import CANARY_VALUES
from orchestrator.matrix.expand import MOST_CELLS, MOST_INCLUDED, count_cells, matches_product
from orchestrator.matrix.matrix import Dimension, Grid, Matrix
from orchestrator.matrix.models import has_files, literal_source, named_source, needs_quantisation
from orchestrator.matrix.problems import Problem, key_path, nearest, not_one_of, quoted
from orchestrator.matrix.validate import ROWS, Validated
from orchestrator.matrix.workflows import WorkflowSpec, workflow
from orchestrator.matrix.workloads import (
    NOTATION,
    ChatSpec,
    FileProblem,
    FileReader,
    SyntheticSpec,
    chat,
    from_notation,
    synthetic,
)
from orchestrator.matrix.yaml_tree import Step

Values = dict[str, tuple[Value, ...]]
REQUIRED = ("model", "workload")


class CrossCheck:
    """The parts of a Matrix, and ``problems``; complete only where there are none."""

    def __init__(self, validated: Validated, open_file: FileReader) -> None:
        self._validated = validated
        self.problems: list[Problem] = []
        self._found: dict[str, dict[str, tuple[Step, ...]]] = {}
        spec, raw = validated.spec, validated.raw
        self.models: dict[str, ModelSource] = {name: named_source(model) for name, model in spec.models.items()}
        self.workloads: dict[str, Workload] = {}
        self._read_workloads(open_file)
        if spec.measure.canary and (built := from_notation(str(CANARY_VALUES["workload"]))) is not None:
            self.workloads[built.name] = built
        defaults: Values = {name: (value,) for name, value in spec.defaults.given(raw.get("defaults", {})).items()}
        self.defaults: Values = {"engine": (DEFAULT_ENGINE,), **self._known("defaults", defaults)}
        self.axes: Values = self._known("axes", spec.axes.given(raw.get("axes", {})))
        self.zips = self._rows("zip")
        self._check_zips()
        self.excludes = tuple(values for _, values in self._rows("exclude"))
        self.product = self._product()
        self.includes = tuple(self._include(row, values) for row, values in self._rows("include"))
        self._check_sizes()

    def report(self, steps: tuple[Step, ...], message: str, at_key: bool = False) -> None:
        tree = self._validated.tree
        line = tree.line_of_key(steps) if at_key else tree.line_of(steps)
        self.problems.append(Problem(self._validated.file, line, key_path(steps), message))

    # ---- workloads

    def _read_workloads(self, open_file: FileReader) -> None:
        for name, spec in self._validated.spec.workloads.items():
            steps = ("workloads", name)
            if from_notation(name) is not None:
                self.report(steps, f"{quoted(name)} is built in (llama-bench's notation); choose another name", True)
            try:
                built = _built(name, spec, open_file)
            except FileProblem as error:
                self.report((*steps, error.key), str(error))
                continue
            self.workloads[name] = built

    def _known(self, section: str, values: Values, row: int | None = None) -> Values:
        """``values`` with each workload under its own name: ``pp2K`` is ``pp2048``."""
        names: dict[str, Any] = self._named("workloads")
        found = []
        for at, text in enumerate(str(value) for value in values.get("workload", ())):
            built = None if text in names else from_notation(text)
            if built is not None:
                self.workloads[built.name] = built
            elif text not in names:
                steps: tuple[Step, ...] = (section, "workload") if row is None else (section, row, "workload")
                if self._validated.tree.at((*steps, at)) is not None:
                    steps = (*steps, at)
                self.report(steps, str(not_one_of(text, "a workload", names, also=NOTATION)))
            found.append(built.name if built is not None else text)
        return {name: tuple(found) if name == "workload" else given for name, given in values.items()}

    def _named(self, section: str) -> dict[str, Any]:
        named = self._validated.written.get(section)
        return named if isinstance(named, dict) else {}

    # ---- rows: zip, include, exclude

    def _rows(self, section: str) -> list[tuple[int, Values]]:
        """The rows that are right, each with its number."""
        raws = self._validated.raw.get(section, [])
        rows = []
        for row, (spec, raw) in enumerate(zip(getattr(self._validated.spec, section), raws, strict=True)):
            if self._validated.is_broken(section, row):
                # The row makes no cells any more, but its workloads may be misspelt too.
                self._known(section, spec.given(raw), row)  # only for what it reports
                continue
            if not raw:
                self.report((section, row), "the entry is empty; at least one axis belongs here")
                continue
            rows.append((row, self._known(section, spec.given(raw), row)))
        return rows

    def _check_zips(self) -> None:
        places: dict[str, tuple[Step, ...]] = {name: ("axes", name) for name in self.axes}
        for row, values in self.zips:
            lengths = {name: len(given) for name, given in values.items()}
            if len(set(lengths.values())) > 1:
                shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
                self.report(("zip", row), f"lists that go together must have one length, but {shown}")
            for name in values:
                if name in places:
                    also = key_path(places[name])
                    message = f"axis {quoted(name)} stands in {also} too. Allowed: one of the two places"
                    self.report(("zip", row, name), message, at_key=True)
                places.setdefault(name, ("zip", row, name))

    # ---- grids

    def _product(self) -> Grid | None:
        # A file with nothing but include has no product. Where a broken section was left out nobody knows, and an error
        # about a model that is missing would only repeat the one that is reported already.
        if not self.axes and not self.zips and (self._validated.written.get("include") or self._unsure()):
            return None
        given = set(self.axes) | {name for _, values in self.zips for name in values}
        dims = [_constants(self.defaults, given)]
        dims += [Dimension((name,), tuple((value,) for value in values)) for name, values in self.axes.items()]
        dims += [Dimension(tuple(values), tuple(zip(*values.values(), strict=False))) for _, values in self.zips]
        grid = Grid(tuple(dim for dim in dims if dim.names))
        self._check_grid(grid, ())
        return grid

    def _include(self, row: int, values: Values) -> Grid:
        dims = [_constants(self.defaults, values)]
        dims += [Dimension((name,), tuple((value,) for value in given)) for name, given in values.items()]
        grid = Grid(tuple(dim for dim in dims if dim.names))
        self._check_grid(grid, ("include", row))
        return grid

    def _unsure(self) -> bool:
        """Whether a section that decides what the product holds was left out."""
        sections = ("axes", "zip", "defaults")
        return any(not place or place[0] in sections for place in self._validated.broken)

    def _check_grid(self, grid: Grid, steps: tuple[Step, ...]) -> None:
        """``steps``: the entry of include, or () for the product."""
        places = ("defaults", "axes", "zip") if not steps else ("defaults", key_path(steps))
        for name in REQUIRED:
            if name not in grid.names and not (steps and self._unsure()) and not (not steps and self._may_hold(name)):
                message = f"no {name} is given. Allowed in: {', '.join(places)}"
                self.report(steps or ("axes",), message, at_key=True)
        self._check_models(grid)

    def _may_hold(self, name: str) -> bool:
        """Whether a part that was left out holds this axis, or may hold it."""
        names = {name, *(alias for alias, axis in ALIASES.items() if axis == name)}
        for place in self._validated.broken:
            section = self._validated.written.get(str(place[0])) if place else None
            if len(place) < 2 and (not place or place[0] in ("defaults", "axes", "zip")):
                return True
            if place[0] in ("defaults", "axes") and place[1] in names:
                return True
            if place[0] == "zip" and isinstance(section, list) and isinstance(place[1], int):
                row = section[place[1]]
                if not isinstance(row, dict) or names & set(row):
                    return True
        return False

    def _check_models(self, grid: Grid) -> None:
        engines = [str(engine) for engine in grid.values_of("engine")]
        needs_files = engines if not any(facts_of(engine).has_catalogue for engine in engines) else []
        named = self._named("models")
        for model in (str(value) for value in grid.values_of("model")):
            if model in named and model not in self.models:
                continue  # its section is wrong, and says so
            source = self.models.get(model) or literal_source(model)
            if needs_files and not has_files(source) and not self._may_hold("engine"):
                near = nearest(model, named)
                allowed = (*named, "tiny:ARCH, hf:OWNER/REPO, an address or a path of a .gguf file")
                self.report(
                    self._where("model", model),
                    f"{quoted(model)} has no files, and the {engines[0]} engine knows no names of its own"
                    f"{near or '.'} Allowed: {', '.join(allowed)}",
                )
            if needs_quantisation(source) and "quantisation" not in grid.names and not self._may_hold("quantisation"):
                self.report(
                    self._where("model", model),
                    f"{quoted(model)} is named with {{quantisation}}, but no quantisation is given",
                )

    def _where(self, axis: str, value: Value) -> tuple[Step, ...]:
        """Where ``value`` stands in the file; the first place of several."""
        if axis not in self._found:
            found = self._found[axis] = {}
            for steps in self._places(axis):
                node = self._validated.tree.at(steps)
                if node is not None and node.scalar is not None:
                    found.setdefault(node.scalar, steps)
                for at, item in enumerate(node.items or () if node is not None else ()):
                    found.setdefault(str(item.scalar), (*steps, at))
        return self._found[axis].get(str(value), ())

    def _places(self, axis: str) -> Iterator[tuple[Step, ...]]:
        yield ("axes", axis)
        for section in ROWS:
            rows = self._validated.written.get(section)
            for row in range(len(rows) if isinstance(rows, list) else 0):
                yield (section, row, axis)
        yield ("defaults", axis)

    def _check_sizes(self) -> None:
        if self.product is not None and self.product.count() > MOST_CELLS:
            self.report(("axes",), f"the product has {self.product.count():,} cells; at most {MOST_CELLS:,}", True)
        included = sum(grid.count() for grid in self.includes)
        if included > MOST_INCLUDED:
            message = f"the entries make {included:,} cells; at most {MOST_INCLUDED:,}: axes are for that"
            self.report(("include",), message, True)


def _built(name: str, spec: ChatSpec | SyntheticSpec | WorkflowSpec, open_file: FileReader) -> Workload:
    if isinstance(spec, ChatSpec):
        return chat(name, spec, open_file)
    return workflow(name, spec, open_file) if isinstance(spec, WorkflowSpec) else synthetic(name, spec)


def _constants(defaults: Values, given: Iterable[str]) -> Dimension:
    """The defaults that nothing overrides, as a dimension with one option."""
    constant = {name: values[0] for name, values in defaults.items() if name not in given}
    return Dimension(tuple(constant), (tuple(constant.values()),))


def exclude_problems(matrix: Matrix, validated: Validated) -> list[Problem]:
    """An entry of ``exclude`` that matches nothing is an error, and so is a list that leaves no cell."""
    problems = []
    for row, wanted in enumerate(matrix.excludes):
        if not matches_product(matrix, wanted):
            steps: tuple[Step, ...] = ("exclude", row)
            line = validated.tree.line_of(steps)
            problems.append(Problem(validated.file, line, key_path(steps), _why_nothing(wanted, matrix.product)))
    if matrix.excludes and not problems and not count_cells(matrix).cells:
        line = validated.tree.line_of_key(("exclude",))
        problems.append(Problem(validated.file, line, "exclude", "every cell of the product is excluded"))
    return problems


def _why_nothing(wanted: Mapping[str, tuple[Value, ...]], grid: Grid | None) -> str:
    if grid is None:
        return "nothing to exclude from: there are no axes and no zip (cells of include are never excluded)"
    for name, values in wanted.items():
        if name not in grid.names:
            return f"matches no cell: no cell of the product has {quoted(name)}"
        there = grid.values_of(name)
        if not set(there) & set(values):
            axis = BY_NAME[name]
            shown = ", ".join(axis.show(value) for value in there[:20])
            asked = ", ".join(axis.show(value) for value in values[:5])
            return f"matches no cell: {name} is never {asked}. Allowed: {shown}"
    return "matches no cell: these values never stand together"
