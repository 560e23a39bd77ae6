"""A pivot as a table of texts, with the footnotes that explain its marks. PURE"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agents.contract.measure import FLAG_DESCRIPTIONS
from orchestrator.compare import axes
from orchestrator.compare.groups import IQR_FROM, TrialGroup
from orchestrator.compare.pivot import Key, Pivot
from orchestrator.report.text_table import TableCell, TextTable, format_figure, format_unit

FLAGGED, ONLY_FLAGGED = "!", "?"


def pivot_table(pivot: Pivot) -> TextTable:
    """Cells such as ``17.26 (6970)``, ``42.89 [42.10..43.02] x1.13``, ``does not load: RAM``."""
    counts = Counter(group.summary.n for group in pivot.groups.values() if group.summary)
    usual_n = counts.most_common(1)[0][0] if counts else 0
    remarks = list(dict.fromkeys(note for cell in _in_order(pivot) for note in cell.notes))
    rows = []
    for row in pivot.row_keys:
        names = [TableCell(axes.label(axis, value)) for axis, value in zip(pivot.row_axes, row, strict=True)]
        cells = [
            _table_cell(pivot, pivot.groups.get((row, col), TrialGroup()), usual_n, remarks) for col in pivot.col_keys
        ]
        rows.append((*names, *cells))
    heads = (_heading(pivot.col_axes, col) or pivot.metric.name for col in pivot.col_keys)
    return TextTable(
        title=_title(pivot),
        headers=(*(axes.short_name(axis) for axis in pivot.row_axes), *heads),
        rows=tuple(rows),
        label_columns=len(pivot.row_axes),
        notes=tuple(_notes(pivot, usual_n, remarks)),
        best_note=_best_note(pivot),
    )


def _in_order(pivot: Pivot) -> Iterable[TrialGroup]:
    places = ((row, col) for row in pivot.row_keys for col in pivot.col_keys)
    return [pivot.groups[place] for place in places if place in pivot.groups]


def _title(pivot: Pivot) -> str:
    metric, second = pivot.metric, pivot.second
    beside = f" ({second.name}{', ' + format_unit(second) if format_unit(second) else ''})" if second else ""
    head = f"{metric.name}{', ' + format_unit(metric) if format_unit(metric) else ''}{beside}: {metric.definition}"
    across = ", ".join(axes.short_name(axis) for axis in pivot.col_axes)
    parts = (f"columns: {across}" if across else "", f"where {'; '.join(pivot.where)}" if pivot.where else "")
    tail = ". ".join(part[0].upper() + part[1:] for part in parts if part)
    return f"{head}. {tail}." if tail else f"{head}."


def _heading(names: tuple[str, ...], key: Key) -> str:
    """``512 MiB vulkan``; a switch or a bare number with its axis: ``flash_attention on``."""
    words = []
    for name, value in zip(names, key, strict=True):
        bare = isinstance(value, (bool, int)) and axes.COLUMN[name].unit in ("", "tokens")
        text = axes.label(name, value)
        words.append(f"{axes.short_name(name)} {text}" if bare or value is None else text)
    return ", ".join(words) if len(words) > 2 else " ".join(words)


def _table_cell(pivot: Pivot, group: TrialGroup, usual_n: int, remarks: list[str]) -> TableCell:
    parts = [*_figure_parts(pivot, group, usual_n)]
    if group.failures:
        total = sum(count for _, count in group.failures) + (group.summary.n if group.summary else 0)
        failures = "; ".join(_failure(words, count, total) for words, count in group.failures)
        parts = [" ".join(parts) + ";", failures] if parts else [failures]
    if group.silent:
        parts.append(group.silent)
    marks = [ONLY_FLAGGED] if group.only_flagged else [FLAGGED] if group.flagged else []
    marks += [f"[{remarks.index(note) + 1}]" for note in group.notes]
    text = " ".join((*parts, *marks))
    return TableCell(
        text, best=group.best and not _is_undecided(group), failed=bool(group.failures) and group.summary is None
    )


def _figure_parts(pivot: Pivot, group: TrialGroup, usual_n: int) -> Iterable[str]:
    if group.summary is None:
        return
    yield format_figure(pivot.metric, group.summary.median)
    if group.summary.n > 1:
        yield f"[{format_figure(pivot.metric, group.summary.low)}..{format_figure(pivot.metric, group.summary.high)}]"
    if pivot.second and group.second is not None:
        yield f"({format_figure(pivot.second, group.second)})"
    if group.ratio is not None:
        yield f"x{group.ratio:.2f}"
    if group.summary.n != usual_n:
        yield f"n={group.summary.n}"


def _failure(words: str, count: int, total: int) -> str:
    return words if total == count == 1 or total == count else f"{words} ({count} of {total})"


def _notes(pivot: Pivot, usual_n: int, remarks: list[str]) -> Iterable[str]:
    groups = _in_order(pivot)
    yield from pivot.everywhere
    yield from pivot.notes
    if not pivot.groups:
        yield "No trials."
    spreads = {group.summary.n for group in groups if group.summary and group.summary.n > 1}
    if spreads or usual_n > 1:
        kinds = ["smallest to largest"] if min(spreads, default=0) < IQR_FROM else []
        kinds += ["first to third quartile"] if max(spreads, default=0) >= IQR_FROM else []
        says = f" ({' with fewer than 5 trials, '.join(kinds)})" if kinds else ""
        yield f"Each figure: median of n = {usual_n} trials, where nothing else is said; [low..high]: spread{says}."
    if close := sum(map(_is_undecided, groups)):
        many = f"{close} best medians" if close > 1 else "the best median"
        yield f"No verdict, and no mark, for {many}: another cell's spread overlaps."
    yield from _mark_notes(pivot, groups)
    if any(value is None for keys in (pivot.row_keys, pivot.col_keys) for key in keys for value in key):
        yield "-: not asked for (the engine's own choice, the machine as it stood), or not told."
    for position, remark in enumerate(remarks, start=1):
        yield f"[{position}] {remark}"


def _best_note(pivot: Pivot) -> str:
    groups = _in_order(pivot)
    marked = [group for group in groups if group.best and not _is_undecided(group)]
    if not marked:
        return ""
    alone = sum(group.summary is not None and group.summary.n == 1 for group in marked)
    where = "" if alone == len(marked) else f" in {alone} of them"
    doubt = f" One trial a cell{where}: the spread is not known." if alone else ""
    return f"best median ({pivot.metric.better} is better).{doubt}"


def _is_undecided(group: TrialGroup) -> bool:
    """The best median, and another cell's spread reaches into its own."""
    return group.best and group.close and group.summary is not None and group.summary.n > 1


def _mark_notes(pivot: Pivot, groups: Iterable[TrialGroup]) -> Iterable[str]:
    groups = list(groups)
    if pivot.baseline:
        base = ", ".join(f"{axes.short_name(axis)}={axes.label(axis, value)}" for axis, value in pivot.baseline)
        yield f"xN: median / median at {base}."
    flags: Counter[str] = Counter()
    for group in groups:
        flags.update(dict(group.flagged))
    said = "; ".join(f"{count} {flag} ({FLAG_DESCRIPTIONS.get(flag, flag)})" for flag, count in sorted(flags.items()))
    if any(group.flagged and not group.only_flagged for group in groups):
        yield f"{FLAGGED}: flagged trials left out of this cell's figure."
    if any(group.only_flagged for group in groups):
        yield f"{ONLY_FLAGGED}: all trials of this cell are flagged; shown, but not compared."
    if flags:
        yield f"Flagged trials: {said}."
