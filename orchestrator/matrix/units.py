"""Units as a person writes them, and back. PURE

=========  ============================================  ==========================================
quantity   written                                       meaning
=========  ============================================  ==========================================
tokens     ``4096`` ``16K`` ``1M``                       K = 1,024, M = 1,048,576
bytes      ``512MiB`` ``32GiB`` ``512M`` ``32G``         powers of 1,024; M and G as in BIOS menus
bytes      ``16GB`` ``500MB``                            powers of 1,000
watts      ``80W`` ``7.5W`` ``80``
seconds    ``500ms`` ``90s`` ``10m`` ``1h`` ``1h30m``
switch     ``on off true false yes no``
=========  ============================================  ==========================================

Numbers are exact (fractions, not floats), finite and not negative. Each parser raises BadValue; each
``format_*`` gives the shortest text that its parser reads back as the same value.
"""

from __future__ import annotations

import re
from fractions import Fraction

from orchestrator.matrix.problems import BadValue, not_one_of, quoted

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"

TOKENS_PATTERN = rf"^{_NUMBER} ?[KkMm]?$"
BYTES_PATTERN = rf"^(?:0|{_NUMBER} ?(?:[KkMmGgTt](?:[Ii]?[Bb])?|[Bb]))$"
WATTS_PATTERN = rf"^{_NUMBER} ?[Ww]?$"
SECONDS_PATTERN = rf"^(?:{_NUMBER}h)?(?:{_NUMBER}(?:m|min))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?$"
SWITCH_PATTERN = "^(?:[Oo][Nn]|[Oo][Ff][Ff]|[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[Yy][Ee][Ss]|[Nn][Oo])$"
WHOLE_PATTERN = "^[0-9]{1,18}$"
DECIMAL_PATTERN = rf"^{_NUMBER}$"

TOKENS_ALLOWED = "a whole number of tokens such as 4096, 16K (K = 1,024) or 1M"
BYTES_ALLOWED = "a size with its unit such as 512MiB, 32GiB, 512M, 32G (powers of 1,024) or 16GB (power of 1,000)"
WATTS_ALLOWED = "watts above 0 such as 80W or 7.5W"
SECONDS_ALLOWED = "a time above 0 with its unit such as 500ms, 90s, 10m, 1h or 1h30m"
SWITCH_ALLOWED = "on or off (true, false, yes, no mean the same)"

_TOKEN_UNITS = {"": 1, "k": 1024, "m": 1024**2}
_BYTE_UNITS = {"b": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
MOST_TOKENS = 2**40
MOST_BYTES = 2**60


def _split(text: str, pattern: str, allowed: str) -> tuple[Fraction, str]:
    """``"16 GiB"`` -> ``(16, "gib")``."""
    if not re.fullmatch(pattern, text):
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: {allowed}")
    found = re.match(_NUMBER, text)
    assert found is not None  # every pattern begins with a number
    return Fraction(found.group()), text[found.end() :].strip().lower()


def _whole(number: Fraction, text: str, allowed: str, most: int) -> int:
    if number.denominator != 1 or number > most:
        why = "is not a whole number" if number <= most else "is too much"
        raise BadValue(f"{quoted(text)} {why}. Allowed: {allowed}")
    return int(number)


def parse_whole(text: str, least: int = 0, most: int = 10**18) -> int:
    """A whole number from ``least`` to ``most``."""
    if not re.fullmatch(WHOLE_PATTERN, text) or not least <= int(text) <= most:
        allowed = f"a whole number from {least} to {most:,}" if most < 10**18 else f"a whole number from {least}"
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: {allowed}")
    return int(text)


def parse_decimal(text: str, least: float = 0.0, most: float = 1e12) -> float:
    """A plain decimal number such as ``0.95``: no exponent, no nan, no infinity."""
    if not re.fullmatch(_NUMBER, text) or not least <= float(text) <= most:
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: a number from {least:g} to {most:g}")
    return float(text)


def parse_tokens(text: str, least: int = 1) -> int:
    number, unit = _split(text, TOKENS_PATTERN, TOKENS_ALLOWED)
    tokens = _whole(number * _TOKEN_UNITS[unit], text, TOKENS_ALLOWED, MOST_TOKENS)
    if tokens < least:
        raise BadValue(f"{quoted(text)} is too little. Allowed: {TOKENS_ALLOWED}, at least {least}")
    return tokens


def parse_bytes(text: str) -> int:
    """Bytes. A bare number is refused but for 0: 512 could be MiB or bytes."""
    number, unit = _split(text, BYTES_PATTERN, BYTES_ALLOWED)
    return _whole(number * _BYTE_UNITS[unit or "b"], text, BYTES_ALLOWED, MOST_BYTES)


def parse_watts(text: str) -> float:
    watts, _ = _split(text, WATTS_PATTERN, WATTS_ALLOWED)
    if not 0 < watts <= 100_000:
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: {WATTS_ALLOWED}")
    return float(watts)


def parse_seconds(text: str) -> float:
    """Seconds above 0, at most 365 days. A bare number is refused: it could be minutes."""
    if not text or not re.fullmatch(SECONDS_PATTERN, text):
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: {SECONDS_ALLOWED}")
    scale = {"h": Fraction(3600), "m": Fraction(60), "min": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
    seconds = sum(Fraction(number) * scale[unit] for number, unit in re.findall(rf"({_NUMBER})([a-z]+)", text))
    if not 0 < seconds <= 365 * 86400:
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: {SECONDS_ALLOWED}")
    return float(seconds)


def parse_switch(text: str) -> bool:
    if text.casefold() not in _SWITCH:
        raise not_one_of(text, "a switch", _SWITCH)
    return _SWITCH[text.casefold()]


def format_tokens(tokens: int) -> str:
    for unit, size in (("M", 1024**2), ("K", 1024)):
        if tokens and tokens % size == 0:
            return f"{tokens // size}{unit}"
    return str(tokens)


def format_bytes(size_bytes: int) -> str:
    """The largest unit that leaves a whole number; GiB and the like before GB and the like."""
    if size_bytes == 0:
        return "0"
    for base, suffix in ((1024, "iB"), (1000, "B")):
        for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
            if size_bytes % base**power == 0:
                return f"{size_bytes // base**power}{letter}{suffix}"
    return f"{size_bytes}B"


def format_watts(watts: float) -> str:
    return f"{watts:.9f}".rstrip("0").rstrip(".") + "W"


def format_seconds(seconds: float) -> str:
    """``5400.0`` as ``1h30m``; below a millisecond the digits of a second."""
    milliseconds = round(seconds * 1000)
    if milliseconds / 1000 != seconds:
        return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, thousandths = divmod(rest, 1000)
    parts = ((hours, "h"), (minutes, "m"), (whole, "s"), (thousandths, "ms"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def format_switch(value: bool) -> str:
    return "on" if value else "off"
