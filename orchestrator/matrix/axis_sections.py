"""The sections of the file that are made of axes: one key for each entry of AXES, its value, list or range. PURE"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model, model_validator

from orchestrator.matrix.axes import ALIASES, AXES, Axis, Value
from orchestrator.matrix.parsers import TEXT, Parsed, ParsedList, Schema, Section
from orchestrator.matrix.problems import BadValue, quoted
from orchestrator.matrix.units import parse_decimal

MOST_VALUES = 10_000


class AxisSection(Section):
    @model_validator(mode="before")
    @classmethod
    def _rename_aliases(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        for alias, name in ALIASES.items():
            if alias in raw and name in raw:
                raise BadValue(f"{alias} and {name} are the same axis; one of them belongs here")
        return {ALIASES.get(key, key): value for key, value in raw.items()}

    def given(self, keys: Iterable[str]) -> dict[str, Any]:
        """The axes that were given, in the order of ``keys``: the section's keys as they stand in the file."""
        names = (ALIASES.get(key, key) for key in keys)
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


def range_keys() -> tuple[str, ...]:
    return ("from", "to", "step", "factor")


def _parsed_list(axis: Axis) -> ParsedList:
    one = Parsed(axis.parse, axis.schema)
    if not axis.ranged:
        return ParsedList(one)
    value = Annotated[Any, one]
    fields: dict[str, Any] = {"first": (value, Field(alias="from")), "last": (value, Field(alias="to"))}
    fields |= {"step": (value, None), "factor": (Annotated[str | None, TEXT], None)}
    model = create_model(f"{axis.name}_range", __base__=Section, **fields)

    def spread(found: Any) -> tuple[Value, ...]:
        return range_values(axis, found.first, found.last, found.step, found.factor)

    return ParsedList(one, model, spread, _range_schema(axis))


def _range_schema(axis: Axis) -> Schema:
    return {
        "type": "object",
        "properties": {
            "from": {**axis.schema, "description": "First value"},
            "to": {**axis.schema, "description": "Last value, if a step hits it"},
            "step": {**axis.schema, "description": "Added each time"},
            "factor": {"type": ["number", "string"], "exclusiveMinimum": 1, "description": "Multiplied each time"},
        },
        "required": ["from", "to"],
        "oneOf": [{"required": ["step"]}, {"required": ["factor"]}],
        "additionalProperties": False,
    }


def _section(name: str, reader: Callable[[Axis], Parsed | ParsedList]) -> Any:
    fields: dict[str, Any] = {
        axis.name: (Annotated[Any, reader(axis)], Field(default=None, description=axis.help)) for axis in AXES
    }
    return create_model(name, __base__=AxisSection, **fields)


if TYPE_CHECKING:  # a type checker cannot see the fields; ``given`` is all that is asked of them

    class DefaultsSpec(AxisSection): ...

    class AxesSpec(AxisSection): ...

else:
    DefaultsSpec = _section("DefaultsSpec", lambda axis: Parsed(axis.parse, axis.schema))
    AxesSpec = _section("AxesSpec", _parsed_list)


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
