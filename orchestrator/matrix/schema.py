"""JSON Schema (draft 2020-12) of the matrix file, for editors; made from the models that check the file. PURE

An editor sees YAML 1.2 types, so a value is described as number, boolean or text as it may be written. What only
the program can check (units that come out whole, names, files, lengths) is not in it.
"""

from __future__ import annotations

from typing import Any

from orchestrator.matrix.axes import ALIASES
from orchestrator.matrix.sections import MatrixSpec


def json_schema() -> dict[str, Any]:
    schema = MatrixSpec.model_json_schema(by_alias=True)
    _plain_defaults(schema)
    for section in ("DefaultsSpec", "AxesSpec"):
        properties = schema["$defs"][section]["properties"]
        for alias, name in ALIASES.items():
            properties[alias] = {**properties[name], "description": f"The same as {name}"}
    schema["patternProperties"] = {"^x-": {"description": "A place for anchors; not read"}}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Orchestrate matrix",
        "description": "A benchmark matrix: what to measure on which devices. K of tokens is 1,024; MiB and GiB,"
        " M and G are powers of 1,024; MB and GB of 1,000.",
    }
    return {**schema, **head}


def _plain_defaults(schema: Any) -> None:
    """Takes out what only says None or repeats a model: an editor would offer it as text."""
    if isinstance(schema, dict):
        schema.pop("title", None) if isinstance(schema.get("title"), str) else None
        if "default" in schema and not isinstance(schema["default"], (int, float, str)):
            del schema["default"]
        for part in schema.values():
            _plain_defaults(part)
    elif isinstance(schema, list):
        for part in schema:
            _plain_defaults(part)
