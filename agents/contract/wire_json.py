"""The contract as JSON: for the pipe to a job process, the spool on the device's disk and the ledger."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

T = TypeVar("T")


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def to_json(value: Any) -> bytes:
    """JSON of a contract dataclass; ``from_json(type(value), ...)`` gives an equal value back."""
    return _adapter(cast(Hashable, type(value))).dump_json(value)


def from_json(kind: type[T], data: bytes | str) -> T:
    """Raises pydantic.ValidationError where ``data`` is not a ``kind``."""
    result: T = _adapter(cast(Hashable, kind)).validate_json(data)
    return result
