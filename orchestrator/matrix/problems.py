"""What is wrong with a matrix file, in a person's words: one line a problem, all at once. PURE"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from agents.contract.web_address import is_web, shown
from orchestrator.errors import UsageError

SHOWN = 100
"""Problems printed; the rest is counted. A generated file can hold a million wrong values."""


class BadValue(ValueError):
    """A value that a parser refuses. ``str(error)`` says what stands there and what is allowed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """``line`` counts from 1; 0 where the whole file is meant. ``key`` is a path such as ``axes.context[2]``."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (where, self.key, self.message) if part)


class MatrixErrors(UsageError):
    """A matrix file that cannot be used; ``problems`` holds every one found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.line))
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"... and {len(self.problems) - SHOWN:,} more")
        super().__init__("\n".join(lines))


def quoted(text: str, most: int = 60) -> str:
    """``text`` in double quotes on one line, cut after ``most`` characters. An address comes without its login."""
    text = shown(text) if is_web(text) else text
    flat = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return f'"{flat[:most]}..."' if len(flat) > most else f'"{flat}"'


def nearest(word: str, words: Iterable[str]) -> str:
    """``; did you mean "context"?`` where a word is near enough, else an empty text."""
    by_fold = {candidate.casefold(): candidate for candidate in words}
    found = difflib.get_close_matches(word.casefold()[:100], by_fold, n=1, cutoff=0.6)
    return f"; did you mean {quoted(by_fold[found[0]])}?" if found else ""


def not_one_of(text: str, what: str, words: Iterable[str], also: str = "") -> BadValue:
    """``"vulcan" is not a runtime; did you mean "vulkan"? Allowed: vulkan, rocm, ...``."""
    words = tuple(words)
    near = nearest(text, words)
    allowed = ", ".join((*words, also) if also else words)
    return BadValue(f"{quoted(text)} is not {what}{near or '.'} Allowed: {allowed}")


def unknown_key(key: str, allowed: Iterable[str]) -> str:
    """``unknown key "contxt"; did you mean "context"? Allowed: ...``."""
    allowed = tuple(allowed)
    return f"unknown key {quoted(key)}{nearest(key, allowed) or '.'} Allowed: {', '.join(allowed) or 'nothing'}"


def key_path(steps: Iterable[str | int]) -> str:
    """``("zip", 0, "model")`` as ``zip[0].model``."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
