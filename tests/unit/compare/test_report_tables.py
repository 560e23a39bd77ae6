from __future__ import annotations

import io
from dataclasses import replace

import pytest

from orchestrator.report.markdown import markdown
from orchestrator.report.runs import run_table, runs_table, summarise_run
from orchestrator.report.terminal import fitted, plain, print_table
from orchestrator.report.text_table import TableCell, TextTable
from tests.unit.compare.made_trials import trials

TABLE = TextTable(
    "a_title",
    ("name", "one", "two"),
    (
        (TableCell("x|y"), TableCell("1.00", best=True), TableCell("does not load: RAM", failed=True)),
        (TableCell("z_"), TableCell(""), TableCell("2.00")),
    ),
    label_columns=1,
    notes=("[1] a *remark*",),
    best_note="best median",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_text_is_aligned_and_tells_the_best_without_colour() -> None:
    assert plain(TABLE) == (
        "a_title\n\n"
        "name     one                 two\n"
        "----  ------  ------------------\n"
        "x|y   1.00 *  does not load: RAM\n"
        "z_                          2.00\n\n"
        "*: best median\n"
        "[1] a *remark*\n"
    )


def test_markdown_shows_what_is_written() -> None:
    assert markdown(TABLE) == (
        "a_title\n\n"
        "| name |      one |                two |\n"
        "| ---- | -------: | -----------------: |\n"
        "| x\\|y | **1.00** | does not load: RAM |\n"
        "| z\\_  |          |               2.00 |\n\n"
        "- Bold: best median\n"
        "- [1] a \\*remark\\*\n"
    )


def test_a_pipe_gets_plain_text_and_a_terminal_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    pipe, terminal = io.StringIO(), Terminal()
    print_table(TABLE, pipe)
    print_table(TABLE, terminal)
    assert pipe.getvalue() == plain(TABLE)
    assert "\x1b[" in terminal.getvalue() and "1.00 *" in terminal.getvalue()


@pytest.mark.parametrize(("width", "parts"), [(80, [2]), (34, [2]), (20, [1, 1]), (1, [1, 1])])
def test_a_narrow_terminal_gets_the_columns_in_parts(width: int, parts: list[int]) -> None:
    made = list(fitted(TABLE, width))
    assert [len(part.headers) - 1 for part in made] == parts
    assert all(part.headers[0] == "name" for part in made)
    assert [head for part in made for head in part.headers[1:]] == ["one", "two"]


def test_show_run_is_a_line_a_cell() -> None:
    table = trials(
        {"context_tokens": 4096, "decode_tps": 10.0, "ttft_s": 0.5, "warmup": True},
        {"context_tokens": 4096, "decode_tps": 20.0, "ttft_s": 0.5},
        {"context_tokens": 4096, "decode_tps": 30.0, "ttft_s": 0.7, "flags": ["clocks_disagree"]},
        {"context_tokens": 8192, "status": "failed", "cause": "ram", "trial": None},
        {"context_tokens": 4096, "status": "failed", "cause": "engine_crashed", "trial": None},
    )
    shown = run_table(table)
    assert shown.headers == ("context", "status", "n", "decode_tps, tokens/s", "ttft_s, s", "failures", "flags")
    assert [tuple(cell.text for cell in row) for row in shown.rows] == [
        ("4K", "failed 1, ok 2", "1", "20.00", "0.50", "engine crashed", "clocks_disagree 1"),
        ("8K", "failed", "0", "", "", "does not load: RAM", ""),
    ]
    assert shown.notes[1:] == (
        "clocks_disagree: client and engine disagree by more than 3 %",
        "Flagged trials are left out, and not counted in n, where a cell has others.",
    )


def test_show_run_tells_the_spread_and_axes_that_are_still_to_vary() -> None:
    rates = (20.0, 22.0, 23.0)
    table = trials(*({"context_tokens": 4096, "kv_type_k": "f16", "decode_tps": rate} for rate in rates))
    shown = run_table(table, also=("context_tokens",))
    assert shown.headers[:1] == ("context",)
    assert [tuple(cell.text for cell in row)[:4] for row in shown.rows] == [("4K", "ok", "3", "22.00 ±9%")]


def test_runs_are_counted_by_the_last_attempt_of_each_job() -> None:
    table = trials(
        {"job_id": "a", "attempt": 1, "status": "failed"},
        {"job_id": "a", "attempt": 2},
        {"job_id": "b", "warmup": True},
        {"job_id": "b", "status": "failed", "trial": None},
        {"job_id": "c", "status": "refused", "device": "other"},
    )
    summary = summarise_run("r", table)
    assert summary.statuses == (("failed", 1), ("ok", 1), ("refused", 1))
    assert summary.devices == ("laptop", "other")
    (row,) = runs_table([replace(summary, remaining=2)]).rows
    assert [cell.text for cell in row] == ["r", "-", "5", "1", "1", "1", "2", "laptop, other", "m"]
    assert runs_table([]).notes == ("No runs.",)
