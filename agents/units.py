"""Sizes as people read them. PURE"""

from __future__ import annotations

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def format_size(size_bytes: float, decimals: int = 1) -> str:
    """``32 GiB``, ``18.1 GiB``, ``512 MiB``, ``640 bytes``: at most ``decimals``, no zeros at the end."""
    for unit_bytes, unit in _UNITS:
        if abs(size_bytes) >= unit_bytes:
            return f"{_trimmed(size_bytes / unit_bytes, decimals)} {unit}"
    return f"{_trimmed(size_bytes, decimals)} bytes"


def _trimmed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
