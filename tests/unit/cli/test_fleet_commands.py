"""The commands on a fleet: with a cluster they ask its coordinator, without one they read this host's own ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agents.contract.device import EngineFound, Gpu, MemoryKind, StateSource
from agents.contract.job import MachineState
from agents.contract.report import CAUSES, Cause
from agents.device_file import TAKEN_BACK, Stated
from orchestrator.cli.coordinator_link import CoordinatorLink
from orchestrator.cli.fleet_tables import devices_table, status_table
from orchestrator.cli.ledger_access import ledger_path
from orchestrator.dispatch.api import AbsentDevice, DeviceView, RunView, StatusView
from orchestrator.dispatch.ledger.ledger import Ledger, RunRow
from orchestrator.dispatch.messages import RunStatus
from orchestrator.errors import NoCluster, OrchestrateError, UsageError
from tests.unit.cli.conftest import Orchestrate
from tests.unit.results.made_attempts import DEVICE

GIB = 2**30
ALPHA = replace(DEVICE, device_id="id-a", name="alpha")


def row(run: str = "run-1", status: RunStatus = RunStatus.RUNNING, *, done: int = 1, priority: int = 0) -> RunRow:
    return RunRow(run, run, 100.0, priority, status, 3, done, 1)


@dataclass
class Cluster:
    """A coordinator as the commands call it; writes down what it is asked to do."""

    rows: tuple[RunRow, ...] = (row("run-2"), row("run-1", RunStatus.PAUSED))
    page: StatusView | None = None
    views: list[DeviceView] = field(default_factory=list)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    again: int = 2
    asked_for: str = ""
    raises: OrchestrateError | None = None

    def runs(self) -> list[str]:
        return [each.id for each in self.rows]

    def status(self) -> StatusView:
        return self.page or StatusView(tuple(RunView(each, (), ()) for each in self.rows), (), (), 0)

    def devices(self) -> list[DeviceView]:
        return self.views

    def version(self) -> str:
        return "9.9"

    def set_run(self, run_id: str, status: RunStatus, priority: int | None = None) -> None:
        self._do("set_run", run_id, status, priority)

    def retry(self, run_id: str, causes: list[str]) -> int:
        self._do("retry", run_id, causes)
        return self.again

    def state(self, name: str, stated: Stated) -> str:
        self._do("state", name, stated)
        return self.asked_for

    def skip(self, name: str, state: MachineState) -> int:
        self._do("skip", name, state)
        return self.again

    def _do(self, *what: Any) -> None:
        if self.raises is not None:
            raise self.raises
        self.asked.append(what)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()

    @contextmanager
    def link_coordinator(
        address: str | None, *, join_only: bool = False, replace_idle: bool = False
    ) -> Iterator[CoordinatorLink]:
        assert join_only, "none of these commands starts a cluster"
        made.asked.append(("joined", address)) if address else None
        yield CoordinatorLink(made, None)  # type: ignore[arg-type]

    monkeypatch.setattr("orchestrator.cli.fleet.link_coordinator", link_coordinator)
    return made


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def link_coordinator(address: str | None, *, join_only: bool = False, replace_idle: bool = False) -> None:
        raise NoCluster("no Ray cluster runs on this machine")

    monkeypatch.setattr("orchestrator.cli.fleet.link_coordinator", link_coordinator)


@pytest.fixture
def ledger(tmp_path: Path, no_cluster: None) -> Iterator[Ledger]:
    """Of this host: an older run that is done, a newer one in the middle."""
    with closing(Ledger(ledger_path(tmp_path / "home"))) as made:
        made.add("old-1", "old", "{}", [("j1", "c", "id-a", 0)], created_unix_s=1.0)
        made.add("new-1", "new", "{}", [("k1", "c", "id-a", 0), ("k2", "c", "id-a", 1)], created_unix_s=2.0)
        made.mark_done("j1", 1, None, 1.0)
        made.mark_done("k1", 1, Cause.RAM, 1.0)
        made.record_devices([ALPHA], "10.0.0.5")
        yield made


class TestWithoutACluster:
    def test_status(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        ended = orchestrate("status")
        assert ended.code == 0
        assert ended.out.splitlines() == [
            "trouble: no cluster runs on this machine: nothing goes on by itself; go on with: orchestrate resume RUN",
            "Runs",
            "",
            "run    state    priority  jobs  done  failed  remaining  at work",
            "-----  -------  --------  ----  ----  ------  ---------  -------",
            "new-1  running         0     2     1       1          1        -",
            "old-1  done            0     1     1       0          0        -",
        ]

    def test_status_for_scripts(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        told = json.loads(orchestrate("status", "--json").out)
        assert [(each["id"], each["doing"], each["left"], each["busy"]) for each in told["runs"]] == [
            ("new-1", "running", 1, []),
            ("old-1", "running", 0, []),
        ]
        assert (told["devices"], len(told["troubles"])) == (0, 1)

    def test_devices(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        out = orchestrate("devices").out
        assert "alpha" in out and "away" in out and "10.0.0.5" in out
        (told,) = json.loads(orchestrate("devices", "--json").out)
        assert (told["device"]["device_id"], told["doing"], told["address"]) == ("id-a", "away", "10.0.0.5")
        assert told["device"]["labels"] == {"room": "3"}

    def test_where_nothing_ever_ran(self, orchestrate: Orchestrate, tmp_path: Path, no_cluster: None) -> None:
        assert orchestrate("status").out.endswith("\nNo runs.\n")
        assert orchestrate("devices").out.endswith("\nNo devices.\n")
        assert json.loads(orchestrate("devices", "--json").out) == []
        ended = orchestrate("pause")
        assert (ended.code, ended.out) == (2, "")
        assert "there is no run yet under" in ended.err
        assert not ledger_path(tmp_path / "home").exists(), "reading makes no ledger"

    @pytest.mark.parametrize(("command", "status"), [("pause", RunStatus.PAUSED), ("cancel", RunStatus.CANCELLED)])
    @pytest.mark.parametrize("name", ["latest", "new", "new-1"])
    def test_a_run_is_paused_or_cancelled(
        self, orchestrate: Orchestrate, ledger: Ledger, command: str, status: RunStatus, name: str
    ) -> None:
        """The next coordinator of this ledger finds it so."""
        ended = orchestrate(command, name)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == f"run new-1: {status}; go on with: orchestrate resume new-1\n"
        assert [each.status for each in ledger.runs()] == [status, RunStatus.RUNNING]

    def test_a_run_that_is_done_stays_so(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        orchestrate("pause", "old-1")
        assert ledger.run("old-1").status is RunStatus.RUNNING

    def test_an_unknown_run(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        ended = orchestrate("cancel", "nev-1")
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == "error: run 'nev-1': not found; did you mean 'new-1'? runs: new-1, old-1\n"

    @pytest.mark.parametrize(
        "command",
        [
            ["priority", "new-1", "3"],
            ["retry"],
            ["wake"],
        ],
    )
    def test_what_only_a_coordinator_can_do(self, orchestrate: Orchestrate, ledger: Ledger, command: list[str]) -> None:
        ended = orchestrate(*command)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err == "error: no Ray cluster runs on this machine\n"


class TestWithACluster:
    @pytest.mark.parametrize(("command", "status"), [("pause", RunStatus.PAUSED), ("cancel", RunStatus.CANCELLED)])
    def test_a_run_is_paused_or_cancelled(
        self, orchestrate: Orchestrate, cluster: Cluster, command: str, status: RunStatus
    ) -> None:
        ended = orchestrate(command)
        assert ended.out == f"run run-2: {status}; go on with: orchestrate resume run-2\n"
        assert cluster.asked == [("set_run", "run-2", status, None)]

    def test_another_priority_leaves_the_rest_as_it_is(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        assert orchestrate("priority", "run-1", "7").out == "run run-1: priority 7\n"
        assert cluster.asked == [("set_run", "run-1", RunStatus.PAUSED, 7)]

    def test_a_run_may_come_after_all_others(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        assert orchestrate("priority", "run-1", "-3").out == "run run-1: priority -3\n"
        assert cluster.asked == [("set_run", "run-1", RunStatus.PAUSED, -3)]
        assert orchestrate("priority", "run-1", "7", "--adress", "x").code == 2, "what is no number is no option either"

    def test_the_cluster_that_is_named(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        orchestrate("pause", "run-1", "--address", "head:6379")
        assert cluster.asked[0] == ("joined", "head:6379")

    def test_what_may_have_passed_is_tried_again(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        ended = orchestrate("retry")
        assert ended.out == "run run-2: 2 jobs again; see it with: orchestrate watch run-2\n"
        assert cluster.asked == [("retry", "run-2", [str(each) for each in Cause if CAUSES[each].retried_on_request])]
        assert not CAUSES[Cause.CANCELLED].retried_on_request and CAUSES[Cause.DISK_FULL].retried_on_request
        assert not CAUSES[Cause.ENGINE_CRASHED].retried_on_request

    def test_only_what_failed_so(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        cluster.again = 0
        ended = orchestrate("retry", "run-1", "--cause", "vram", "--cause", "ram")
        assert ended.out == "run run-1: 0 jobs again\n"
        assert cluster.asked == [("retry", "run-1", ["vram", "ram"])]

    def test_a_state_is_stated(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        ended = orchestrate("state", "alpha", "--dedicated-vram", "32GiB", "--power-limit", "55W")
        assert (ended.code, ended.out) == (0, "alpha: noted; what was seen on the machine itself counts more\n")
        orchestrate("state", "alpha", "--power-limit", "7.5")
        orchestrate("state", "alpha", "--power-limit", "none")
        assert cluster.asked == [
            ("state", "alpha", Stated(32 * GIB, 55.0)),
            ("state", "alpha", Stated(None, 7.5)),
            ("state", "alpha", Stated(None, TAKEN_BACK)),
        ]
        assert orchestrate("skip", "alpha", "--power-limit", "none").code == 2

    def test_what_is_asked_is_not_what_was_stated(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        cluster.asked_for = "alpha is asked for dedicated VRAM 8 GiB: set it"
        ended = orchestrate("state", "alpha", "--dedicated-vram", "32GiB")
        assert (ended.code, ended.out.splitlines()[-1]) == (0, cluster.asked_for)

    def test_a_state_is_skipped(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        cluster.again = 1
        assert orchestrate("skip", "alpha", "--dedicated-vram", "48GiB").out == "alpha: 1 job skipped\n"
        assert cluster.asked == [("skip", "alpha", MachineState(48 * GIB, None))]

    def test_a_coordinator_that_wakes(self, orchestrate: Orchestrate, cluster: Cluster, tmp_path: Path) -> None:
        out = orchestrate("wake").out
        assert out == f"the coordinator (version 9.9) is at work; results: {tmp_path / 'home'}\n"

    @pytest.mark.parametrize(
        ("error", "code"), [(UsageError("device 'z': not known"), 2), (OrchestrateError("it is not there now"), 1)]
    )
    def test_what_the_coordinator_says_no_to(
        self, orchestrate: Orchestrate, cluster: Cluster, error: OrchestrateError, code: int
    ) -> None:
        cluster.raises = error
        ended = orchestrate("skip", "z", "--power-limit", "55W")
        assert (ended.code, ended.out, ended.err) == (code, "", f"error: {error}\n")

    def test_what_operators_have_to_do(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        cluster.page = StatusView(
            (RunView(row("run-2"), (), ("set b",)), RunView(row("run-1"), ("alpha",), ("set a",))),
            ("the disk is full",),
            ("skip b", "skip a"),
            2,
        )
        lines = orchestrate("status").out.splitlines()
        assert lines[0] == "trouble: the disk is full"
        assert lines[-4:] == [
            "waits for you: set b",
            "    (if that cannot be done: skip b)",
            "waits for you: set a",
            "    (if that cannot be done: skip a)",
        ]
        told = json.loads(orchestrate("status", "--json").out)
        assert [each["operator"] for each in told["runs"]] == [["set b"], ["set a"]]
        assert told["devices"] == 2

    def test_devices_that_are_away(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        away = (AbsentDevice("beta", 14, time.time() - 7500), AbsentDevice("gamma", 1, time.time()))
        cluster.page = StatusView((RunView(row("run-1"), (), ()),), (), (), 0, away)
        assert orchestrate("status").out.splitlines()[-4:] == [
            "away for 2 h 05 min: beta; 14 jobs wait for it. Switch it on and have it join: orchestrate join",
            "    (if it does not come back: orchestrate skip beta)",
            "away for 0 s: gamma; 1 job waits for it. Switch it on and have it join: orchestrate join",
            "    (if it does not come back: orchestrate skip gamma)",
        ]
        absent = json.loads(orchestrate("status", "--json").out)["absent"]
        assert [(each["device"], each["jobs"]) for each in absent] == [("beta", 14), ("gamma", 1)]

    def test_a_device_that_does_not_come_back_is_skipped(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        cluster.again = 2
        assert orchestrate("skip", "alpha").out.startswith("alpha: 2 jobs skipped; should it come back after all: ")
        assert cluster.asked == [("skip", "alpha", MachineState())]

    def test_hosts_that_are_no_devices(self, orchestrate: Orchestrate, cluster: Cluster) -> None:
        cluster.views = [DeviceView(ALPHA, "free", "10.0.0.5", time.time()), DeviceView(None, "no disk", "node", 1.0)]
        assert orchestrate("devices").out.endswith("\nrefused: no disk\n")
        alpha, node = json.loads(orchestrate("devices", "--json").out)
        assert (alpha["doing"], node["device"], node["doing"]) == ("free", None, "no disk")


SIZES = "Allowed: a size with its unit such as 512MiB, 32GiB, 512M, 32G (powers of 1,024) or 16GB (power of 1,000)"
WATTS = "Allowed: watts above 0 such as 80W or 7.5W"


@pytest.mark.parametrize("command", ["state", "skip"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dedicated-vram", "32"], f'"32" is not allowed here. {SIZES}'),
        (["--dedicated-vram", "much"], f'"much" is not allowed here. {SIZES}'),
        (["--dedicated-vram", "-1GiB"], f'"-1GiB" is not allowed here. {SIZES}'),
        (["--power-limit", "80V"], f'"80V" is not allowed here. {WATTS}'),
        (["--power-limit", "0W"], f'"0W" is not allowed here. {WATTS}'),
        (["--power-limit", ""], f'"" is not allowed here. {WATTS}'),
        (["--dedicated-vram", "32GiB", "--power-limit", "x"], f'"x" is not allowed here. {WATTS}'),
    ],
)
def test_sizes_and_watts_that_cannot_be_read(
    orchestrate: Orchestrate, cluster: Cluster, command: str, options: list[str], words: str
) -> None:
    ended = orchestrate(command, "alpha", *options)
    assert (ended.code, ended.out, ended.err) == (2, "", f"error: {words}\n")
    assert cluster.asked == [], "nothing is asked of the cluster"


@pytest.mark.parametrize("cause", ["engine lost", "RAM", ""])
def test_a_cause_that_is_none(orchestrate: Orchestrate, cluster: Cluster, cause: str) -> None:
    ended = orchestrate("retry", "run-1", "--cause", "ram", "--cause", cause)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: --cause {cause!r}: allowed: unsupported, no_device, wrong_state, ")
    assert cluster.asked == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["priority", "run-1"], "NUMBER"), (["priority", "run-1", "high"], "NUMBER"), (["skip"], "DEVICE")],
)
def test_a_bad_command_line(orchestrate: Orchestrate, arguments: list[str], words: str) -> None:
    ended = orchestrate(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


class TestGrids:
    @pytest.mark.parametrize(
        ("view", "texts"),
        [
            (RunView(row(), (), ()), ("run-1", "running", "0", "3", "1", "1", "2", "-")),
            (RunView(row(priority=-2), ("a", "b"), ()), ("run-1", "running", "-2", "3", "1", "1", "2", "a, b")),
            (
                RunView(row(), ("a", "b", "c", "d", "e"), ()),
                (*("run-1", "running", "0", "3", "1", "1", "2"), "a, b, c and 2 more"),
            ),
            (RunView(row(), (), ("set it",)), ("run-1", "waits for operator", "0", "3", "1", "1", "2", "-")),
            (RunView(row(), ("a",), ("set it",)), ("run-1", "running", "0", "3", "1", "1", "2", "a")),
            (RunView(row(status=RunStatus.PAUSED), (), ()), ("run-1", "paused", "0", "3", "1", "1", "2", "-")),
            (RunView(row(status=RunStatus.CANCELLED, done=3), (), ()), ("run-1", "done", "0", "3", "3", "1", "0", "-")),
        ],
    )
    def test_a_run(self, view: RunView, texts: tuple[str, ...]) -> None:
        table = status_table(StatusView((view,), (), (), 1))
        assert tuple(cell.text for cell in table.rows[0]) == texts
        assert table.notes == ()

    def test_no_runs_and_no_devices(self) -> None:
        assert status_table(StatusView((), (), (), 0)).notes == ("No runs.",)
        assert devices_table([], 0.0).notes == ("No devices.",)

    @pytest.mark.parametrize(
        ("changes", "column", "text"),
        [
            ({"memory_kind": MemoryKind.CARVE_OUT}, "memory", "carve-out"),
            ({"ram_bytes": 96 * GIB}, "RAM", "96 GiB"),
            ({"dedicated_vram_bytes": None}, "VRAM", "-"),
            ({"dedicated_vram_bytes": 512 * 2**20, "split_source": StateSource.SEEN}, "VRAM", "512 MiB"),
            ({"dedicated_vram_bytes": 32 * GIB, "split_source": StateSource.STATED}, "VRAM", "32 GiB (stated)"),
            ({"power_limit_w": 55.0, "power_source": StateSource.STATED}, "power", "55 W (stated)"),
            ({"power_limit_w": 7.5, "power_source": StateSource.SEEN}, "power", "7.5 W (seen)"),
            ({"power_methods": ("a", "b")}, "power", "set by a, b"),
            ({}, "power", "-"),
            ({"gpus": ()}, "GPU", "-"),
            ({"gpus": (Gpu("one", "amd"), Gpu("two", "amd"))}, "GPU", "one, two"),
            ({"engines": ()}, "engines", "-"),
            ({"engines": (EngineFound("ollama", "0.9", (), "here"),)}, "engines", "ollama 0.9"),
        ],
    )
    def test_a_device(self, changes: dict[str, Any], column: str, text: str) -> None:
        table = devices_table([DeviceView(replace(ALPHA, **changes), "free", None, 0.0)], 0.0)
        assert table.rows[0][table.headers.index(column)].text == text

    @pytest.mark.parametrize(("away_s", "text"), [(0.0, "now"), (4.0, "now"), (65.0, "1 min 05 s ago")])
    def test_when_it_was_seen(self, away_s: float, text: str) -> None:
        table = devices_table([DeviceView(ALPHA, "away", None, 1000.0)], 1000.0 + away_s)
        assert table.rows[0][table.headers.index("seen")].text == text
        assert all(cell.failed for cell in table.rows[0]), "one that is away stands out"


def test_a_state_that_is_not_named(orchestrate: Orchestrate, cluster: Cluster) -> None:
    ended = orchestrate("state", "alpha")
    words = "error: nothing is said. Allowed: --dedicated-vram SIZE, --power-limit WATTS, or both\n"
    assert (ended.code, ended.out, ended.err) == (2, "", words)
