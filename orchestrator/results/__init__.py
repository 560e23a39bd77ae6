"""Arrow tables of what was measured: schema, rows, store. Importing this package stays free of pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["load"]


def load(path: str | Path, table: str = "trials", *, run: str | None = None, all_attempts: bool = False) -> pa.Table:
    """One of the tables ``trials``, ``tokens``, ``steps``, ``readings``, ``devices`` as ``pyarrow.Table``.

    ``path`` is a run's name, as ``orchestrate results`` lists it, or its folder; a results folder (with ``run``,
    where it holds several); one file of a run; a file that ``orchestrate export`` wrote (Parquet, Arrow IPC, CSV,
    JSON lines); a CSV of published figures; or ``reference:NAME`` for published figures that come with Orchestrate.

    Of a job that was retried it holds the rows of the current attempt; ``all_attempts``: those before it too.

    Raises UsageError where ``path`` is none of these. A file of the run that cannot be read is left out with a
    warning (``DamagedFileWarning``) that names it.
    """
    from orchestrator.results.loading import load as load_now

    return load_now(path, table, run=run, all_attempts=all_attempts)
