"""Texts, lists and mappings -> MatrixSpec, with each fault of pydantic's as a line for a person. PURE"""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.matrix.axes import ALIASES
from orchestrator.matrix.parsers import describe_raw
from orchestrator.matrix.problems import Problem, key_path, quoted, unknown_key
from orchestrator.matrix.sections import MatrixSpec, allowed_keys
from orchestrator.matrix.yaml_tree import Plain, Step, YamlNode

ROWS = ("zip", "include", "exclude")
_MOST_PASSES = 20


class Validated:
    """``spec`` is what is right in the file, ``raw`` the same as texts; ``broken`` the sections left out of both."""

    def __init__(self, tree: YamlNode, file: str) -> None:
        self.tree, self.file = tree, file
        self.problems: list[Problem] = []
        self.broken: set[tuple[Step, ...]] = set()
        self.written: dict[str, Plain] = self._sections()
        self.raw: dict[str, Plain] = self._sections()
        self.spec = self._validate()

    def _sections(self) -> dict[str, Plain]:
        """Top-level keys but for ``x-...`` (places for anchors) and sections with nothing in them."""
        sections: dict[str, Plain] = self.tree.plain()
        return {key: value for key, value in sections.items() if value is not None and not key.startswith("x-")}

    def _validate(self) -> MatrixSpec:
        # pydantic stops inside a section at its first fault: so what is wrong is left out, and the rest read again.
        for _ in range(_MOST_PASSES):
            try:
                return MatrixSpec.model_validate(self.raw)
            except ValidationError as error:
                for fault in error.errors(include_url=False, include_input=False):
                    self._take(fault)
        return MatrixSpec()

    def _take(self, fault: ErrorDetails) -> None:
        steps = self._steps(fault["loc"])
        kind = fault["type"]
        line = self.tree.line_of(steps)
        if kind == "extra_forbidden":
            parent = self.tree.at(steps[:-1])
            allowed = allowed_keys(steps[:-1], parent.entries if parent else None)
            line, message = self.tree.line_of_key(steps), unknown_key(str(steps[-1]), allowed)
        elif kind == "missing":
            message = f"key {quoted(str(steps[-1]))} is missing"
            steps = steps[:-1]
            line = self.tree.line_of_key(steps)
        elif kind == "value_error":
            message = str(fault["ctx"]["error"])
        else:
            wanted = "a list" if kind in ("list_type", "tuple_type") else "a mapping (key: value)"
            node = self.tree.at(steps)
            raw = node.plain() if node else None
            found = f"{quoted(raw)} stands here" if isinstance(raw, str) else describe_raw(raw)
            message = f"{wanted} belongs here, but {found}"
        self.problems.append(Problem(self.file, line, key_path(steps), message))
        self._leave_out(steps)

    def _steps(self, loc: tuple[Step, ...]) -> tuple[Step, ...]:
        """pydantic's location as steps in the file.

        It has steps that the file has not: tags such as ``<range>``, and index 0 where one value stands for a list.
        """
        steps: tuple[Step, ...] = ()
        for step in loc:
            alias = next((alias for alias, name in ALIASES.items() if name == step), step)
            if self.tree.at((*steps, step)) is not None:
                steps = (*steps, step)
            elif self.tree.at((*steps, alias)) is not None:
                steps = (*steps, alias)
            elif isinstance(step, str) and not step.startswith("<"):
                steps = (*steps, step)
        return steps

    def _leave_out(self, steps: tuple[Step, ...]) -> None:
        place = steps[:2]
        self.broken.add(place)
        if not place:
            self.raw.clear()
        elif len(place) == 1:
            self.raw.pop(str(place[0]), None)
        else:
            section, key = self.raw.get(str(place[0])), place[1]
            if isinstance(section, list) and isinstance(key, int):
                row = section[key]
                if len(steps) > 2 and isinstance(row, dict) and steps[2] in row:
                    del row[steps[2]]  # what else stands in the row is still checked
                else:
                    section[key] = {}
            elif isinstance(section, dict):
                section.pop(key, None)

    def is_broken(self, *steps: Step) -> bool:
        """Whether this place, or the section around it, was left out."""
        return steps in self.broken or steps[:1] in self.broken or () in self.broken
