"""Units: what a person may write, what it means, and that the way back gives the same value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.units import format_bytes, format_tokens, format_watts
from orchestrator.matrix import units
from orchestrator.matrix.problems import BadValue


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_tokens, "4096", 4096),
        (units.parse_tokens, "16K", 16 * 1024),
        (units.parse_tokens, "16k", 16 * 1024),
        (units.parse_tokens, "198K", 202_752),
        (units.parse_tokens, "1M", 1024**2),
        (units.parse_tokens, "1.5K", 1536),
        (units.parse_bytes, "0", 0),
        (units.parse_bytes, "512M", 512 * 1024**2),
        (units.parse_bytes, "512MiB", 512 * 1024**2),
        (units.parse_bytes, "32G", 32 * 1024**3),
        (units.parse_bytes, "32 GiB", 32 * 1024**3),
        (units.parse_bytes, "0.5GiB", 512 * 1024**2),
        (units.parse_bytes, "16GB", 16 * 10**9),
        (units.parse_bytes, "100B", 100),
        (units.parse_watts, "80W", 80.0),
        (units.parse_watts, "7.5 W", 7.5),
        (units.parse_watts, "80", 80.0),
        (units.parse_seconds, "500ms", 0.5),
        (units.parse_seconds, "90s", 90.0),
        (units.parse_seconds, "10m", 600.0),
        (units.parse_seconds, "10min", 600.0),
        (units.parse_seconds, "1h30m", 5400.0),
        (units.parse_switch, "on", True),
        (units.parse_switch, "No", False),
        (units.parse_switch, "YES", True),
    ],
)
def test_reads(parse: Callable[[str], Any], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (
            units.parse_tokens,
            ["", "0", "-1", "nan", "inf", "1e5", "16X", "16,384", "1.3", "0x10", "٣", "9" * 30, "2000000M"],
        ),
        (units.parse_bytes, ["", "512", "-1GiB", "nan", "infGiB", "32Gb s", "1.1B", "1e9", "32GIG", "9999999T"]),
        (units.parse_watts, ["", "0", "0W", "-80W", "80%", "nan", "inf", "80mW", "1e3W", "200000W"]),
        (units.parse_seconds, ["", "90", "1:30", "-5s", "0s", "nan", "5d", "m", "30m1h", "100000h"]),
        (units.parse_switch, ["", "1", "0", "maybe", "y", "n"]),
        (units.parse_decimal, ["", "nan", "inf", "-0.1", "1e3", ".", "1."]),
    ],
)
def test_refuses_and_says_what_is_allowed(parse: Callable[[str], Any], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(BadValue, match="Allowed: ") as caught:
            parse(text)
        assert f'"{text[:10]}' in str(caught.value) or not text.isprintable() or not text.isascii()


@given(st.integers(1, 2**40))
def test_tokens_come_back(tokens: int) -> None:
    assert units.parse_tokens(format_tokens(tokens)) == tokens


@given(
    st.integers(0, 10**15) | st.integers(0, 64).map(lambda n: n * 1024**3) | st.integers(0, 64).map(lambda n: n * 10**9)
)
def test_bytes_come_back(size_bytes: int) -> None:
    assert units.parse_bytes(format_bytes(size_bytes)) == size_bytes


@given(st.integers(1, 10**8).map(lambda milliwatts: milliwatts / 1000))
def test_watts_come_back(watts: float) -> None:
    assert units.parse_watts(format_watts(watts)) == watts


@given(st.text())
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    for parse in (units.parse_tokens, units.parse_bytes, units.parse_watts, units.parse_seconds, units.parse_switch):
        try:
            parse(text)
        except BadValue as error:
            assert "\n" not in str(error)
