"""``{from: 16K, to: 128K, factor: 2}`` and ``{from: 1, to: 8, step: 1}`` as the values they stand for. PURE"""

from __future__ import annotations

from fractions import Fraction

from orchestrator.matrix.axes import Axis, Value
from orchestrator.matrix.problems import BadValue, quoted
from orchestrator.matrix.units import parse_decimal

MOST_VALUES = 10_000


def range_values(axis: Axis, first: Value, last: Value, step: Value | None, factor: str | None) -> tuple[Value, ...]:
    """Both ends count, ``last`` where a step hits it. Whole-number axes round to the nearest whole number.

    Raises BadValue for a range that is empty, never ends, or has more than MOST_VALUES values.
    """
    low, high = Fraction(str(first)), Fraction(str(last))  # str: 0.1 is a tenth, not the nearest float
    if low < 0 or high < 0:
        raise BadValue("a range takes numbers from 0; write `all` in a list beside it")
    if (step is None) == (factor is None):
        raise BadValue("a range takes either step (added) or factor (multiplied)")
    if low > high:
        raise BadValue(f"from ({axis.show(first)}) is greater than to ({axis.show(last)}); ranges go upwards")
    growth = _growth(factor) if factor is not None else Fraction(1)
    added = Fraction(str(step)) if step is not None else Fraction(0)
    if growth == 1 and added <= 0:
        raise BadValue("step must be above 0, else the range never ends")
    if growth > 1 and low == 0:
        raise BadValue("from must be above 0 with a factor, else the range never ends")
    values: dict[Value, None] = {}
    count, at = 0, low
    while at <= high:
        count += 1
        if count > MOST_VALUES:
            raise BadValue(f"the range has more than {MOST_VALUES:,} values")
        values[float(at) if isinstance(first, float) else round(at)] = None
        # A factor such as 1.01 would grow the exact fraction by two digits a turn; 40 digits are enough here.
        at = Fraction(round(at * growth * 10**12), 10**12) + added
    return tuple(values)


def _growth(text: str) -> Fraction:
    factor = Fraction(str(parse_decimal(text, 0, 1e9)))
    if factor <= 1:
        raise BadValue(f"factor {quoted(text)} must be above 1, else the range never ends")
    return factor
