from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.measure import EngineTimings, Flag, Trial
from agents.contract.report import Cause, Failed, Measured, Outcome, Refused
from orchestrator.cli.texts import (
    first_line,
    format_cell,
    format_count,
    format_duration,
    format_figures,
    format_outcome,
)
from tests.unit.cli.notices import JOBS, ended
from tests.unit.results.made_attempts import LOADED, image_trial, trial


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "?"),
        (0.0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61.0, "1 min 01 s"),
        (3599.6, "1 h 00 min"),
        (3661.0, "1 h 01 min"),
        (360_000.0, "100 h 00 min"),
    ],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert format_duration(seconds) == words


@pytest.mark.parametrize(("count", "words"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs"), (1_200, "1,200 jobs")])
def test_counts(count: int, words: str) -> None:
    assert format_count(count, "job") == words


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("  \n ", ""),
        ("one", "one"),
        ("\none\ntwo", "one"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
    ],
)
def test_the_first_line(text: str, line: str) -> None:
    assert first_line(text) == line


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (trial(), "10.00 tok/s, first token 0.500 s, prompt 64.0 tok/s"),
        (
            trial(flags=(Flag.FEWER_TOKENS, Flag.PROMPT_CACHED)),
            "10.00 tok/s, first token 0.500 s, prompt 64.0 tok/s, flagged: fewer_tokens, prompt_cached",
        ),
        (replace(trial(tokens=1), engine=EngineTimings()), "first token 0.500 s"),
        (replace(trial(tokens=0), engine=EngineTimings()), "no figures"),
        (replace(trial(), engine=EngineTimings()), "10.00 tok/s, first token 0.500 s"),
        (image_trial(), "1.50 s/image, 2.00 iterations/s"),
    ],
)
def test_the_figures_of_a_trial(measured: Trial, words: str) -> None:
    assert format_figures(ended(Measured(LOADED, (measured,))).figures) == words


def test_no_figures() -> None:
    assert format_figures(None) == "no figures"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Measured(LOADED, (trial(0, warmup=True), trial(1))), "10.00 tok/s, first token 0.500 s, prompt 64.0 tok/s"),
        (Measured(LOADED, ()), "no figures"),
        (Refused(Cause.UNSUPPORTED, "no vulkan"), "refused: not supported: no vulkan"),
        (Failed(Cause.RAM, "failed to\nallocate"), "FAILED: does not load: RAM: failed to"),
    ],
)
def test_an_outcome_in_words(outcome: Outcome, words: str) -> None:
    assert format_outcome(ended(outcome)) == words


def test_a_cell_in_words_counts_its_repeats_from_one() -> None:
    assert format_cell(replace(JOBS[1], repeat=2)) == "ctx 2K #3"
