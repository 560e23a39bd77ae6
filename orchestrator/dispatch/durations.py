"""How long a job usually takes, from how long jobs took. PURE

Older versions wrote differences of a device's wall clock into the ledger: where that clock was set while a job ran,
they are hours too many, or less than none.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median, median_low

ABSURD = 10.0
"""A job of a cell that took so many times as long as the others did is no guide to the next one."""
SLACK_S = 60.0


def is_possible(seconds: float, away_s: float | None) -> bool:
    """Whether an attempt can have taken so long: no longer than it was away.

    ``away_s``: from its sending to its end on the coordinator's wall clock; None: not known, less than 0: it was set.
    """
    return seconds > 0 and (away_s is None or away_s < 0 or seconds <= away_s + SLACK_S)


def usual_seconds(taken: Iterable[float]) -> float:
    """The median, which one absurd job does not move; also not where there are two. Raises ValueError for none."""
    taken = list(taken)
    lower = median_low(taken)
    return median([seconds for seconds in taken if seconds <= ABSURD * lower])
