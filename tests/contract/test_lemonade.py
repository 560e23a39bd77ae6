"""Lemonade beyond the suite of all adapters: other recipes, the user's own model, cancels, older servers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.clock import SystemClock
from agents.contract.job import Chat, Job, LoadSettings, Runtime, Stop, Synthetic, Timeouts
from agents.contract.measure import EngineTimings, Trial
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Session
from agents.engines.lemonade.adapter import Lemonade
from agents.engines.lemonade.api import LoadedModel, llamacpp_args, mismatches
from agents.errors import LoadFailed, Unsupported
from agents.job.measure import measure
from tests.contract.adapters.lemonade import (
    CHAT,
    ERRORS,
    HEALTH,
    LEMONADE,
    LOADS,
    MODEL,
    RUNNING,
    SETTINGS,
    UNLOADS,
    health,
    recorded,
    stream,
)
from tests.fakes.recorded_server import HOLD, RecordedServer, json_answer

HELLO = Chat("hello", "Say hello.", 16)
FLM = LoadSettings("lemonade", "Gemma-3-4b-it-FLM", context_tokens=4096)
ON_NPU = {"model_name": "Gemma-3-4b-it-FLM", "recipe": "flm", "device": "npu", "recipe_options": {"ctx_size": 4096}}
STATS = "GET /api/v1/stats"


@pytest.fixture
def server() -> Iterator[RecordedServer]:
    with RecordedServer(LEMONADE.routes) as one:
        yield one


@pytest.fixture
def place(tmp_path: Path) -> LoadPlace:
    cancelled = threading.Event()
    return LoadPlace(tmp_path / "models", tmp_path / "e.log", 20.0, SystemClock(), cancelled, lambda phase: None)


def load(server: RecordedServer, place: LoadPlace, settings: LoadSettings = SETTINGS) -> Session:
    return Lemonade(EngineEntry(url=server.url)).load(settings, place)


def trial_of(session: Session, settings: LoadSettings) -> Trial:
    job = Job("j", 1, "c", "cell", "d", 0, settings, HELLO, warmups=0, timeouts=Timeouts(20.0, 20.0, 20.0))
    (trial,) = measure(job, session, 0, threading.Event(), lambda phase, live: None)
    return trial


def on_npu(server: RecordedServer, counts: tuple[int | None, ...]) -> None:
    server.answer(HEALTH, [health(), health(ON_NPU)])
    server.answer(CHAT, stream("chat_flm.sse"))
    told = recorded("stats.json")
    before = {**told, "time_to_first_token": 9.9}
    answers = [{**(told if place else before), "request_count_total": count} for place, count in enumerate(counts)]
    server.answer(STATS, [json_answer(answer) for answer in answers])


def test_a_backend_that_is_not_installed_is_refused_with_what_to_do(server: RecordedServer, place: LoadPlace) -> None:
    assert Lemonade(EngineEntry(url=server.url)).find().runtimes == ("vulkan",)
    with pytest.raises(Unsupported) as caught:
        load(server, place, replace(SETTINGS, runtime=Runtime.ROCM))
    assert caught.value.cause is Cause.RUNTIME_MISSING
    assert caught.value.detail == (
        "runtime rocm: Lemonade has installed: vulkan; do: lemonade backends install llamacpp:rocm"
    )


def test_a_llamacpp_request_keeps_no_prompt_and_can_be_exact(server: RecordedServer, place: LoadPlace) -> None:
    session = load(server, place)
    body = json.loads(session.request_for(replace(HELLO, stop=Stop.EXACT), 0).body)
    assert (body["model"], body["cache_prompt"], body["ignore_eos"], body["timings_per_token"]) == (
        MODEL,
        False,
        True,
        True,
    )
    assert body["messages"] == [{"role": "user", "content": "Say hello."}]
    assert session.request_for(HELLO, 0).after is None
    with pytest.raises(Unsupported, match="token ids"):
        session.request_for(Synthetic("pp8", 8), 0)
    told = dict(session.loaded.settings)
    assert (told["told.device"], session.loaded.context_tokens_actual) == ("gpu", 8192)
    assert told["launch.--no-mmap"] == "" and told["launch.--ctx-size"] == "8192"
    session.close()


@pytest.mark.parametrize("counts", [(11, 11, 12), (None, None)], ids=["counted", "an older server"])
def test_another_recipes_figures_are_asked_for_after_its_stream(
    server: RecordedServer, place: LoadPlace, counts: tuple[int | None, ...]
) -> None:
    on_npu(server, counts)
    session = load(server, place, FLM)
    trial = trial_of(session, FLM)
    assert trial.engine == EngineTimings(prompt_tokens=128, generated_tokens=5, ttft_s=2.14, decode_tps=33.33)
    assert session.loaded.engine_runtime == "flm" and session.loaded.context_tokens_actual == 4096
    sent = server.asked_of(CHAT)[0].json
    assert re.fullmatch(r"\[\d{6}\]\nSay hello\.", sent["messages"][0]["content"]) and "cache_prompt" not in sent
    with pytest.raises(Unsupported, match="ends by itself"):
        session.request_for(replace(HELLO, stop=Stop.EXACT), 0)
    session.close()


def test_figures_that_do_not_come_are_left_out(server: RecordedServer, place: LoadPlace) -> None:
    on_npu(server, (12,))
    session = load(server, place, FLM)
    assert trial_of(session, FLM).engine == EngineTimings()
    server.answer(STATS, json_answer({"error": "no"}, 500))
    assert trial_of(session, FLM).engine == EngineTimings()
    session.close()


@pytest.mark.parametrize(("pid", "unloads"), [(12346, 0), (99, 1)])
def test_a_model_that_was_loaded_so_before_is_left_alone(
    server: RecordedServer, place: LoadPlace, pid: int, unloads: int
) -> None:
    server.answer(HEALTH, [health({**RUNNING, "pid": pid}), health(RUNNING)])
    session = load(server, place)
    assert dict(session.loaded.settings)["loaded_before"] == MODEL
    session.close()
    assert [asked.json for asked in server.asked_of(UNLOADS)] == [{"model_name": MODEL}] * unloads


def test_after_a_cancel_it_is_unloaded_as_soon_as_it_is_loaded(server: RecordedServer, place: LoadPlace) -> None:
    server.answer(LOADS, HOLD)
    not_yet = json_answer(ERRORS["not_loaded"], 404)
    server.answer(UNLOADS, [not_yet, not_yet, json_answer({"status": "success"})])

    def cancel() -> None:
        server.wait_for(LOADS)
        place.cancelled.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(LoadFailed) as caught:
        load(server, place)
    thread.join()
    assert caught.value.cause is Cause.CANCELLED
    assert len(server.asked_of(UNLOADS)) == 3


def test_the_key_comes_from_the_environment(
    server: RecordedServer, place: LoadPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMONADE_API_KEY", "secret")
    session = load(server, place)
    session.close()
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer secret"}
    assert "secret" not in repr(session.loaded)


def test_it_looks_at_the_new_port_and_then_at_the_old_one() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if request.url.port != 8000:
            raise httpx.ConnectError("refused")
        page = "health.json" if request.url.path.endswith("health") else "system_info.json"
        return httpx.Response(200, json=recorded(page))

    assert Lemonade(transport=httpx.MockTransport(answer)).find().where == "http://127.0.0.1:8000"
    assert asked[0] == "http://127.0.0.1:13305/api/v1/health"


def settings(**axes: Any) -> LoadSettings:
    return LoadSettings("lemonade", "m", **axes)


@pytest.mark.parametrize(
    ("asked", "args"),
    [
        (settings(), ""),
        (settings(context_tokens=4096, runtime=Runtime.CPU), ""),
        (settings(kv_type_k="q8_0", kv_type_v="q4_0"), "-ctk q8_0 -ctv q4_0"),
        (settings(flash_attention=False), "-fa off"),
        (settings(batch_tokens=1024, micro_batch_tokens=256, threads=8), "-b 1024 -ub 256 -t 8"),
        (settings(mmap=False, keep_in_memory=True, kv_offload=False), "--no-mmap --mlock --no-kv-offload"),
        (settings(mmap=True, keep_in_memory=False, kv_offload=True), ""),
    ],
)
def test_axes_become_llama_servers_flags(asked: LoadSettings, args: str) -> None:
    assert " ".join(llamacpp_args(asked)) == args


COMMAND = ("llama-server", "--ctx-size", "8192", "-ctk", "f16", "--no-mmap", "-ctk", "q8_0", "-fa", "on")


def running(command: tuple[str, ...] = COMMAND, **options: Any) -> LoadedModel:
    return LoadedModel("m", "llamacpp", "gpu", 1, options, command)


@pytest.mark.parametrize(
    ("asked", "now", "others"),
    [
        (settings(context_tokens=8192, kv_type_k="q8_0", flash_attention=True, mmap=False), running(), []),
        (settings(context_tokens=4096), running(), ["a context of 8192 tokens instead of 4096"]),
        (settings(context_tokens=4096), running((), ctx_size=2048), ["a context of 2048 tokens instead of 4096"]),
        (settings(context_tokens=4096), running((), ctx_size=-1), []),  # sized by itself, and it does not tell how
        (settings(runtime=Runtime.ROCM), running(llamacpp_backend="rocm-stable"), []),
        (settings(runtime=Runtime.ROCM), running(llamacpp_backend="vulkan"), ["back end vulkan instead of rocm"]),
        (settings(kv_type_k="f16"), running(), ["no -ctk f16"]),  # the last of a flag counts
        (settings(keep_in_memory=True), running(), ["no --mlock"]),
        (settings(mmap=True), running(), ["--no-mmap"]),
        (settings(kv_type_k="f16", mmap=True), running(()), []),  # an older server does not tell
    ],
)
def test_what_runs_is_held_against_what_was_asked(asked: LoadSettings, now: LoadedModel, others: list[str]) -> None:
    assert mismatches(asked, now) == others
