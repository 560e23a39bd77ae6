"""YAML text as a tree of nodes that know their lines, with every scalar kept as the person wrote it. PURE

YAML 1.1 turns ``on``, ``no`` and ``1:30`` into other things; here a scalar is its text and the key that it
stands under decides what it means. The tree is put together from PyYAML's events, not by its own composer:
that one recurses in C and expands nothing, so that depth, aliases and keys given twice could not be checked.

Limits: each node counts as many nodes as it would hold with its aliases written out, so a file of nested
aliases ("billion laughs") is refused where it passes MOST_NODES, before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from orchestrator.matrix.problems import Problem, key_path, quoted

MOST_NODES = 1_000_000
MOST_DEPTH = 32
MERGE = "<<"
_PLAIN_TAGS = {"!"} | {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}

Step = str | int
Plain = Any  # None | str | list[Plain] | dict[str, Plain]


@dataclass(slots=True)
class YamlNode:
    """``scalar`` is its text, None where nothing stands; a mapping's key is kept with the line it stands on."""

    line: int
    scalar: str | None = None
    items: list[YamlNode] | None = None
    entries: dict[str, tuple[int, YamlNode]] | None = None
    size: int = 1
    depth: int = 1

    def plain(self) -> Plain:
        """dicts, lists and texts, without the lines."""
        if self.entries is not None:
            return {key: node.plain() for key, (_, node) in self.entries.items()}
        if self.items is not None:
            return [node.plain() for node in self.items]
        return self.scalar

    def at(self, steps: tuple[Step, ...]) -> YamlNode | None:
        """The node at the end of ``steps``; None where the file has none."""
        node = self
        for step in steps:
            if isinstance(step, int) and node.items is not None and step < len(node.items):
                node = node.items[step]
            elif isinstance(step, str) and node.entries is not None and step in node.entries:
                node = node.entries[step][1]
            else:
                return None
        return node

    def line_of(self, steps: tuple[Step, ...]) -> int:
        """Line of the value at the end of ``steps``, or of the last one on the way that is there."""
        for end in range(len(steps), 0, -1):
            node = self.at(steps[:end])
            if node is not None:
                return node.line
        return self.line

    def line_of_key(self, steps: tuple[Step, ...]) -> int:
        """Line of the key that ``steps`` ends with; where that is not a key, as ``line_of``."""
        parent = self.at(steps[:-1]) if steps else None
        if parent is not None and parent.entries is not None and steps[-1] in parent.entries:
            return parent.entries[str(steps[-1])][0]
        return self.line_of(steps)


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    node: YamlNode
    anchor: str | None
    steps: tuple[Step, ...]
    key: tuple[str, int] | None = None  # a mapping's key that waits for its value
    merged: dict[str, tuple[int, YamlNode]] = field(default_factory=dict)


class _MalformedYaml(Exception):
    """Reading ends here: what follows cannot be understood, or would be too much."""

    def __init__(self, line: int, steps: tuple[Step, ...], message: str) -> None:
        super().__init__(message)
        self.line, self.steps = line, steps


def read_tree(text: str, file: str) -> tuple[YamlNode | None, list[Problem]]:
    """The tree of the file's one document; None where the text cannot be read as YAML, or holds nothing."""
    composer = _Composer(file)
    try:
        for event in _events(text):
            composer.take(event)
    except _MalformedYaml as error:
        return None, [*composer.problems, Problem(file, error.line, key_path(error.steps), str(error))]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        words = ", ".join(part for part in (error.context, error.problem) if part)
        return None, [*composer.problems, Problem(file, line, "", f"not YAML: {words}")]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 0
        code = ord(error.character) if isinstance(error.character, str) else int(error.character)
        return None, [Problem(file, line, "", f"not YAML: character U+{code:04X} is not allowed")]
    except yaml.YAMLError as error:
        return None, [Problem(file, 0, "", f"not YAML: {error}")]
    return composer.root, composer.problems


def _events(text: str) -> Iterator[yaml.Event]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    events: Iterator[yaml.Event] = yaml.parse(text, Loader=loader)
    return events


class _Composer:
    def __init__(self, file: str) -> None:
        self.file = file
        self.root: YamlNode | None = None
        self.problems: list[Problem] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, YamlNode] = {}
        self._total = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _MalformedYaml(line, (), "a second document begins here; a matrix file holds one")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event, line)
        elif isinstance(event, yaml.ScalarEvent):
            self._check_tag(event.tag, line)
            written = event.value or not event.implicit[0]
            node = YamlNode(line, scalar=event.value if written else None)
            if event.anchor:
                self._anchors[event.anchor] = node
            self._add(node, line)
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            self._begin(event, line)
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            self._end()

    def _begin(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent, line: int) -> None:
        self._check_tag(event.tag, line)
        steps = self._steps()
        if len(self._open) >= MOST_DEPTH:
            raise _MalformedYaml(line, (), f"more than {MOST_DEPTH} levels of lists and mappings")
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if self._open and self._open[-1].node.entries is not None and self._open[-1].key is None:
            raise _MalformedYaml(line, self._open[-1].steps, "a key must be a word, not a list or a mapping")
        node = YamlNode(line, entries={}) if is_mapping else YamlNode(line, items=[])
        self._open.append(_Open(node, event.anchor, steps))
        if event.anchor:
            self._anchors.pop(event.anchor, None)  # usable once it is complete

    def _end(self) -> None:
        done = self._open.pop()
        for key, entry in done.merged.items():
            assert done.node.entries is not None
            done.node.entries.setdefault(key, entry)
        if done.anchor:
            self._anchors[done.anchor] = done.node
        self._add(done.node, done.node.line, counted=True)

    def _alias(self, event: yaml.AliasEvent, line: int) -> None:
        node = self._anchors.get(event.anchor or "")
        if node is None:
            if any(part.anchor == event.anchor for part in self._open):
                raise _MalformedYaml(line, self._steps(), f"alias *{event.anchor} stands inside its own anchor")
            near = ", ".join(f"*{name}" for name in list(self._anchors)[:20]) or "none is defined above"
            raise _MalformedYaml(line, self._steps(), f"alias *{event.anchor} has no anchor above it. Allowed: {near}")
        self._add(node, line)

    def _add(self, node: YamlNode, line: int, counted: bool = False) -> None:
        """Puts a complete node where it belongs. ``counted``: its parts are in the total already."""
        self._total += 1 if counted else node.size
        if self._total > MOST_NODES:
            raise _MalformedYaml(
                line, self._steps(), f"too much: with its aliases written out the file has over {MOST_NODES:,} values"
            )
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if parent.node.items is not None:
            parent.node.items.append(node)
        elif parent.key is None:
            self._key(parent, node, line)
            return
        else:
            self._value(parent, node, line)
        parent.node.size += node.size
        parent.node.depth = max(parent.node.depth, node.depth + 1)
        if len(self._open) + node.depth > MOST_DEPTH:
            raise _MalformedYaml(line, self._steps(), f"more than {MOST_DEPTH} levels of lists and mappings")

    def _key(self, parent: _Open, node: YamlNode, line: int) -> None:
        if node.scalar is None:
            raise _MalformedYaml(line, parent.steps, "a key must be a word, not a list or a mapping")
        parent.key = (node.scalar, line)
        assert parent.node.entries is not None
        if node.scalar in parent.node.entries and node.scalar != MERGE:
            first = parent.node.entries[node.scalar][0]
            key = key_path((*parent.steps, node.scalar))
            message = f"key {quoted(node.scalar)} stands here a second time; the first is on line {first}"
            self.problems.append(Problem(self.file, line, key, message))

    def _value(self, parent: _Open, node: YamlNode, line: int) -> None:
        assert parent.key is not None and parent.node.entries is not None
        (key, key_line), parent.key = parent.key, None
        if key != MERGE:
            parent.node.entries[key] = (key_line, node)
            return
        for source in node.items if node.items is not None else [node]:
            if source.entries is None:
                raise _MalformedYaml(
                    line, parent.steps, "<< takes a mapping (an alias such as *base) or a list of mappings"
                )
            for name, entry in source.entries.items():
                parent.merged.setdefault(name, entry)

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag is not None and tag not in _PLAIN_TAGS:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            self.problems.append(
                Problem(
                    self.file, line, key_path(self._steps()), f"tag {quoted(shown)} is not allowed; plain data only"
                )
            )

    def _steps(self) -> tuple[Step, ...]:
        if not self._open:
            return ()
        top = self._open[-1]
        if top.node.items is not None:
            return (*top.steps, len(top.node.items))
        return (*top.steps, top.key[0]) if top.key else top.steps
