"""Quantities as people write them, and back. PURE

=========  ============================================  ==========================================
quantity   written                                       meaning
=========  ============================================  ==========================================
tokens     ``4096`` ``16K`` ``1M``                       K = 1,024, M = 1,048,576
bytes      ``512MiB`` ``32GiB`` ``512M`` ``32G``         powers of 1,024; M and G as in BIOS menus
bytes      ``16GB`` ``500MB``                            powers of 1,000
watts      ``80W`` ``7.5W`` ``80``
seconds    ``500ms`` ``90s`` ``10m`` ``1h`` ``1h30m``
=========  ============================================  ==========================================


Numbers are exact (fractions, not floats), finite and not negative. Each parser raises ValueError, whose text goes on
behind the value: ``is not allowed here. Allowed: ...``. ``format_tokens``, ``format_bytes`` and ``format_watts`` give
the shortest text that its parser reads back as the same value; ``format_size`` rounds, for people.
"""

from __future__ import annotations

import re
from fractions import Fraction

NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
TOKENS_PATTERN = rf"^{NUMBER} ?[KkMm]?$"
BYTES_PATTERN = rf"^(?:0|{NUMBER} ?(?:[KkMmGgTt](?:[Ii]?[Bb])?|[Bb]))$"
WATTS_PATTERN = rf"^{NUMBER} ?[Ww]?$"
SECONDS_PATTERN = rf"^(?:{NUMBER}h)?(?:{NUMBER}(?:m|min))?(?:{NUMBER}s)?(?:{NUMBER}ms)?$"
_BANDWIDTH_PATTERN = rf"^{NUMBER} *[Gg][Bb]/[Ss]$"

_TOKENS_ALLOWED = "a whole number of tokens such as 4096, 16K (K = 1,024) or 1M"
_BYTES_ALLOWED = "a size with its unit such as 512MiB, 32GiB, 512M, 32G (powers of 1,024) or 16GB (power of 1,000)"
_WATTS_ALLOWED = "watts above 0 such as 80W or 7.5W"
_SECONDS_ALLOWED = "a time above 0 with its unit such as 500ms, 90s, 10m, 1h or 1h30m"
_BANDWIDTH_ALLOWED = "gigabytes a second above 0, such as 256GB/s"

_TOKEN_UNITS = {"": 1, "k": 1024, "m": 1024**2}
_BYTE_UNITS = {"b": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_MOST_TOKENS = 2**40
_MOST_BYTES = 2**60
_SHOWN_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def _refusal(allowed: str, why: str = "is not allowed here") -> ValueError:
    return ValueError(f"{why}. Allowed: {allowed}")


def _split(text: str, pattern: str, allowed: str) -> tuple[Fraction, str]:
    """``"16 GiB"`` -> ``(16, "gib")``."""
    if not re.fullmatch(pattern, text):
        raise _refusal(allowed)
    found = re.match(NUMBER, text)
    assert found is not None  # every pattern begins with a number
    return Fraction(found.group()), text[found.end() :].strip().lower()


def _whole(number: Fraction, allowed: str, most: int) -> int:
    if number > most:
        raise _refusal(allowed, "is too much")
    if number.denominator != 1:
        raise _refusal(allowed, "is not a whole number")
    return int(number)


def parse_tokens(text: str, least: int = 1) -> int:
    number, unit = _split(text, TOKENS_PATTERN, _TOKENS_ALLOWED)
    tokens = _whole(number * _TOKEN_UNITS[unit], _TOKENS_ALLOWED, _MOST_TOKENS)
    if tokens < least:
        raise _refusal(f"{_TOKENS_ALLOWED}, at least {least}", "is too little")
    return tokens


def parse_bytes(text: str) -> int:
    """Bytes. A bare number is refused but for 0: 512 could be MiB or bytes."""
    number, unit = _split(text, BYTES_PATTERN, _BYTES_ALLOWED)
    return _whole(number * _BYTE_UNITS[unit or "b"], _BYTES_ALLOWED, _MOST_BYTES)


def parse_watts(text: str) -> float:
    watts, _ = _split(text, WATTS_PATTERN, _WATTS_ALLOWED)
    if not 0 < watts <= 100_000:
        raise _refusal(_WATTS_ALLOWED)
    return float(watts)


def parse_bandwidth(text: str) -> float:
    """``256GB/s`` as bytes a second, as makers count: 10^9."""
    number, _ = _split(text, _BANDWIDTH_PATTERN, _BANDWIDTH_ALLOWED)
    if number <= 0:
        raise _refusal(_BANDWIDTH_ALLOWED)
    return float(number * 10**9)


def parse_seconds(text: str) -> float:
    """Seconds above 0, at most 365 days. A bare number is refused: it could be minutes."""
    if not text or not re.fullmatch(SECONDS_PATTERN, text):
        raise _refusal(_SECONDS_ALLOWED)
    scale = {"h": Fraction(3600), "m": Fraction(60), "min": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
    seconds = sum(Fraction(number) * scale[unit] for number, unit in re.findall(rf"({NUMBER})([a-z]+)", text))
    if not 0 < seconds <= 365 * 86400:
        raise _refusal(_SECONDS_ALLOWED)
    return float(seconds)


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


def format_size(size_bytes: float, decimals: int = 1) -> str:
    """``32 GiB``, ``18.1 GiB``, ``512 MiB``, ``640 bytes``: at most ``decimals``, no zeros at the end."""
    for unit_bytes, unit in _SHOWN_UNITS:
        if abs(size_bytes) >= unit_bytes:
            return f"{_trimmed(size_bytes / unit_bytes, decimals)} {unit}"
    return f"{_trimmed(size_bytes, decimals)} bytes"


def _trimmed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
