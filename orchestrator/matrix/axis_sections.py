"""The sections of the file that are made of axes: one key for each entry of AXES. PURE"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from orchestrator.matrix.axes import ALIASES, AXES, Axis, Value
from orchestrator.matrix.parsers import TEXT, Reads, Schema, Several
from orchestrator.matrix.problems import BadValue
from orchestrator.matrix.ranges import range_values


class Door(BaseModel):
    """What every section has in common: a key that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AxisSection(Door):
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


def _several(axis: Axis) -> Several:
    one = Reads(axis.parse, axis.schema)
    if not axis.ranged:
        return Several(one)
    value = Annotated[Any, one]
    fields: dict[str, Any] = {"first": (value, Field(alias="from")), "last": (value, Field(alias="to"))}
    fields |= {"step": (value, None), "factor": (Annotated[str | None, TEXT], None)}
    model = create_model(f"{axis.name}_range", __base__=Door, **fields)

    def spread(found: Any) -> tuple[Value, ...]:
        return range_values(axis, found.first, found.last, found.step, found.factor)

    return Several(one, model, spread, _range_schema(axis))


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


def _section(name: str, reader: Callable[[Axis], Reads | Several]) -> Any:
    fields: dict[str, Any] = {
        axis.name: (Annotated[Any, reader(axis)], Field(default=None, description=axis.help)) for axis in AXES
    }
    return create_model(name, __base__=AxisSection, **fields)


if TYPE_CHECKING:  # a type checker cannot see the fields; ``given`` is all that is asked of them

    class DefaultsSpec(AxisSection): ...

    class AxesSpec(AxisSection): ...

else:
    DefaultsSpec = _section("DefaultsSpec", lambda axis: Reads(axis.parse, axis.schema))
    AxesSpec = _section("AxesSpec", _several)
