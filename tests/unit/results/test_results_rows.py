from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agents.contract.device import StateSource
from agents.contract.job import Chat, MachineState, ModelSource
from agents.contract.measure import Flag
from agents.contract.rates import iteration_rate, seconds_per_image
from agents.contract.report import MachineSeen, Measured, Outcome
from orchestrator.results import schema
from orchestrator.results.flat import flatten
from orchestrator.results.rows import devices_of, rows_of
from tests.unit.results.made_attempts import (
    CHAT,
    DEVICE,
    FAILED,
    IMAGED,
    LOADED,
    MEASURED,
    REFUSED,
    WORKFLOW,
    image_trial,
    job,
    report,
    trial,
)


def test_a_measured_job_is_a_row_a_trial_with_all_that_was_asked_and_found() -> None:
    table = rows_of(job(), report(job()), DEVICE, "0.1")
    assert table.schema.equals(schema.attempt_schema(), check_metadata=True)
    warm, row = flatten(table, "trials").to_pylist()
    assert (warm["warmup"], row["warmup"], warm["trial"], row["trial"]) == (True, False, 0, 1)
    expected = {
        "run": "run-1",
        "job_id": "a1",
        "attempt": 1,
        "status": "ok",
        "cause": None,
        "origin": "measured",
        "device": "laptop",
        "fingerprint": "f00d",
        "orchestrate_version": "0.1",
        "started_at": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        "workload": "pp16tg4",
        "prompt_tokens_asked": 16,
        "max_tokens": 4,
        "depth": 8,
        "stop": "exact",
        "seed": 7,
        "runtime": "cpu",
        "context_tokens": 4096,
        "dedicated_vram_bytes": 2**29,
        "load_s": 1.5,
        "engine_version": "b1234",
        "settings": [("-c", "4096"), ("-fa", "on")],
        "ttft_s": 0.5,
        "prompt_tps": 64.0,
        "stop_reason": "length",
        "flags": [],
        "engine_decode_tps": 10.1,
        "duration_s": 1.0,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["decode_tps"] == pytest.approx(10.0)
    assert row["sent_at"] == datetime(2023, 11, 14, 22, 13, 21, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("outcome", "statuses", "cause", "log_tail"),
    [
        (REFUSED, ["refused"], "wrong_state", None),
        (FAILED, ["ok", "failed"], "engine_crashed", "killed\n"),
        (replace(FAILED, trials=(), loaded=None), ["failed"], "engine_crashed", "killed\n"),
        (Measured(LOADED, ()), ["failed"], "stopped_early", None),
    ],
)
def test_an_attempt_without_a_figure_is_a_row_too(
    outcome: Outcome, statuses: list[str], cause: str, log_tail: str | None
) -> None:
    rows = rows_of(job(), report(job(), outcome), None).to_pylist()
    assert [row["status"] for row in rows] == statuses
    last = rows[-1]
    assert (last["cause"], last["log_tail"], last["trial"], last["warmup"]) == (cause, log_tail, None, False)
    assert last["detail"] and last["model"] == "tiny:llama"


@pytest.mark.parametrize("outcome", [MEASURED, FAILED, REFUSED])
def test_each_row_tells_the_state_that_was_asked_for_and_the_one_that_was_and_who_says_so(outcome: Outcome) -> None:
    asked = job(state=MachineState(2**35, 80.0))
    seen = MachineSeen(2**35 - 2**20, StateSource.SEEN, 79.8, StateSource.HELD)
    for row in rows_of(asked, report(asked, outcome, machine=seen), DEVICE).to_pylist():
        assert (row["dedicated_vram_bytes"], row["power_limit_w"]) == (2**35, 80.0)
        assert (row["dedicated_vram_seen_bytes"], row["dedicated_vram_source"]) == (2**35 - 2**20, "seen")
        assert (row["power_limit_seen_w"], row["power_limit_source"]) == (79.8, "held")


def test_a_state_that_nothing_tells_is_null() -> None:
    (_, row) = rows_of(job(), report(job()), DEVICE).to_pylist()
    names = ("dedicated_vram_seen_bytes", "dedicated_vram_source", "power_limit_seen_w", "power_limit_source")
    assert [row[name] for name in names] == [None] * 4


def test_tokens_and_readings_are_flat_tables() -> None:
    table = rows_of(job(), report(job(), FAILED), DEVICE)
    tokens = flatten(table, "tokens")
    assert tokens.schema.equals(schema.schema("tokens"))
    assert tokens.column("event").to_pylist() == [0, 1, 2, 3]
    assert tokens.column("at_s").to_pylist() == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert tokens.column("reasoning").to_pylist() == [True, False, False, False]
    assert set(tokens.column("warmup").to_pylist()) == {True}
    readings = flatten(table, "readings").to_pylist()
    assert [(row["at_s"], row["value"], row["device_id"]) for row in readings] == [
        (0.0, 12.5, "device-1"),
        (1.0, None, "device-1"),
    ]


def test_a_slice_of_the_rows_keeps_its_own_tokens() -> None:
    table = rows_of(job(), report(job(), Measured(LOADED, (trial(0, tokens=2), trial(1, tokens=3)))), None).slice(1)
    tokens = flatten(table, "tokens")
    assert tokens.column("trial").to_pylist() == [1, 1, 1]
    assert tokens.column("event").to_pylist() == [0, 1, 2]


def test_a_chat_tells_its_image_and_equal_prompts_by_their_hash() -> None:
    def row_of(chat: Chat) -> dict[str, object]:
        return rows_of(job(workload=chat), report(job()), None).to_pylist()[1]

    row = row_of(CHAT)
    assert (row["workload_kind"], row["image"], row["image_width_px"], row["stop"]) == (
        "chat",
        "shot.png",
        1486,
        "natural",
    )
    moved = replace(CHAT, system="Be brief.W", prompt="rite a page.")
    assert row_of(CHAT)["prompt_sha256"] == row["prompt_sha256"] != row_of(moved)["prompt_sha256"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (ModelSource(), None),
        (ModelSource(path="/models/a.gguf"), "path:/models/a.gguf"),
        (ModelSource(hf_repo="o/r", hf_revision="main", hf_file="*Q4*"), "hf:o/r@main/*Q4*"),
        (ModelSource(tiny="llama"), "tiny:llama"),
        (ModelSource(url="https://annie:pa55@host/a/m.gguf?token=s3cr3t"), "url:https://host/a/m.gguf?..."),
    ],
)
def test_where_a_model_came_from(source: ModelSource, said: str | None) -> None:
    asked = job(load=replace(job().load, source=source))
    assert rows_of(asked, report(asked), None).column("model_source").to_pylist() == [said, said]


def test_a_run_of_a_workflow_is_a_row_with_its_figures_and_its_steps() -> None:
    asked = job(workload=WORKFLOW)
    (row,) = rows_of(asked, report(asked, IMAGED), DEVICE).to_pylist()
    wanted = {
        "workload_kind": "workflow",
        "images_asked": 2,
        "steps_asked": 4,
        "batch_asked": 2,
        "image_width_px": 512,
        "image_height_px": None,
        "seed": 7,
        "images": 2,
        "iterations": 4,
        "seconds_per_image": 1.5,
        "iteration_rate": 2.0,
        "duration_s": 3.0,
        "model_load_s": 0.0,
        "image_vram_peak_bytes": 2**30,
    }
    assert {name: row[name] for name in wanted} == wanted
    empty = ("ttft_s", "decode_tps", "completion_tokens", "stop_reason", "output_sha256", "prompt_sha256", "load_s")
    assert all(row[name] is None for name in empty) and row["tokens"] == []
    assert len(row["workflow_sha256"]) == 64
    steps = flatten(rows_of(asked, report(asked, IMAGED), DEVICE), "steps").to_pylist()
    assert [(step["event"], step["at_s"], step["node"], step["done"], step["of"]) for step in steps] == [
        (n, 1.0 + 0.5 * n, "5", n + 1.0, 4.0) for n in range(4)
    ]
    assert all(step["run"] == "run-1" and step["trial"] == 1 for step in steps)


def test_a_run_without_images_or_with_one_step_has_no_rate() -> None:
    none = image_trial(images=0)
    assert none.image is not None and seconds_per_image(none) is None
    assert iteration_rate(replace(none, image=replace(none.image, steps=none.image.steps[:1]))) is None
    twice = (*none.image.steps, *(replace(step, node="8", at_s=step.at_s + 9) for step in none.image.steps))
    assert iteration_rate(replace(none, image=replace(none.image, steps=twice))) == 2.0


def test_flags_are_words() -> None:
    outcome = Measured(LOADED, (trial(flags=(Flag.PROMPT_CACHED,)),))
    assert rows_of(job(), report(job(), outcome), None).column("flags").to_pylist() == [["prompt_cached"]]


def test_a_device_is_a_row() -> None:
    (row,) = devices_of("run-1", [DEVICE]).to_pylist()
    assert (row["device"], row["gpu"], row["gpu_vram_bytes"], row["memory_kind"]) == (
        "laptop",
        "a GPU",
        2**35,
        "carve-out",
    )
    assert row["labels"] == [("room", "3")]
    assert (row["dedicated_vram_bytes"], row["split_source"], row["power_limit_w"]) == (2**35, "stated", None)
    assert row["engines"][0]["runtimes"] == ["cpu", "vulkan"]


WALL_TIMES: dict[str, tuple[float, float | None, bool]] = {
    # from start to end on the wall clock, the duration, whether both cannot be
    "as it should be": (9.5, 9.4, False),
    "set back": (-7_190.5, 9.5, True),
    "set forward": (7_209.5, 9.5, True),
    "slept for a minute": (69.5, 9.5, True),
    "slewed for an hour": (3_601.8, 3_600.0, False),
    "an older agent, nothing to see": (7_209.5, None, False),
    "an older agent, set back": (-0.5, None, True),
}


@pytest.mark.parametrize("case", WALL_TIMES)
def test_a_row_whose_wall_time_cannot_be_says_so(case: str) -> None:
    span_s, duration_s, is_wrong = WALL_TIMES[case]
    began = 1_700_000_000.0
    ended = report(job(), FAILED, started_unix_s=began, ended_unix_s=began + span_s, duration_s=duration_s)
    rows = rows_of(job(), ended, DEVICE).to_pylist()
    assert {row["wall_time_wrong"] for row in rows} == {is_wrong}
    assert {row["attempt_duration_s"] for row in rows} == {duration_s}
    assert all(not row["flags"] for row in rows), "what was measured by the monotonic clock holds"
