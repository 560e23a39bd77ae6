"""Byte counts in words, for people. PURE"""

from __future__ import annotations

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def in_words(size_bytes: int) -> str:
    """``19_434_000_000`` -> ``"18.1 GiB"``; under one KiB in bytes."""
    for unit_bytes, unit in _UNITS:
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes} bytes"
