"""Field metadata: the unit and the definition that a field carries into the result tables."""

from __future__ import annotations

import dataclasses
from typing import Any


def column(definition: str, *, unit: str = "", default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that becomes a result column.

    ``unit`` is an SI or tool unit ("s", "tokens", "tokens/s", "bytes", "W"); empty for names and counts
    that explain themselves. ``definition`` is one sentence, shown in the schema's field metadata.
    """
    return dataclasses.field(default=default, metadata={"unit": unit, "definition": definition})
