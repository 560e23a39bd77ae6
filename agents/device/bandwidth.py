"""How fast a machine's memory can be read, and so the most tokens a second that it can decode. PURE

A token needs every active weight once: tokens/s <= bandwidth / bytes of the active weights. Peak figures are the
makers': width of the bus times its transfer rate. What the owner says in device.yaml counts more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

GB = 10**9

_PEAKS: tuple[tuple[str, float], ...] = (  # GB/s; the first that matches
    (r"Ryzen AI MAX", 256.0),
    (r"Ryzen AI (9|7) (HX )?3[67]\d", 120.0),
    (r"Core\(?T?M?\)? Ultra \d 2\d\dV", 136.5),
    (r"\bGB10\b", 273.0),
    (r"RTX 4090 Laptop", 576.0),
    (r"RTX 4090\b", 1008.0),
    (r"RTX 4060 Laptop", 256.0),
    (r"Apple M\d Ultra", 819.0),
    (r"Apple M4 Max", 546.0),
    (r"Apple M4 Pro", 273.0),
    (r"Apple M4\b", 120.0),
    (r"Apple M[123] Max", 400.0),
    (r"Apple M3 Pro", 150.0),
    (r"Apple M[12] Pro", 200.0),
    (r"Apple M[23]\b", 100.0),
    (r"Apple M1\b", 68.0),
)


def peak_bandwidth(names: Iterable[str]) -> float | None:
    """Bytes a second of the fastest memory among those of the processors named; None if one of them is not known.

    An upper bound: where a model lies in two memories, no token comes faster than from the faster one.
    """
    found = []
    for name in names:
        peak = next((gb_s for pattern, gb_s in _PEAKS if re.search(pattern, name, re.IGNORECASE)), None)
        if peak is None:
            return None
        found.append(peak * GB)
    return max(found, default=None)


def above_bound(decode_tps: float | None, active_bytes: int | None, bandwidth_bytes_s: float | None) -> bool:
    """Whether a decode rate passes what the memory could feed; false where one of the three is not known."""
    if not decode_tps or not active_bytes or not bandwidth_bytes_s:
        return False
    return decode_tps * active_bytes > bandwidth_bytes_s
