"""What is called broken, repeated or empty, and what is not: real kinds of answers."""

from __future__ import annotations

import random

import pytest

from agents.contract.measure import Flag
from agents.job.sanity import broken_share, compressed_share, distinct_share, output_flags

PROSE = (
    "The laptop has one memory, of which the firmware gives a part to the graphics processor. A larger part lets more "
    "layers of a model stay where they are read fastest, and leaves less to the system. With half a gigabyte carved "
    "out, weights travel with every token, and the copy engine never rests; with thirty-two, it hardly ever works. "
    "Which of the two is better depends on the length of the context, on the driver, and on what else wants the RAM."
)
RULES = "\n".join(
    f".card-{number} {{ display: flex; padding: {number}px; margin: 0 {number * 2}px; color: #{number * 7919:06x}; }}"
    for number in range(1, 60)
)
PAGE = "<table>" + "".join(f"<tr><td>Row {number}</td><td>{number**2}</td></tr>\n" for number in range(80)) + "</table>"
CHINESE = "".join(chr(0x4E00 + place * place % 4000) for place in range(600))


@pytest.mark.parametrize("text", [PROSE, RULES, PAGE, CHINESE, "42", "x = [0] * 100\n", "Yes. " * 5])
def test_answers_that_are_none_of_it(text: str) -> None:
    assert output_flags(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "the " * 200,
        PROSE + " I am not sure about that." * 60,
        "=" * 400,
        CHINESE[:100] + "的是了" * 200,
        '{"a": 1}, ' * 120,
    ],
)
def test_loops(text: str) -> None:
    assert output_flags(text) == (Flag.OUTPUT_REPEATED,)


def test_noise_is_broken() -> None:
    bytes_of_noise = random.Random(1).randbytes(600)
    assert output_flags(bytes_of_noise.decode("utf-8", "replace")) == (Flag.OUTPUT_BROKEN,)
    assert output_flags("\x00\x01\x02ok\x7f") == (Flag.OUTPUT_BROKEN,)


def test_a_text_that_was_cut_inside_a_character_is_not_broken() -> None:
    assert output_flags("naïve café �") == ()
    assert output_flags("�") == ()


@pytest.mark.parametrize("text", ["", " \n"])
def test_nothing(text: str) -> None:
    assert output_flags(text) == (Flag.OUTPUT_EMPTY,)


def test_the_measures_are_shares() -> None:
    assert 0.4 < compressed_share(PROSE) < 0.7
    assert compressed_share("a" * 10_000) < 0.01
    assert distinct_share(PROSE) == 1.0
    assert distinct_share("one two " * 100) < 0.03
    assert broken_share("ab��cd��") == pytest.approx(2 / 8)
