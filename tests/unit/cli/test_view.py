from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.live import MOST_SHOWN, LiveView
from orchestrator.cli.submit import view_for
from orchestrator.cli.view import (
    JsonView,
    PlainView,
    RunDigest,
    RunProgress,
    View,
    absent,
    notice_line,
    opening_lines,
    progress_of,
)
from orchestrator.dispatch.api import RunSnapshot
from orchestrator.dispatch.notices import JobEnded, JobProgress, JobSent, Notice, RunEnded
from orchestrator.report.text_table import TableCell, TextTable
from tests.unit.cli.notices import JOBS, OPENING, STORY, A, B, ended
from tests.unit.results.made_attempts import FAILED, MEASURED

SUMMARY = RunDigest((), ("ctx 4K: not supported: set it in the firmware",))
MEASURED_AT = next(place for place, each in enumerate(STORY) if isinstance(each, JobEnded))


def shown(view: View, capsys: pytest.CaptureFixture[str]) -> list[str]:
    view.show_message("joining ...")
    view.begin(OPENING)
    with view.live():
        for notice in STORY:
            view.on_notice(notice)
    view.end("three-1", Path("results") / "three-1", SUMMARY, complete=False)
    return capsys.readouterr().out.splitlines()


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(PlainView(), capsys) == [
        "joining ...",
        "run three-1: 9 jobs, 2 of them done before on 3 devices (alpha, beta [3], gone)",
        "question: Which one?",
        "1 cell fits no device, for example: no device gamma; known: alpha",
        "1 job waits for devices that are not in the cluster",
        "[device] beta [3] joined",
        "[3/9] alpha  ctx 1K #1  10.00 tok/s, first token 0.500 s, prompt 64.0 tok/s",
        "[again] alpha  ctx 2K #1  FAILED: engine crashed: signal 9",
        "[4/9] alpha  ctx 2K #1  FAILED: engine crashed: signal 9",
        "[5/9] alpha  ctx 4K #1  refused: device in another state: set it in the firmware",
        "[to do] set dedicated VRAM of beta [3] to 32GiB and reboot",
        "[lost] beta [3]: the link",
        "[device] beta [3] back after a reboot",
        "[done] beta [3] is as it should be, or need not be",
        "[trouble] the disk is full",
        "[trouble] over",
        "stopping: what is measured is kept (Ctrl-C again ends at once)",
        "[paused]",
        "",
        "without a figure:",
        "  ctx 4K: not supported: set it in the firmware",
        "",
        f"not complete; results: {Path('results') / 'three-1'}",
        "more:",
        "  orchestrate show three-1",
        "  orchestrate compare three-1",
        "  orchestrate export three-1 FILE",
    ]


def test_every_line_of_json_is_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    events = [json.loads(line) for line in shown(JsonView(), capsys)]
    assert [event["event"] for event in events] == [
        *["message", "begin", "device_there"],
        *["job_sent", "progress", "progress", "job_ended"],
        *["job_sent", "job_ended", "job_sent", "job_ended", "job_sent", "job_ended"],
        *["operator_asked", "device_lost", "device_there", "operator_answered", "progress"],
        *["trouble", "trouble", "stopping", "end"],
    ]
    assert all(isinstance(event["at"], float) for event in events)
    begin = events[1]
    counts = (begin["run"], begin["matrix"], begin["jobs"], begin["done"], begin["absent"], begin["unplaced"])
    assert counts == ("three-1", "three", 9, 2, 1, 1)
    assert begin["devices"][:2] == [{"device_id": "id-a", "name": "alpha"}, {"device_id": "id-b", "name": "beta [3]"}]
    assert "operator" not in begin
    measured, again, failed, refused = (event for event in events if event["event"] == "job_ended")
    assert (measured["status"], measured["decode_tps"], measured["flags"], measured["final"]) == (
        "measured",
        pytest.approx(10.0),
        [],
        True,
    )
    assert (again["status"], again["cause"], again["detail"], again["final"], again["attempt"]) == (
        "failed",
        "engine_crashed",
        "signal 9",
        False,
        1,
    )
    assert (failed["final"], failed["attempt"]) == (True, 2)
    assert (refused["status"], refused["cause"]) == ("refused", "wrong_state")
    sent = next(event for event in events if event["event"] == "job_sent")
    assert all(
        (event["cell_id"], event["cell"], event["repeat"]) == ("cell-0", "ctx 1K", 0) for event in (sent, measured)
    )
    progress = [event for event in events if event["event"] == "progress"]
    assert [(each["device"], each["job_id"], each["phase"], each["tokens_per_s"]) for each in progress] == [
        ("alpha", "job-0", "loading", None),
        ("alpha", "job-0", "measuring", 42.25),
        ("beta [3]", None, "idle", None),
    ]
    asked = next(event for event in events if event["event"] == "operator_asked")
    assert (asked["device"], asked["text"]) == ("beta [3]", "set dedicated VRAM of beta [3] to 32GiB and reboot")
    assert events[-1]["complete"] is False
    assert events[-1]["failures"] == list(SUMMARY.failures)


def test_what_a_run_waits_for_when_it_is_first_seen(capsys: pytest.CaptureFixture[str]) -> None:
    waits = replace(OPENING, trouble="the disk is full", asks=("set it", "reboot it"), unplaced=(), question="")
    assert list(opening_lines(waits))[2:] == ["trouble: the disk is full", "to do: set it", "to do: reboot it"]
    JsonView().begin(waits)
    assert json.loads(capsys.readouterr().out)["operator"] == ["set it", "reboot it"]


@pytest.mark.parametrize("view", [PlainView, JsonView])
def test_the_output_stays_its_own(view: Callable[[], View], capsys: pytest.CaptureFixture[str]) -> None:
    """Ray prints what its raylet says on ``sys.stdout``: that is led elsewhere, and a view keeps the real one."""
    import contextlib

    made = view()
    with contextlib.redirect_stdout(io.StringIO()) as other:
        print("(raylet) a worker died")  # noqa: T201
        made.show_message("ours")
        made.end("three-1", Path("results"), SUMMARY, complete=True)
    assert "ours" in capsys.readouterr().out
    assert other.getvalue() == "(raylet) a worker died\n"


@pytest.mark.parametrize("notice", STORY, ids=lambda each: type(each).__name__)
def test_every_notice_has_a_line_or_is_a_job(notice: Notice) -> None:
    job = isinstance(notice, JobSent | JobEnded | JobProgress)
    assert bool(notice_line(notice)) is not job


def test_the_end_of_a_whole_run_needs_no_line() -> None:
    assert notice_line(RunEnded(complete=True)) == ""


@pytest.mark.parametrize("width", [200, 100, 40, 20, 8, 1])
def test_the_live_display_holds_at_any_width(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=24, highlight=False, record=True)
    view = LiveView(console)
    view.begin(OPENING)
    with view.live():
        for notice in STORY:
            view.on_notice(notice)
    text = console.export_text()
    assert "FAILED: engine crashed: signal 9 (again)" in text, "what a script would read is not broken into lines"
    assert "beta [3]: the link" in text, "a name is no markup"
    assert "[to do] set dedicated VRAM of beta [3] to 32GiB and reboot" in text
    assert "tok/s, first token" not in text, "what went well is not a line of its own"


def drawing(view: LiveView, console: Console) -> list[str]:
    with console.capture() as capture:
        console.print(view._draw())
    plain = capture.get().replace("\x1b[1m", "").replace("\x1b[0m", "")
    return [" ".join(line.split()) for line in plain.splitlines()]


def live_view() -> tuple[LiveView, Console]:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=40, highlight=False)
    return LiveView(console), console


def test_what_the_live_display_draws() -> None:
    view, console = live_view()
    view.begin(OPENING)
    assert drawing(view, console)[1:4] == ["alpha idle ?", "beta [3] idle ?", "gone idle ?"]
    for notice in STORY[:MEASURED_AT]:
        view.on_notice(notice)
    assert drawing(view, console)[1] == "alpha ctx 1K #1 measuring 42.2 ?"
    view.on_notice(STORY[MEASURED_AT])
    assert drawing(view, console)[1] == "alpha idle 4 s", "two jobs of two seconds are left"
    assert drawing(view, console)[-1].startswith("all 3 of 9 jobs, 0 failed")
    for notice in STORY[MEASURED_AT + 1 :]:
        view.on_notice(notice)
    assert drawing(view, console)[-1].startswith("all 5 of 9 jobs, 2 failed")


def test_a_watcher_sees_at_once_what_runs_already() -> None:
    view, console = live_view()
    view.begin(replace(OPENING, running=(JobSent(JOBS[1], B, 1),)))
    assert drawing(view, console)[1:3] == ["beta [3] ctx 2K #1 sent ?", "alpha idle ?"], "who works comes first"


def test_a_large_fleet_does_not_fill_the_screen() -> None:
    view, console = live_view()
    many = tuple((f"id-{n:02}", f"device-{n:02}") for n in range(MOST_SHOWN + 5))
    view.begin(replace(OPENING, devices=many, running=()))
    lines = drawing(view, console)
    assert len(lines) == MOST_SHOWN + 3
    assert lines[-2] == "... and 5 more devices"


def test_a_fault_inside_leaves_the_terminal_as_it_was() -> None:
    output = io.StringIO()
    view = LiveView(Console(file=output, force_terminal=True, width=80, height=24))
    view.begin(OPENING)
    with pytest.raises(ZeroDivisionError), view.live():
        raise ZeroDivisionError
    assert output.getvalue().rstrip().endswith("\x1b[2K"), "the display is wiped away"
    assert "\x1b[?25h" in output.getvalue(), "the cursor is shown again"
    view.on_notice(STORY[1])  # told after the display ended: shown nowhere, and no fault


def test_grids_are_printed_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    table = TextTable("title", ("context", "f16"), ((TableCell("1K"), TableCell("42.0")),), 1)
    PlainView().end("three-1", Path("results"), RunDigest((table,), ()), complete=True)
    out = capsys.readouterr().out
    assert "42.0" in out
    assert "without a figure" not in out
    assert "\ncomplete; results: results\n" in out


def test_which_view(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(view_for(as_json=True), JsonView)
    assert isinstance(view_for(as_json=False), PlainView)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert isinstance(view_for(as_json=False), LiveView)


class TestPace:
    def test_on_one_device(self) -> None:
        progress = RunProgress(total=3, waiting={"id-a": 3})
        assert (progress.eta_s("id-a"), progress.eta_all_s()) == (None, None)
        progress.ended(ended(MEASURED))
        assert (progress.done, progress.failed, progress.eta_s("id-a"), progress.eta_all_s()) == (1, 0, 4.0, 4.0)
        progress.ended(ended(FAILED, final=False))
        assert (progress.done, progress.failed, progress.eta_s("id-a")) == (1, 0, 4.0), (
            "an attempt that is repeated counts not"
        )
        progress.ended(ended(FAILED))
        assert (progress.done, progress.failed, progress.eta_s("id-a")) == (2, 1, 2.0)

    def test_the_whole_waits_for_every_device(self) -> None:
        progress = RunProgress(total=4, waiting={"id-a": 2, "id-b": 2})
        progress.ended(ended(MEASURED))
        assert progress.eta_s("id-b") is None
        assert progress.eta_all_s() is None, "nothing is known of the second device yet"

    def test_it_begins_where_the_run_stands(self) -> None:
        waiting = {"id-a": 2}
        opening = RunSnapshot("r", "r", "", (("id-a", "alpha"),), frozenset({"id-a"}), 10, 8, 3, waiting)
        progress = progress_of(opening)
        assert (progress.total, progress.done, progress.failed) == (10, 8, 3)
        progress.ended(ended(MEASURED))
        assert progress.eta_s("id-a") == 2.0
        assert waiting == {"id-a": 2}, "what was told is not changed"


@pytest.mark.parametrize(
    ("present", "waiting", "count"),
    [
        ({"id-a"}, {"id-a": 3}, 0),
        ({"id-a"}, {"id-a": 3, "id-b": 4}, 4),
        (set(), {"id-a": 3, "id-b": 4}, 7),
        ({"id-a", "id-c"}, {}, 0),
    ],
)
def test_jobs_of_devices_that_are_not_here(present: set[str], waiting: dict[str, int], count: int) -> None:
    opening = replace(OPENING, present=frozenset(present), waiting=waiting)
    assert absent(opening) == count
    assert any("not in the cluster" in line for line in opening_lines(opening)) == bool(count)


def test_a_device_that_nobody_told_of_before_gets_its_line() -> None:
    view, console = live_view()
    view.begin(replace(OPENING, devices=()))
    view.on_notice(JobSent(JOBS[0], A, 1))
    assert drawing(view, console)[1] == "alpha ctx 1K #1 sent ?"
