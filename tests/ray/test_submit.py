"""The main job end to end: a matrix in, events and rows out, and nothing left running."""

from __future__ import annotations

import json
from signal import SIGINT

import pytest

from tests.ray.matrices import ENDLESS, FAILING, FOUR_CELLS
from tests.ray.sandbox import Command, Sandbox


def assert_complete(sandbox: Sandbox, done: Command, cells: int = 4) -> None:
    assert done.code == 0, done.errors
    assert done.errors == ""
    names = [event["event"] for event in done.events() if event["event"] not in ("progress", "message")]
    assert names == ["begin", *["job_sent", "job_ended"] * cells, "end"]
    ended = done.events("job_ended")
    assert [event["cell_id"] for event in ended] == [event["cell_id"] for event in done.events("job_sent")]
    assert all(event["status"] == "measured" and event["decode_tps"] > 0 for event in ended)
    rows = sandbox.rows(done.run_name)
    assert [row["cell_id"] for row in rows] == [event["cell_id"] for event in ended]
    assert {row["status"] for row in rows} == {"ok"}
    assert {(row["context_tokens"], row["kv_type_k"]) for row in rows} == {
        (512, "f16"),
        (512, "q8_0"),
        (1024, "f16"),
        (1024, "q8_0"),
    }
    (end,) = done.events("end")
    assert end["complete"] is True
    assert end["folder"] == str(sandbox.home / "runs" / done.run_name)


def assert_the_log_holds_the_story(sandbox: Sandbox, done: Command) -> None:
    """Of one job: each of the two processes in its own file, and together by ``logs`` and ``show --why``."""
    job_id = done.events("job_sent")[0]["job_id"]
    ids = f" run={done.run_name} job={job_id} attempt=1 device="
    for name, words in (
        ("coordinator.log", ["Send", "AttemptEnded kind=measured", "Keep kind=measured"]),
        ("device/agent.log", ["JobStarted", "LoadStarted", "Loaded", "AttemptEnded kind=measured"]),
    ):
        lines = [line for line in (sandbox.home / name).read_text().splitlines() if ids in line]
        assert len(lines) == len(words)
        assert all(f" {each}" in line for each, line in zip(words, lines, strict=True))
    assert sandbox.run("logs", done.run_name).text.count(f" job={job_id} ") == 7
    why = sandbox.run("show", done.run_name, "--why", job_id[:8]).text
    assert "measured, in " in why and "attempt 1: sent " in why and why.count(f" job={job_id} ") == 7


def test_on_a_cluster_of_its_own(sandbox: Sandbox) -> None:
    done = sandbox.run("submit", sandbox.write(FOUR_CELLS), "--json")
    assert_complete(sandbox, done)
    assert_the_log_holds_the_story(sandbox, done)
    sandbox.assert_nothing_runs()
    again = sandbox.run("resume", "--json")
    assert again.code == 0
    assert [event["event"] for event in again.events()] == ["message", "end"], "a complete run starts no cluster"


def test_on_a_running_cluster(cluster: Sandbox) -> None:
    before = frozenset(process.pid for process in cluster.processes())
    assert before, "the cluster runs"
    done = cluster.run("submit", cluster.write(FOUR_CELLS), "--json")
    assert_complete(cluster, done)
    cluster.assert_no_engine_runs()
    assert before <= {process.pid for process in cluster.processes()}, "the cluster is not ours to end"


def test_for_people(cluster: Sandbox) -> None:
    done = cluster.run("submit", cluster.write(FOUR_CELLS))
    assert done.code == 0, done.errors
    assert done.errors == ""
    assert done.lines[1].startswith("run four-")
    assert done.lines[1].split(": ")[1].startswith("4 jobs on 1 device (")
    assert [line.split()[0] for line in done.lines[2:6]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert all("tok/s, first token" in line for line in done.lines[2:6])
    assert "decode_tps" in done.text
    assert any(line.startswith("complete; results: ") for line in done.lines)


def test_bad_cells_are_rows_with_their_cause_and_the_good_ones_are_measured(cluster: Sandbox) -> None:
    made = cluster.run("submit", cluster.write(FOUR_CELLS), "--json")
    assert made.code == 0, made.errors
    whole = next((cluster.home / "device" / "models").rglob("*.gguf")).read_bytes()
    (cluster.folder / "truncated.gguf").write_bytes(whole[: len(whole) // 2])
    (cluster.folder / "text.gguf").write_text("this is no model\n" * 100)
    done = cluster.run("submit", cluster.write(FAILING), "--json")
    assert done.code == 0, done.errors
    assert done.events("end")[0]["complete"] is True
    rows = cluster.rows(done.run_name)
    assert {(row["model"], row["context_tokens"]): (row["status"], row["cause"]) for row in rows} == {
        ("missing", 512): ("failed", "model_file_missing"),
        ("truncated", 512): ("failed", "model_file_invalid"),
        ("text", 512): ("failed", "model_file_invalid"),
        ("tiny:llama", 512): ("ok", None),
        ("tiny:llama", 1_000_000_000): ("failed", "ram"),
        ("tiny:qwen3moe", 512): ("ok", None),
    }
    failures = done.events("end")[0]["failures"]
    assert len(failures) == 4
    assert all(row["detail"] for row in rows if row["status"] != "ok")
    assert "Traceback" not in done.text + done.errors


def test_several_runs_share_a_device_by_priority_then_age(cluster: Sandbox) -> None:
    first = cluster.start("submit", cluster.write(ENDLESS), "--json")
    first.until(lambda command: bool(command.events("job_sent")))
    later = cluster.start("submit", cluster.write(FOUR_CELLS), "--json")
    later.until(lambda command: bool(command.events("begin")))
    urgent = cluster.run("submit", cluster.write(FOUR_CELLS), "--json", "--priority", "5")
    assert urgent.code == 0, urgent.errors
    assert urgent.events("end")[0]["complete"] is True
    assert not later.events("job_sent"), "as urgent as the first, and younger"
    assert cluster.run("priority", later.run_name, "1").code == 0
    assert later.code == 0, later.errors
    assert cluster.run("cancel", first.run_name).code == 0
    assert first.code == 1
    cluster.assert_no_engine_runs()


def test_two_clusters_of_their_own_do_not_share_a_ledger(sandbox: Sandbox) -> None:
    first = sandbox.start("submit", sandbox.write(ENDLESS), "--json")
    first.until(lambda command: bool(command.events("job_sent")))
    second = sandbox.run("submit", sandbox.write(FOUR_CELLS))
    assert second.code == 1
    assert second.errors.startswith(f"error: another coordinator works on {sandbox.home}")
    first.signal(SIGINT)
    assert first.code == 130
    sandbox.assert_nothing_runs()


def test_detached_and_the_pages_of_a_fleet(cluster: Sandbox) -> None:
    detached = cluster.run("submit", cluster.write(FOUR_CELLS), "--detach", "--json")
    assert detached.code == 0, detached.errors
    watched = cluster.run("watch", detached.run_name, "--json")
    assert watched.code == 0, watched.errors
    (run, *_) = json.loads(cluster.run("status", "--json").text)["runs"]
    assert (run["id"], run["jobs"], run["done"], run["left"], run["failed"]) == (detached.run_name, 4, 4, 0, 0)
    (device,) = json.loads(cluster.run("devices", "--json").text)
    assert device["doing"] == "free"
    assert device["device"]["engines"][0]["name"] == "embedded"
    assert "Runs" in cluster.run("status").text
    assert "free" in cluster.run("devices").text


def test_a_split_that_is_stated(sandbox: Sandbox) -> None:
    """The machine shows none, so the operator says it. In a cluster of its own a run ends where one must act."""
    folder = sandbox.home / "device"
    folder.mkdir(parents=True)
    (folder / "device.yaml").write_text("name: apu\nmemory: carve-out\ndedicated_vram: 512MiB\n")
    axes = "axes: {context: [512], dedicated_vram: [512MiB, 32GiB]}"
    first = sandbox.run(
        "submit", sandbox.write(FOUR_CELLS.replace("axes: {context: [512, 1K], kv_type: [f16, q8_0]}", axes))
    )
    assert first.code == 1, first.text
    assert "to do: set dedicated VRAM of apu to 32 GiB and reboot" in first.text
    assert "1 of 2 jobs left" in first.lines[-1]
    (folder / "device.yaml").write_text("name: apu\nmemory: carve-out\ndedicated_vram: 32GiB\n")
    resumed = sandbox.run("resume", "--json")
    assert resumed.code == 0, resumed.errors
    rows = sandbox.rows(resumed.run_name)
    assert {
        (row["dedicated_vram_bytes"], row["dedicated_vram_seen_bytes"], row["dedicated_vram_source"]) for row in rows
    } == {
        (2**29, 2**29, "stated"),
        (2**35, 2**35, "stated"),
    }
    sandbox.assert_nothing_runs()


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("127.0.0.1:1", 1, "no Ray cluster answers at 127.0.0.1:1: "),
        ("nonsense", 2, "Ray cluster 'nonsense': "),
    ],
)
def test_no_cluster_at_the_address(sandbox: Sandbox, address: str, code: int, words: str) -> None:
    sandbox.variables["RAY_ADDRESS"] = address
    done = sandbox.run("submit", sandbox.write(FOUR_CELLS))
    assert done.code == code
    assert done.errors.startswith(f"error: {words}")
    assert len(done.errors.splitlines()) == 1
    sandbox.assert_nothing_runs()


def test_no_device_fits(cluster: Sandbox) -> None:
    done = cluster.run("submit", cluster.write("devices: {min_ram: 900TiB}\n" + FOUR_CELLS))
    assert done.code == 2
    first, *reasons = done.errors.splitlines()
    assert first.endswith("m.yaml: no device can run any cell of this matrix:")
    assert "less than 900 TiB" in reasons[0]
    assert not list((cluster.home / "runs").glob("nothing*"))
