"""The main job end to end: a matrix in, events and rows out, and nothing left running."""

from __future__ import annotations

from signal import SIGINT

import pytest

from tests.ray.matrices import ENDLESS, FAILING, FOUR_CELLS
from tests.ray.place import Command, Place


def assert_complete(place: Place, done: Command, cells: int = 4) -> None:
    assert done.code == 0, done.errors
    assert done.errors == ""
    names = [event["event"] for event in done.events() if event["event"] != "progress"]
    assert names == ["message", "begin", *["job_sent", "job_ended"] * cells, "end"]
    ended = done.events("job_ended")
    assert [event["cell_id"] for event in ended] == [event["cell_id"] for event in done.events("job_sent")]
    assert all(event["status"] == "measured" and event["decode_tps"] > 0 for event in ended)
    rows = place.rows(done.run_name)
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
    assert end["folder"] == str(place.home / "runs" / done.run_name)


def test_on_a_cluster_of_its_own(place: Place) -> None:
    done = place.run("submit", place.write(FOUR_CELLS), "--json")
    assert_complete(place, done)
    place.assert_nothing_runs()
    again = place.run("resume", "--json")
    assert again.code == 0
    assert [event["event"] for event in again.events()] == ["message", "end"], "a complete run starts no cluster"


def test_on_a_running_cluster(cluster: Place) -> None:
    before = frozenset(process.pid for process in cluster.processes())
    assert before, "the cluster runs"
    done = cluster.run("submit", cluster.write(FOUR_CELLS), "--json")
    assert_complete(cluster, done)
    cluster.assert_no_engine_runs()
    assert before <= {process.pid for process in cluster.processes()}, "the cluster is not ours to end"


def test_for_people(cluster: Place) -> None:
    done = cluster.run("submit", cluster.write(FOUR_CELLS))
    assert done.code == 0, done.errors
    assert done.errors == ""
    assert done.lines[1].startswith("run four-")
    assert done.lines[1].split(": ")[1].startswith("4 jobs on 1 device (")
    assert [line.split()[0] for line in done.lines[2:6]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert all("tok/s, first token" in line for line in done.lines[2:6])
    assert "decode_tps" in done.text
    assert any(line.startswith("complete; results: ") for line in done.lines)


def test_bad_cells_are_rows_with_their_cause_and_the_good_ones_are_measured(cluster: Place) -> None:
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


def test_a_device_is_busy_with_another_submit(cluster: Place) -> None:
    first = cluster.start("submit", cluster.write(ENDLESS), "--json")
    first.until(lambda command: bool(command.events("job_sent")))
    second = cluster.run("submit", cluster.write(FOUR_CELLS))
    assert second.code == 1
    assert "this device is busy with another coordinator's benchmark" in second.errors
    assert second.errors.startswith("error: node ")
    assert "Traceback" not in second.errors
    resumed = cluster.run("resume", first.run_name)
    assert resumed.code == 1
    assert resumed.errors == f"error: run {first.run_name}: another process is working on it\n"
    first.signal(SIGINT)
    assert first.code == 130


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("127.0.0.1:1", 1, "no Ray cluster answers at 127.0.0.1:1: "),
        ("nonsense", 2, "Ray cluster 'nonsense': "),
    ],
)
def test_no_cluster_at_the_address(place: Place, address: str, code: int, words: str) -> None:
    place.variables["RAY_ADDRESS"] = address
    done = place.run("submit", place.write(FOUR_CELLS))
    assert done.code == code
    assert done.errors.startswith(f"error: {words}")
    assert len(done.errors.splitlines()) == 1
    place.assert_nothing_runs()


def test_no_device_fits(cluster: Place) -> None:
    done = cluster.run("submit", cluster.write("devices: {min_ram: 900TiB}\n" + FOUR_CELLS))
    assert done.code == 2
    first, *reasons = done.errors.splitlines()
    assert first.endswith("m.yaml: no device can run any cell of this matrix:")
    assert "less than 900TiB" in reasons[0]
    assert not list((cluster.home / "runs").glob("nothing*"))
