from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from agents.contract.job import Chat, Image
from agents.engines.server.chat import fresh

CHAT = Chat("hello", "Say hello.", 16)
IMAGE = Image("red.png", "image/png", 64, 64, "AAAA")


def test_a_line_stands_in_front_of_all_that_the_cell_brings() -> None:
    assert fresh(CHAT, 7).prompt == "[700000]\nSay hello."
    told = fresh(replace(CHAT, system="Be short."), 123_456)
    assert (told.system, told.prompt) == ("[654321]\nBe short.", "Say hello.")
    assert fresh(CHAT, 1, system="The model's own.").system == "[100000]\nThe model's own."
    seen = fresh(replace(CHAT, image=IMAGE), 2)
    assert (seen.system, seen.prompt) == ("[200000]", "Say hello."), "templates put the image before the text"


def test_prompts_differ_in_their_first_digit_and_never_in_their_length() -> None:
    prompts = [fresh(CHAT, number).prompt for number in (*range(30), 999_999, 1_000_000)]
    assert all(one[1] != other[1] for one, other in pairwise(prompts[:30]))
    assert {len(each) for each in prompts} == {len(prompts[0])}
