"""One machine without a cluster: what a submit printed to do can be done, and `status` says what it waits for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from agents.contract.device import Device, MemoryKind, StateSource
from agents.device.inventory import boot_id, device_id_of
from agents.places import device_root
from orchestrator.cli.ledger_access import ledger_path
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.messages import RunStatus
from orchestrator.dispatch.runs import planned_run
from orchestrator.errors import NoCluster
from orchestrator.matrix import matrix_to_json
from orchestrator.plan.jobs import plan_jobs
from orchestrator.results.store import Store
from tests.fakes.matrices import matrix_and_cells
from tests.unit.cli.conftest import Orchestrate
from tests.unit.results.made_attempts import DEVICE

GIB = 2**30
SPLITS = (
    "axes: {model: tiny:llama, workload: pp8, context: [1K, 2K], dedicated_vram: [512MiB, 8GiB]}\nmeasure: {repeats: 1}"
)
TO_DO = "set dedicated VRAM of apu to 8 GiB and reboot"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def link_coordinator(address: str | None, *, join_only: bool = False, replace_idle: bool = False) -> None:
        raise NoCluster("no Ray cluster runs on this machine")

    monkeypatch.setattr("orchestrator.cli.fleet.link_coordinator", link_coordinator)
    return tmp_path / "home"


def machine(home: Path, **changes: object) -> Device:
    """This one, as the job process of a submit examined it; nothing on it shows its split."""
    facts = replace(
        DEVICE,
        device_id=device_id_of(device_root(home)),
        name="apu",
        boot_id=boot_id(Path("/")),
        memory_kind=MemoryKind.CARVE_OUT,
        dedicated_vram_bytes=GIB // 2,
        split_source=StateSource.STATED,
    )
    return replace(facts, **changes)  # type: ignore[arg-type]


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """As a submit leaves it that ended where its operator must act: what fits the present split is done."""
    device = machine(home)
    other = replace(device, device_id="other", name="strix-1")
    matrix, cells = matrix_and_cells(SPLITS)
    run = planned_run("splits-1", matrix, plan_jobs(matrix, cells, [device]))
    with closing(Ledger(ledger_path(home))) as made:
        rows = [(key, job.cell.cell_id, job.device_id, job.repeat) for key, job in run.jobs.items()]
        made.add("splits-1", "splits", matrix_to_json(matrix), rows)
        for key, job in run.jobs.items():
            if job.needed_state.dedicated_vram_bytes == GIB // 2:
                made.mark_sent(key, 1, device.device_id)
                made.mark_done(key, 1, None, 1.0)
        made.record_devices([other, device])
        yield made


class TestStatus:
    def test_a_run_waits_for_you(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        lines = orchestrate("status").out.splitlines()
        assert any(line.startswith("splits-1  waits for operator") for line in lines)
        assert lines[-2].startswith(f"waits for you: {TO_DO}; then say so, for it cannot be seen there: ")
        assert lines[-1] == "    (if that cannot be done: orchestrate skip apu --dedicated-vram 8GiB)"
        (run,) = json.loads(orchestrate("status", "--json").out)["runs"]
        assert run["operator"][0].startswith(TO_DO)

    def test_after_a_reboot_resume_looks_what_came_of_it(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        (device,) = [each for each in ledger.devices() if each.name == "apu"]
        ledger.record_devices([replace(device, boot_id="the boot before")])
        out = orchestrate("status").out
        assert "waits for you" not in out
        assert "go on with: orchestrate resume" in out

    def test_a_run_that_was_cancelled_waits_for_nobody(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        ledger.set_run("splits-1", RunStatus.CANCELLED)
        out = orchestrate("status").out
        assert "waits for you" not in out and "cancelled" in out


class TestState:
    def test_what_is_asked_for_is_stated(self, orchestrate: Orchestrate, home: Path, ledger: Ledger) -> None:
        ended = orchestrate("state", "apu", "--dedicated-vram", "8GiB")
        assert ended.code == 0, ended.err
        assert ended.out.endswith("; go on with: orchestrate resume\n")
        assert json.loads((device_root(home) / "stated.json").read_text()) == {"dedicated_vram_bytes": 8 * GIB}
        (device,) = [each for each in ledger.devices() if each.name == "apu"]
        assert (device.dedicated_vram_bytes, device.split_source) == (8 * GIB, StateSource.STATED)
        assert "waits for you" not in orchestrate("status").out

    def test_something_else_is_stated(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        ended = orchestrate("state", "apu", "--dedicated-vram", "4GiB")
        assert ended.code == 0, ended.err
        assert ended.out.splitlines()[-1].startswith(f"apu is asked for dedicated VRAM 8 GiB: {TO_DO}")

    def test_what_is_seen_counts_more(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        (device,) = [each for each in ledger.devices() if each.name == "apu"]
        ledger.record_devices([replace(device, split_source=StateSource.SEEN)])
        orchestrate("state", "apu", "--dedicated-vram", "8GiB")
        (device,) = [each for each in ledger.devices() if each.name == "apu"]
        assert device.dedicated_vram_bytes == GIB // 2

    def test_of_another_machine(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        ended = orchestrate("state", "strix-1", "--dedicated-vram", "8GiB")
        assert ended.code == 1
        assert ended.err.startswith("error: device strix-1: is not this machine, and no cluster runs here. ")

    def test_of_a_device_that_nobody_knows(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        ended = orchestrate("state", "nobody", "--dedicated-vram", "8GiB")
        assert (ended.code, ended.err) == (2, "error: device 'nobody': not known; known: apu, strix-1\n")

    def test_while_a_submit_is_at_work(self, orchestrate: Orchestrate, home: Path, ledger: Ledger) -> None:
        with FileLock(home / "coordinator.lock"):
            ended = orchestrate("state", "apu", "--dedicated-vram", "8GiB")
        assert ended.code == 1
        assert "a submit with a cluster of its own is at work" in ended.err
        assert not (device_root(home) / "stated.json").exists()

    def test_where_nothing_was_ever_submitted(self, orchestrate: Orchestrate, home: Path) -> None:
        ended = orchestrate("state", "apu", "--dedicated-vram", "8GiB")
        words = "error: no cluster runs on this machine, and nothing was ever submitted here\n"
        assert (ended.code, ended.err) == (1, words)


class TestSkip:
    def test_a_state(self, orchestrate: Orchestrate, home: Path, ledger: Ledger) -> None:
        ended = orchestrate("skip", "apu", "--dedicated-vram", "8GiB")
        assert (ended.code, ended.out, ended.err) == (0, "apu: 2 jobs skipped\n", "")
        assert ledger.run("splits-1").remaining == 0
        rows = Store(home).load("splits-1").to_pylist()
        assert [(row["status"], row["cause"]) for row in rows] == [("refused", "wrong_state")] * 2

    def test_a_device(self, orchestrate: Orchestrate, home: Path, ledger: Ledger) -> None:
        ended = orchestrate("skip", "apu")
        assert ended.out.startswith("apu: 2 jobs skipped; should it come back after all: ")
        rows = Store(home).load("splits-1").to_pylist()
        assert [(row["cause"], row["detail"]) for row in rows] == [("device_lost", "skipped by its operator")] * 2

    def test_a_state_that_nothing_waits_for(self, orchestrate: Orchestrate, ledger: Ledger) -> None:
        assert orchestrate("skip", "apu", "--power-limit", "80W").out == "apu: 0 jobs skipped\n"
        assert ledger.run("splits-1").remaining == 2
