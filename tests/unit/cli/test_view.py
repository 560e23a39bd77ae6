from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from agents.contract.device import Device
from orchestrator.cli.live import LiveView
from orchestrator.cli.submit import view_for
from orchestrator.cli.view import JsonView, LinesView, Opening, Pace, Summary, View
from orchestrator.report.grid import Grid, GridCell
from tests.unit.cli.happened import JOBS, MATRIX, OPENING, STORY, A, B, ended
from tests.unit.results.attempts_made_up import FAILED, MEASURED

SUMMARY = Summary((), ("ctx 4K: not supported: set it in the firmware",))


def shown(view: View, capsys: pytest.CaptureFixture[str]) -> list[str]:
    view.say("joining ...")
    view.begin(OPENING)
    with view.live():
        for happening in STORY:
            view.tell(happening)
    view.end("three-1", Path("results") / "three-1", SUMMARY, complete=False)
    return capsys.readouterr().out.splitlines()


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(LinesView(), capsys) == [
        "joining ...",
        "run three-1: 9 jobs, 2 of them done before on 2 devices (alpha, beta [3])",
        "question: Which one?",
        "1 cell fits no device, for example: no device gamma; known: alpha",
        "1 job waits for devices that are not in the cluster",
        "[3/9] alpha  ctx 1K #1  10.00 tok/s, first token 0.500 s, prompt 64.0 tok/s",
        "[again] alpha  ctx 2K #1  FAILED: engine crashed: signal 9",
        "[4/9] alpha  ctx 2K #1  FAILED: engine crashed: signal 9",
        "[5/9] alpha  ctx 4K #1  refused: device in another state: set it in the firmware",
        "[lost] beta [3]: the link",
        "stopping: what is measured is kept (Ctrl-C again ends at once)",
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
        "message",
        "begin",
        *["job_sent", "progress", "progress", "job_ended"],
        *["job_sent", "job_ended", "job_sent", "job_ended", "job_sent", "job_ended"],
        *["device_lost", "progress", "stopping", "end"],
    ]
    assert all(isinstance(event["at"], float) for event in events)
    begin = events[1]
    counts = (begin["run"], begin["jobs"], begin["done"], begin["absent"], begin["unplaced"])
    assert counts == ("three-1", 9, 2, 1, 1)
    assert begin["devices"] == [{"device_id": "id-a", "name": "alpha"}, {"device_id": "id-b", "name": "beta [3]"}]
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
    assert all(event["cell_id"] == JOBS[0].cell.cell_id for event in (events[2], measured))
    assert events[-1]["complete"] is False
    assert events[-1]["failures"] == list(SUMMARY.failures)


@pytest.mark.parametrize("view", [LinesView, JsonView])
def test_the_output_stays_its_own(view: Callable[[], View], capsys: pytest.CaptureFixture[str]) -> None:
    """Ray prints what its raylet says on ``sys.stdout``: that is led elsewhere, and a view keeps the real one."""
    import contextlib

    made = view()
    with contextlib.redirect_stdout(io.StringIO()) as other:
        print("(raylet) a worker died")  # noqa: T201
        made.say("ours")
        made.end("three-1", Path("results"), SUMMARY, complete=True)
    assert "ours" in capsys.readouterr().out
    assert other.getvalue() == "(raylet) a worker died\n"


@pytest.mark.parametrize("width", [200, 100, 40, 20, 8, 1])
def test_the_live_display_holds_at_any_width(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=24, highlight=False, record=True)
    view = LiveView(console)
    view.begin(OPENING)
    with view.live():
        for happening in STORY:
            view.tell(happening)
    text = console.export_text()
    assert "FAILED: engine crashed: signal 9 (again)" in text, "what a script would read is not broken into lines"
    assert "beta [3]: the link" in text, "a name is no markup"
    assert "tok/s, first token" not in text, "what went well is not a line of its own"


def test_what_the_live_display_draws() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=24, highlight=False)
    view = LiveView(console)
    view.begin(OPENING)

    def drawn() -> list[str]:
        with console.capture() as capture:
            console.print(view._draw())
        plain = capture.get().replace("\x1b[1m", "").replace("\x1b[0m", "")
        return [" ".join(line.split()) for line in plain.splitlines()]

    assert drawn()[1:3] == ["alpha idle ?", "beta [3] idle ?"]
    for happening in STORY[:3]:
        view.tell(happening)
    assert drawn()[1] == "alpha ctx 1K #1 measuring 42.2 ?"
    view.tell(STORY[3])
    assert drawn()[1] == "alpha idle 4 s", "two jobs of two seconds are left"
    assert drawn()[3].startswith("all 3 of 9 jobs, 0 failed")
    for happening in STORY[4:]:
        view.tell(happening)
    assert drawn()[-1].startswith("all 5 of 9 jobs, 2 failed")


def test_a_fault_inside_leaves_the_terminal_as_it_was() -> None:
    output = io.StringIO()
    view = LiveView(Console(file=output, force_terminal=True, width=80, height=24))
    view.begin(OPENING)
    with pytest.raises(ZeroDivisionError), view.live():
        raise ZeroDivisionError
    assert output.getvalue().rstrip().endswith("\x1b[2K"), "the display is wiped away"
    assert "\x1b[?25h" in output.getvalue(), "the cursor is shown again"
    view.tell(STORY[0])  # told after the display ended: shown nowhere, and no fault


def test_grids_are_printed_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    grid = Grid("title", ("context", "f16"), ((GridCell("1K"), GridCell("42.0")),), 1)
    LinesView().end("three-1", Path("results"), Summary((grid,), ()), complete=True)
    out = capsys.readouterr().out
    assert "42.0" in out
    assert "without a figure" not in out
    assert "\ncomplete; results: results\n" in out


def test_which_view(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(view_for(as_json=True), JsonView)
    assert isinstance(view_for(as_json=False), LinesView)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert isinstance(view_for(as_json=False), LiveView)


class TestPace:
    def test_on_one_device(self) -> None:
        pace = Pace(total=3, waiting={"id-a": 3})
        assert (pace.eta_s("id-a"), pace.eta_all_s()) == (None, None)
        pace.ended(ended(MEASURED))
        assert (pace.done, pace.failed, pace.eta_s("id-a"), pace.eta_all_s()) == (1, 0, 4.0, 4.0)
        pace.ended(ended(FAILED, final=False))
        assert (pace.done, pace.failed, pace.eta_s("id-a")) == (1, 0, 4.0), "an attempt that is repeated counts not"
        pace.ended(ended(FAILED))
        assert (pace.done, pace.failed, pace.eta_s("id-a")) == (2, 1, 2.0)

    def test_the_whole_waits_for_every_device(self) -> None:
        pace = Pace(total=4, waiting={"id-a": 2, "id-b": 2})
        pace.ended(ended(MEASURED))
        assert pace.eta_s("id-b") is None
        assert pace.eta_all_s() is None, "nothing is known of the second device yet"

    @pytest.mark.parametrize("devices", [(A,), (A, B)])
    def test_on_a_resume(self, devices: tuple[Device, ...]) -> None:
        waiting = {device.device_id: 2 for device in devices}
        pace = Opening("r", MATRIX, devices, 10, 10 - 2 * len(devices), waiting).pace()
        pace.ended(ended(MEASURED))
        assert pace.eta_s("id-a") == 2.0


@pytest.mark.parametrize(
    ("opening", "absent"),
    [
        (Opening("r", MATRIX, (A,), 3, 0, {"id-a": 3}), 0),
        (Opening("r", MATRIX, (A,), 9, 2, {"id-a": 3}), 4),
        (Opening("r", MATRIX, (A, B), 9, 9, {"id-a": 0, "id-b": 0}), 0),
    ],
)
def test_jobs_of_devices_that_are_not_here(opening: Opening, absent: int) -> None:
    assert opening.absent == absent
    assert any("not in the cluster" in line for line in opening.lines()) == bool(absent)
