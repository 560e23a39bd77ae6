"""A table with one axis (or several) down and one across. PURE

What a cell shows is the median over repeats, and over nothing else: an axis that varies inside a cell and was not
named goes into the rows, with a note. Warm-ups never count, flagged trials only where a cell has no others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from orchestrator.compare import axes
from orchestrator.compare.groups import TrialGroup, summarise_group
from orchestrator.compare.trials import SILENT, Chosen, Row, choose_trials, origin_notes, values_of
from orchestrator.errors import UsageError
from orchestrator.matrix.problems import quoted

Key = tuple[Any, ...]
"""Values of the row axes, or of the column axes, in their order; as the table has them, not as people write them."""


@dataclass(frozen=True, slots=True)
class Pivot:
    """``groups`` lacks what the tables lack. ``baseline`` holds axis and value; empty: no ratios. ``everywhere`` says
    what was measured, where neither rows nor columns do."""

    metric: axes.Metric
    second: axes.Metric | None
    row_axes: tuple[str, ...]
    col_axes: tuple[str, ...]
    row_keys: tuple[Key, ...]
    col_keys: tuple[Key, ...]
    groups: Mapping[tuple[Key, Key], TrialGroup]
    where: tuple[str, ...] = ()
    baseline: tuple[tuple[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    everywhere: tuple[str, ...] = ()


def pivot(
    table: pa.Table,
    rows: Sequence[str],
    cols: Sequence[str],
    value: str,
    *,
    with_metric: str | None = None,
    where: Sequence[str] = (),
    baseline: Sequence[str] = (),
    best: Literal["row", "table", "none"] = "row",
) -> Pivot:
    """``table`` is ``trials``; ``where`` and ``baseline`` are ``AXIS=VALUE`` as people write them.

    A baseline replaces these axes in a cell's place: the ratio is the cell's median / that cell's. Raises
    UsageError for unknown names and values, and for a baseline that is neither in the rows nor in the columns.
    """
    metric = axes.metric_named(value)
    second = axes.metric_named(with_metric) if with_metric else None
    row_axes, col_axes = _named_once(rows, cols)
    chosen = choose_trials(table, [metric.name, *([second.name] if second else [])], where)
    row_axes, added = _with_hidden(chosen.rows, row_axes, col_axes)
    groups = _groups(chosen.rows, row_axes, col_axes, metric.name, second.name if second else None)
    against = _baseline(baseline, (*row_axes, *col_axes), chosen.rows)  # added axes may be named too
    groups = _with_ratios(groups, row_axes, col_axes, dict(against))
    groups = _with_best(groups, metric.better, best)
    differ = _confounded(chosen.rows, row_axes, col_axes)
    notes = (*_added_note(added), *differ, *origin_notes(chosen.rows), *_left_out(chosen))
    return Pivot(
        metric=metric,
        second=second,
        row_axes=row_axes,
        col_axes=col_axes,
        row_keys=_sorted(row_axes, {key for key, _ in groups}),
        col_keys=_sorted(col_axes, {key for _, key in groups}),
        groups=groups,
        where=tuple(where),
        baseline=against,
        notes=notes,
        everywhere=_everywhere(chosen.rows, row_axes, col_axes),
    )


def _named_once(rows: Sequence[str], cols: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    # dict.fromkeys: one axis under two of its names, each allowed, counts once and keeps its place
    row_axes = tuple(dict.fromkeys(axes.axis_named(name) for name in rows))
    col_axes = tuple(dict.fromkeys(axes.axis_named(name) for name in cols))
    if both := [axis for axis in row_axes if axis in col_axes]:
        raise UsageError(f"axis {quoted(axes.short_name(both[0]))} is asked for in the rows and in the columns")
    return row_axes, col_axes


def _key(row: Row, names: Sequence[str]) -> Key:
    return tuple(row[name] for name in names)


def _sorted(names: Sequence[str], keys: set[Key]) -> tuple[Key, ...]:
    def order(key: Key) -> Any:
        # not the values themselves: None and numbers do not compare, and Q4 comes before Q8, 2 before 10
        return [axes.sort_key(name, value) for name, value in zip(names, key, strict=True)]

    return tuple(sorted(keys, key=order))


def _grouped(rows: Sequence[Row], names: Sequence[str]) -> dict[Key, list[Row]]:
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[_key(row, names)].append(row)
    return groups


def _with_hidden(
    rows: Sequence[Row], row_axes: tuple[str, ...], col_axes: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The row axes and, behind them, each axis that varies inside a cell; and which those are."""
    # published rows without figures leave most axes empty: null beside a value would look like variation
    figures = [row for row in rows if row["status"] not in SILENT]
    # of the rows that the filters left: an axis of which they left one value needs no row
    added: tuple[str, ...] = ()
    for axis in axes.AXES:
        used = (*row_axes, *added, *col_axes)
        if axis not in used and len(values_of(figures, axis)) > 1:
            # grouped anew with the axes added so far: an axis that varies with one of those varies in no cell any more
            groups = _grouped(figures, used).values()
            if any(len(values_of(group, axis)) > 1 for group in groups):
                added = (*added, axis)
    return (*row_axes, *added), added


def _groups(
    rows: Sequence[Row], row_axes: tuple[str, ...], col_axes: tuple[str, ...], metric: str, second: str | None
) -> dict[tuple[Key, Key], TrialGroup]:
    # two passes: which columns exist is known only when all rows with a place of their own have one
    placed = [row for row in rows if not _is_wide(row, col_axes, metric)]
    groups: dict[tuple[Key, Key], list[Row]] = defaultdict(list)
    for row in placed:
        groups[_key(row, row_axes), _key(row, col_axes)].append(row)
    # A published "estimate only" without a runtime speaks for every runtime that has figures, but replaces none.
    columns = {col for _, col in groups}
    for row in (row for row in rows if _is_wide(row, col_axes, metric)):
        pattern = _key(row, col_axes)
        matching = [col for col in columns if _matches(pattern, col)] or [pattern]
        for col in matching:
            place = (_key(row, row_axes), col)
            if place not in groups:
                groups[place].append(row)
    return {place: summarise_group(group, metric, second) for place, group in groups.items()}


def _is_wide(row: Row, col_axes: Sequence[str], metric: str) -> bool:
    """A published row without a figure that leaves a column axis empty speaks for all its values."""
    return row["status"] in SILENT and row[metric] is None and any(row[axis] is None for axis in col_axes)


def _matches(pattern: Key, key: Key) -> bool:
    return all(wanted is None or wanted == value for wanted, value in zip(pattern, key, strict=True))


def _baseline(written: Sequence[str], used: Sequence[str], rows: Sequence[Row]) -> tuple[tuple[str, Any], ...]:
    chosen: dict[str, Any] = {}
    for each in written:
        axis, texts = axes.split_choice(each, "baseline")
        if axis not in used:
            allowed = ", ".join(axes.short_name(name) for name in used)
            raise UsageError(f"baseline {quoted(each)}: not an axis of this table. Allowed: {allowed}")
        # a list is allowed for filters; a ratio to two values would be two ratios
        if len(texts) > 1:
            raise UsageError(f"baseline {quoted(each)}: one value is wanted")
        chosen[axis] = axes.choose(axis, texts[0], (row[axis] for row in rows))
    return tuple(chosen.items())


def _with_ratios(
    groups: dict[tuple[Key, Key], TrialGroup],
    row_axes: Sequence[str],
    col_axes: Sequence[str],
    against: Mapping[str, Any],
) -> dict[tuple[Key, Key], TrialGroup]:
    def at_baseline(names: Sequence[str], key: Key) -> Key:
        return tuple(against.get(name, value) for name, value in zip(names, key, strict=True))

    result = dict(groups)
    for (row, col), group in groups.items() if against else ():
        # an empty group where the baseline was not measured: no ratio, rather than one to the nearest cell
        base = groups.get((at_baseline(row_axes, row), at_baseline(col_axes, col)), TrialGroup()).comparable
        # a median of 0 (no token cached, say) has no ratio
        if group.comparable and base and base.median:
            result[row, col] = replace(group, ratio=group.comparable.median / base.median)
    return result


def _with_best(
    groups: dict[tuple[Key, Key], TrialGroup], better: str, scope: Literal["row", "table", "none"]
) -> dict[tuple[Key, Key], TrialGroup]:
    scopes: dict[Key | None, list[tuple[Key, Key]]] = defaultdict(list)
    for place, group in groups.items():
        if group.comparable:
            scopes[place[0] if scope == "row" else None].append(place)
    result = dict(groups)
    for places in scopes.values() if better and scope != "none" else ():
        figures = {place: summary for place in places if (summary := groups[place].comparable)}
        # the only figure of a row is not the best of anything
        if len(figures) > 1:
            pick = max if better == "higher" else min
            winner = pick(summary.median for summary in figures.values())
            for place, summary in figures.items():
                others = [each for other, each in figures.items() if other != place]
                # several may be equal: each is marked, and each is close to the other
                if summary.median == winner:
                    close = any(each.low <= summary.high and summary.low <= each.high for each in others)
                    result[place] = replace(groups[place], best=True, close=close)
    return result


def _added_note(added: Sequence[str]) -> tuple[str, ...]:
    names = ", ".join(axes.short_name(axis) for axis in added)
    return (f"Put into the rows, because it varies and was not named: {names}.",) if added else ()


def _confounded(rows: Sequence[Row], row_axes: tuple[str, ...], col_axes: tuple[str, ...]) -> tuple[str, ...]:
    """Axes that go with the columns: the columns differ in them too."""
    # where columns are workloads, it is no news that they differ in the length of the prompt
    used = _implied({*row_axes, *col_axes})
    figures = [row for row in rows if row["status"] not in SILENT]
    groups = list(_grouped(figures, row_axes).values())
    names = [
        axes.short_name(axis)
        for axis in axes.AXES
        # FOUND is left out: a driver's version differs between any two devices, and a null there is no value
        if axis not in used and axis not in axes.FOUND and any(len(values_of(g, axis)) > 1 for g in groups)
    ]
    return (f"Columns differ in more than their heading says: {', '.join(names)}.",) if names else ()


def _implied(used: set[str]) -> set[str]:
    """These axes, and those that follow from them."""
    implied = set(used)
    implied |= set(axes.WORKLOAD_AXES) if "workload" in used else set()
    implied |= {"model_source"} if "model" in used else set()
    implied |= {axes.KV_TYPE} if used & {"kv_type_k", "kv_type_v"} else set()
    return implied


WORTH_NAMING = ("device", "engine", "runtime", "model", "quantisation", "workload", "context_tokens", "power_limit_w")
"""Of what is the same in all cells: without it nobody knows what was measured."""


def _everywhere(rows: Sequence[Row], row_axes: tuple[str, ...], col_axes: tuple[str, ...]) -> tuple[str, ...]:
    """What is the same in the whole table; and what rows differ in beside their names."""
    used = _implied({*row_axes, *col_axes})
    figures = [row for row in rows if row["status"] not in SILENT]
    values = {axis: values_of(figures, axis) for axis in WORTH_NAMING if axis not in used}
    same = [
        f"{axes.short_name(axis)} {axes.label(axis, next(iter(found)))}"
        for axis, found in values.items()
        if len(found) == 1 and None not in found
    ]
    cols = [values_of(group, axis) for axis in values for group in _grouped(figures, row_axes).values()]
    # then _confounded has a note on it already: the same axes are not named a second time
    columns_differ = any(len(each) > 1 for each in cols)
    other = [axes.short_name(axis) for axis, found in values.items() if len(found) > 1 and not columns_differ]
    return (
        *((f"In all cells: {', '.join(same)}.",) if same else ()),
        *((f"Rows differ in more than their names say: {', '.join(other)}.",) if other else ()),
    )


def _left_out(chosen: Chosen) -> tuple[str, ...]:
    many = chosen.superseded
    return (f"{many} earlier attempt{'s' if many > 1 else ''} of retried jobs left out.",) if many else ()
