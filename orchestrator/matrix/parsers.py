"""What every section and every key of the file is built from: a text read by its parser, one value or a list. PURE

``Parsed`` and ``ParsedList`` go into ``Annotated``: pydantic takes the check from them, and the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from agents.units import BYTES_PATTERN, SECONDS_PATTERN, TOKENS_PATTERN
from orchestrator.matrix import units
from orchestrator.matrix.problems import BadValue, quoted

Schema = dict[str, Any]
_LONGEST_NAME = 1024


class Section(BaseModel):
    """A section of the file: a key that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def describe_raw(raw: Any) -> str:
    if raw is None:
        return "nothing stands here"
    return "a list stands here" if isinstance(raw, list) else "a mapping stands here"


@dataclass(frozen=True, eq=False)
class Parsed:
    """One value from its text. ``schema`` is what an editor checks."""

    parse: Callable[[str], Any]
    schema: Schema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        return dict(self.schema)

    def read(self, raw: Any) -> Any:
        if isinstance(raw, str):
            return self.parse(raw)
        raise BadValue(f"one value belongs here, but {describe_raw(raw)}")


@dataclass(frozen=True, eq=False)
class ParsedList:
    """A tuple of values from one value, or from a list; with ``spread``, from ranges too.

    A range is a mapping: ``range_model`` checks it, ``spread`` makes values of it, ``range_schema`` describes it.
    """

    one: Parsed
    range_model: type[BaseModel] | None = None
    spread: Callable[[Any], tuple[Any, ...]] = tuple
    range_schema: Schema | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        one: CoreSchema = core_schema.no_info_plain_validator_function(lambda raw: (self.one.read(raw),))
        item: CoreSchema = one
        if self.range_model is not None:
            a_range = handler.generate_schema(self.range_model)
            spread = core_schema.no_info_after_validator_function(self.spread, a_range)
            choices: dict[Any, CoreSchema] = {"<one>": one, "<range>": spread}
            item = core_schema.tagged_union_schema(choices, lambda raw: "<range>" if isinstance(raw, dict) else "<one>")
        items = core_schema.no_info_before_validator_function(
            lambda raw: raw if isinstance(raw, list) else [raw], core_schema.list_schema(item)
        )
        return core_schema.no_info_after_validator_function(_joined, items)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        shapes = [self.one.schema, *([self.range_schema] if self.range_schema else [])]
        item = {"anyOf": shapes} if len(shapes) > 1 else shapes[0]
        return {"anyOf": [*shapes, {"type": "array", "items": item, "minItems": 1}]}


def _joined(items: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    if not items:
        raise BadValue("the list is empty; at least one value belongs here")
    return tuple(value for item in items for value in item)


def parse_name(text: str) -> str:
    """Any text on one line, without blanks around it."""
    if not text.strip() or len(text) > _LONGEST_NAME or not text.isprintable() or text != text.strip():
        raise BadValue(
            f"{quoted(text)} is not a name. Allowed: printable text on one line, at most {_LONGEST_NAME} characters"
        )
    return text


def parse_text(text: str) -> str:
    if not text.strip():
        raise BadValue("the text is empty")
    return text


def whole(least: int, most: int) -> Parsed:
    schema = {"type": ["integer", "string"], "minimum": least, "maximum": most, "pattern": units.WHOLE_PATTERN}
    return Parsed(lambda text: units.parse_whole(text, least, most), schema)


def decimal(least: float, most: float) -> Parsed:
    schema = {"type": ["number", "string"], "minimum": least, "maximum": most, "pattern": units.DECIMAL_PATTERN}
    return Parsed(lambda text: units.parse_decimal(text, least, most), schema)


def tokens(least: int) -> Parsed:
    schema = {"type": ["integer", "string"], "minimum": least, "pattern": TOKENS_PATTERN}
    return Parsed(lambda text: units.parse_tokens(text, least), schema)


ANY_TEXT: Schema = {"type": "string"}
SOME_TEXT: Schema = {"type": "string", "minLength": 1}
# A name may look like a number to an editor (`7`); here it stays text.
WORD: Schema = {"type": ["string", "number"], "minLength": 1}

TEXT = Parsed(str, {"type": ["string", "number", "boolean"]})
NAME = Parsed(parse_name, WORD)
MaybeName = Annotated[str | None, NAME]
PROMPT = Parsed(parse_text, SOME_TEXT)
SWITCH = Parsed(units.parse_switch, {"type": ["boolean", "string"], "pattern": units.SWITCH_PATTERN})
SIZE = Parsed(units.parse_bytes, {"type": ["integer", "string"], "pattern": BYTES_PATTERN, "maximum": 0})
SECONDS = Parsed(units.parse_seconds, {"type": "string", "pattern": SECONDS_PATTERN, "minLength": 2})
