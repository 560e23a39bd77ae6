"""Values of a matrix file: quantities (``agents.units``), plain numbers, switches. Each parser raises BadValue. PURE"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from agents import units
from agents.units import NUMBER
from orchestrator.matrix.problems import BadValue, not_one_of, quoted

T = TypeVar("T", int, float)

SWITCH_PATTERN = "^(?:[Oo][Nn]|[Oo][Ff][Ff]|[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[Yy][Ee][Ss]|[Nn][Oo])$"
WHOLE_PATTERN = "^[0-9]{1,18}$"
DECIMAL_PATTERN = rf"^{NUMBER}$"

_SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def _naming(parse: Callable[[str], T], text: str) -> T:
    """A refusal names the text, without a login that an address in it may hold."""
    try:
        return parse(text)
    except ValueError as error:
        raise BadValue(f"{quoted(text)} {error}") from error


def parse_tokens(text: str, least: int = 1) -> int:
    return _naming(lambda value: units.parse_tokens(value, least), text)


def parse_bytes(text: str) -> int:
    return _naming(units.parse_bytes, text)


def parse_watts(text: str) -> float:
    return _naming(units.parse_watts, text)


def parse_seconds(text: str) -> float:
    return _naming(units.parse_seconds, text)


def parse_whole(text: str, least: int = 0, most: int = 10**18) -> int:
    """A whole number from ``least`` to ``most``."""
    if not re.fullmatch(WHOLE_PATTERN, text) or not least <= int(text) <= most:
        allowed = f"a whole number from {least} to {most:,}" if most < 10**18 else f"a whole number from {least}"
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: {allowed}")
    return int(text)


def parse_decimal(text: str, least: float = 0.0, most: float = 1e12) -> float:
    """A plain decimal number such as ``0.95``: no exponent, no nan, no infinity."""
    if not re.fullmatch(NUMBER, text) or not least <= float(text) <= most:
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: a number from {least:g} to {most:g}")
    return float(text)


def parse_switch(text: str) -> bool:
    if text.casefold() not in _SWITCH:
        raise not_one_of(text, "a switch", _SWITCH)
    return _SWITCH[text.casefold()]


def format_switch(value: bool) -> str:
    return "on" if value else "off"
