"""``logs``, ``show --why`` and the level of the log, with this machine's files and with a coordinator elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import coordinator_link, logs, main, why
from orchestrator.cli.coordinator_link import CoordinatorLink
from orchestrator.cli.ledger_access import ledger_path
from orchestrator.dispatch.api import DeviceView, JobStory
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.machine_log import LogFilter, LogPage, Places
from orchestrator.errors import NoCluster
from orchestrator.matrix import matrix_to_json
from tests.fakes.matrices import matrix_and_cells
from tests.unit.cli.conftest import Orchestrate
from tests.unit.results.made_attempts import DEVICE

ALPHA = replace(DEVICE, device_id="id-a", name="alpha")
STAMP = "2026-11-30T19:20:31.123Z INFO"
LINES = [f"{STAMP} run=run-1 job=j1 attempt=1 device=id-a Send", f"{STAMP} run=run-2 job=k1 attempt=1 device=id-b Send"]
STORY = JobStory("run-1", "j1", "embedded tiny:llama pp8 #1", "alpha", ("measured, in 2.0 s",), ("attempt 1: sent",))


class Elsewhere:
    """A coordinator on another host."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def runs(self) -> list[str]:
        return ["run-1"]

    def devices(self) -> list[DeviceView]:
        return [DeviceView(ALPHA, "free", None, 0.0)]

    def log(self, wanted: LogFilter, most_lines: int | None, after: Places | None) -> LogPage:
        self.asked.append((wanted, most_lines))
        return LogPage((f"coordinator: {LINES[0]}",), {"coordinator": (1, 1)})

    def why(self, run_id: str, job: str) -> JobStory:
        self.asked.append((run_id, job))
        return STORY


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    made = Elsewhere()

    @contextmanager
    def link(address: str | None, *, join_only: bool = False) -> Iterator[CoordinatorLink]:
        assert (address, join_only) == ("head:6379", True)
        yield CoordinatorLink(made, None)  # type: ignore[arg-type]

    monkeypatch.setattr(coordinator_link, "link_coordinator", link)
    monkeypatch.setattr(why, "link_coordinator", link)
    return made


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def link(address: str | None, *, join_only: bool = False) -> Iterator[CoordinatorLink]:
        raise NoCluster("none")
        yield

    monkeypatch.setattr(why, "link_coordinator", link)


@pytest.fixture
def home(tmp_path: Path, orchestrate: Orchestrate) -> Path:
    """With a run and a device in its ledger, and two lines in its log."""
    home = tmp_path / "home"
    matrix, (cell,) = matrix_and_cells("axes: {model: tiny:llama, workload: pp8}\n")
    with closing(Ledger(ledger_path(home))) as ledger:
        ledger.add("run-1", "one", matrix_to_json(matrix), [("j1", cell.cell_id, "id-a", 0)])
        ledger.record_devices([ALPHA])
    (home / "coordinator.log").write_text("\n".join([*LINES, ""]))
    return home


def test_all_lines_of_one_run_and_of_one_device(orchestrate: Orchestrate, home: Path) -> None:
    assert orchestrate("logs").out.splitlines() == [f"coordinator: {line}" for line in LINES]
    assert orchestrate("logs", "--lines", "1").out.splitlines() == [f"coordinator: {LINES[1]}"]
    for name in ("run-1", "latest", "alpha", "id-a"):
        assert orchestrate("logs", name).out.splitlines() == [f"coordinator: {LINES[0]}"]


def test_an_unknown_name_says_which_are_known(orchestrate: Orchestrate, home: Path) -> None:
    done = orchestrate("logs", "nope")
    assert done.code == 2
    assert "run-1" in done.err and "alpha" in done.err


def test_without_a_log_it_says_where_one_would_lie(orchestrate: Orchestrate, tmp_path: Path) -> None:
    done = orchestrate("logs")
    assert (done.code, done.out) == (0, "")
    assert str(tmp_path / "home" / "coordinator.log") in done.err and "--address HOST:6379" in done.err
    assert orchestrate("logs", "run-1").code == 2


def test_a_run_without_lines_is_said(orchestrate: Orchestrate, home: Path) -> None:
    (home / "coordinator.log").write_text(LINES[1] + "\n")
    done = orchestrate("logs", "run-1")
    assert (done.code, done.out, done.err) == (0, "", "the log holds no line on run-1\n")


def test_a_device_without_a_ledger_knows_runs_from_its_log_and_itself(orchestrate: Orchestrate, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "device"
    folder.mkdir(parents=True)
    (folder / "device-id").write_text("id-a")
    (folder / "device.yaml").write_text("name: alpha\n")
    (folder / "agent.log").write_text(f"{STAMP} AgentStarted\n{LINES[0]}\n")
    assert len(orchestrate("logs", "alpha").out.splitlines()) == 2
    assert orchestrate("logs", "run-1").out.splitlines() == [f"agent: {LINES[0]}"]


def test_follow_shows_what_is_written_over_a_rotation(
    orchestrate: Orchestrate, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "coordinator.log"
    new = [f"{STAMP} run=run-1 job=j1 attempt={attempt} device=id-a Send" for attempt in (2, 3)]

    def wait() -> None:
        if not new:
            raise KeyboardInterrupt
        path.rename(path.with_name(f"coordinator.log.{len(new)}"))
        path.write_text(new.pop(0) + "\n")

    monkeypatch.setattr(logs, "wait", wait)
    monkeypatch.setattr(sys, "argv", ["orchestrate", "logs", "run-1", "--follow"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("attempt=")[1].split()[0] for line in shown] == ["1", "2", "3"]


def test_a_coordinator_elsewhere_is_asked(orchestrate: Orchestrate, elsewhere: Elsewhere) -> None:
    done = orchestrate("logs", "alpha", "-n", "7", "--address", "head:6379")
    assert (done.code, done.out) == (0, f"coordinator: {LINES[0]}\n")
    assert elsewhere.asked == [(LogFilter(device_id="id-a"), 7)]


def test_why_asks_the_coordinator(orchestrate: Orchestrate, elsewhere: Elsewhere) -> None:
    done = orchestrate("show", "latest", "--why", "j", "--address", "head:6379")
    assert elsewhere.asked == [("run-1", "j")]
    assert done.out.splitlines() == [
        "job j1 of run run-1: embedded tiny:llama pp8 #1, on alpha",
        "  measured, in 2.0 s",
        "attempts:",
        "  attempt 1: sent",
        "log: none",
    ]
    as_json = orchestrate("show", "run-1", "--why", "j", "--json", "--address", "head:6379")
    assert json.loads(as_json.out)["now"] == ["measured, in 2.0 s"]


def test_why_reads_the_ledger_where_no_cluster_runs(orchestrate: Orchestrate, home: Path, no_cluster: None) -> None:
    done = orchestrate("show", "run-1", "--why", "j1")
    assert done.code == 0, done.err
    assert "no coordinator is at work: go on with: orchestrate resume run-1" in done.out
    assert f"coordinator: {LINES[0]}" in done.out
    unknown = orchestrate("show", "run-1", "--why", "x")
    assert unknown.code == 2
    assert "Allowed: a job's id or its beginning: j1" in unknown.err


@pytest.mark.parametrize("command", [("head",), ("join", "host"), ("submit", "m.yaml"), ("resume",)])
def test_a_bad_level_is_refused_with_what_is_allowed(orchestrate: Orchestrate, command: tuple[str, ...]) -> None:
    done = orchestrate(*command, "--log-level", "loud")
    assert done.code == 2
    assert "--log-level: 'loud' is no level of the log. Allowed: debug, info, warning, error, off" in done.err


def test_a_bad_level_of_the_environment_is_refused(orchestrate: Orchestrate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATE_LOG", "agent=loud")
    done = orchestrate("head")
    assert done.code == 2
    assert "ORCHESTRATE_LOG: 'agent=loud' is no level of the log. Allowed: " in done.err


def test_a_level_goes_to_what_the_command_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cluster.environment import cluster_environment
    from orchestrator.cluster.ray_command import NodeSettings, Role, node_environment

    monkeypatch.setenv("ORCHESTRATE_LOG", "agent=debug")
    settings = NodeSettings(Role.DEVICE, "head:6379", "10.0.0.2", "1")
    user = {"ORCHESTRATE_LOG": "agent=debug"}
    assert node_environment(settings, user, cluster_environment(), "n")["ORCHESTRATE_LOG"] == "agent=debug"
