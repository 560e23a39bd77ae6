"""``docs/results.md`` from the schema: ``python -m orchestrator.report.results_page > docs/results.md``.

A test compares the two, so that the page cannot drift.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from agents.contract.measure import FLAG_DESCRIPTIONS
from agents.contract.report import CAUSES
from orchestrator.compare.groups import IQR_FROM
from orchestrator.results import schema

_HEAD = f"""<!-- Written by `python -m orchestrator.report.results_page > docs/results.md`; do not edit by hand. -->
# Results

Schema version {schema.SCHEMA_VERSION}. Five tables: `trials`, `tokens`, `steps`, `readings`, `devices`. Units and
definitions stand in each Arrow field's metadata too (`unit`, `definition`); the schema's metadata holds
`orchestrate.schema_version` and `orchestrate.table`.

```python
import orchestrator

trials = orchestrator.load("RUN")  # a run by its name; or its folder
tokens = orchestrator.load("RUN", "tokens")  # each token's arrival
same = orchestrator.load("trials.parquet")  # what `orchestrate export` wrote; also .arrow, .csv, .jsonl
published = orchestrator.load("reference:aimax395-64g")  # published figures, origin = published
```

## On disk

```
ROOT/runs/RUN/trials/JOB-ATTEMPT.parquet          one job attempt: its trials, with tokens, steps and readings nested
              trials/compact-HASH.parquet         many attempts merged into one file, to be read faster
              devices/FINGERPRINT-DEVICE.parquet  one device as it was
              logs/JOB-ATTEMPT.log                the engine's log
```

A file is written aside, flushed to the disk and renamed: it is whole, or it is not there. Files are merged while a run
goes on: the merged one is flushed and read back before its parts go. A damaged file is left out with a warning that
names it; `show`, `export` and `compare` then say how many rows cannot be read and exit with 1, and `resume` measures
them again and keeps the file as `NAME.damaged-1`. All of them read runs without a ledger too. A column
that was added later reads as null from an older file. A column that this version
does not know is left out when reading and stays in its file, and such a file is never merged. Raw figures are kept
(each arrival); a rate in `trials` is derived from them when the row is written.

An attempt that failed or was refused is a row with `status`, `cause` and `detail` and without a `trial`; trials that
were complete by then are rows too. Of a job that was retried, everything reads the last attempt; the others are there
with `--all-attempts`, or `orchestrator.load(..., all_attempts=True)`.

Rows with `origin = imported` come from another tool's file and keep its definitions: [import.md](import.md).

## In a comparison

- A figure is the **median** over the trials of a cell. Warm-ups never count.
- **Spread**: smallest to largest with fewer than {IQR_FROM} trials, first to third quartile (linear interpolation)
  from {IQR_FROM} on.
- A **flagged** trial is left out of the median, counted, and named in a footnote. Where a cell has no other, its figure
  is shown and marked, and takes no part in best and ratio.
- An axis that varies inside a cell and was not asked for goes into the rows, with a note: nothing but repeats is
  averaged.
- `K` of tokens is 1,024; KiB, MiB and GiB are powers of 1,024.
"""


def results_page() -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    parts += [_table(f"Table `{name}`", schema.COLUMNS[name]) for name in schema.TABLES]
    flags = ((str(flag), meaning) for flag, meaning in FLAG_DESCRIPTIONS.items())
    parts.append("## Flags\n\n| flag | meaning |\n|---|---|\n" + _rows(flags))
    words = ((cause.value, policy.description) for cause, policy in CAUSES.items())
    parts.append("## Causes\n\n| cause | shown as |\n|---|---|\n" + _rows(words))
    return "\n".join(parts)


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f"| `{name}` | {meaning} |\n" for name, meaning in pairs)


def _table(title: str, columns: Iterable[schema.Column]) -> str:
    lines = (
        f"| `{each.name}` | {_type(each)} | {each.unit} | {each.definition.replace('|', chr(92) + '|')} |\n"
        for each in columns
    )
    return f"## {title}\n\n| column | type | unit | definition |\n|---|---|---|---|\n" + "".join(lines)


def _type(column: schema.Column) -> str:
    text = str(column.type)
    return (text if len(text) < 40 else text.partition("<")[0] + "<struct>").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    sys.stdout.write(results_page())
