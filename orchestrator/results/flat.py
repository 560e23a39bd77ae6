"""Nested tables made flat. PURE"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.results import schema


def columns_needed(table: str) -> list[str]:
    """The columns of an attempt's file that ``table`` is made of."""
    if table == "trials":
        return [each.name for each in schema.TRIALS]
    keys = {each.name for each in schema.COLUMNS[table]} & {each.name for each in schema.TRIALS}
    return [*(each.name for each in schema.TRIALS if each.name in keys), table]


def flatten(attempts: pa.Table, table: str) -> pa.Table:
    """``trials``, ``tokens``, ``steps`` or ``readings`` from rows in ``attempt_schema()``, or in an older one."""
    wanted = schema.schema(table)
    if table == "trials":
        return schema.conform(attempts, wanted)
    if table not in attempts.schema.names:
        return wanted.empty_table()
    lists = attempts.column(table).combine_chunks()
    parents = pc.list_parent_indices(lists)
    inner: Any = pc.list_flatten(lists)
    columns: dict[str, Any] = {
        name: attempts.column(name).take(parents)
        for name in columns_needed(table)[:-1]
        if name in attempts.schema.names
    }
    for position, field in enumerate(inner.type):
        columns[field.name] = inner.field(position)
    if "event" in wanted.names:
        # 0, 1, 2 ... inside each list
        lengths = [length or 0 for length in pc.list_value_length(lists).to_pylist()]
        columns["event"] = pa.array([position for length in lengths for position in range(length)], pa.int64())
    return schema.conform(pa.table(columns), wanted)
