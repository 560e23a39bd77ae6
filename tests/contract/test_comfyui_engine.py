"""The adapter against a ComfyUI of recorded messages, over real HTTP and a real websocket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.clock import SystemClock
from agents.contract.job import Chat, Job, LoadSettings, ModelSource, NodeInput, Runtime, Timeouts, Workflow, Workload
from agents.contract.measure import Flag, Trial
from agents.contract.rates import iteration_rate, seconds_per_image
from agents.contract.report import Cause
from agents.contract.wire_json import from_json, to_json
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, refuse_settings, refuse_workload
from agents.engines.comfyui.adapter import ComfyUI
from agents.engines.comfyui.session import ComfySession
from agents.engines.server.session import HttpSession
from agents.errors import AgentError, EngineLost, LoadFailed, RequestFailed, Unsupported
from agents.job.measure import WARMUP_NONCE, measure
from tests.fakes.comfy_server import ComfyServer, Control, Raw, Script, recorded, run
from tests.fakes.recorded_server import RecordedServer, json_answer, text_answer

GRAPH = (Path(__file__).parents[2] / "matrices" / "workflows" / "text-to-image.json").read_text("utf-8")
MODEL = "random-sd15.safetensors"
PLACES = (NodeInput("seed", "5", "seed"), NodeInput("steps", "5", "steps"), NodeInput("model", "1", "ckpt_name"))
WORK = Workflow("picture", GRAPH, seed=7, steps=4, inputs=PLACES)
SETTINGS = LoadSettings("comfyui", "sd15", source=ModelSource(engine_names=(("comfyui", MODEL),)))
LONG = Timeouts(load_s=20.0, first_token_s=20.0, trial_s=20.0)


@pytest.fixture
def place(tmp_path: Path) -> LoadPlace:
    return LoadPlace(tmp_path, tmp_path / "log", 20.0, SystemClock(), threading.Event(), lambda phase: None)


def engine(url: str, token_env: str | None = None) -> ComfyUI:
    return ComfyUI(EngineEntry(url=url, token_env=token_env))


def job(workload: Workload = WORK, repeat: int = 0, timeouts: Timeouts = LONG) -> Job:
    return Job("j", 1, "c", "cell", "d", repeat, SETTINGS, workload, timeouts=timeouts)


def trials_of(session: ComfySession, asked: Job, warmups: int = 0) -> list[Trial]:
    return list(measure(asked, session, warmups, threading.Event(), lambda phase, live: None))


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer([run("first"), run("second")]) as one:
        yield one


def test_it_is_found_with_its_version(server: ComfyServer) -> None:
    found = engine(server.url).find()
    assert (found.name, found.version, found.runtimes) == ("comfyui", "ComfyUI 0.3.64, PyTorch 2.13.0+cpu", ("cpu",))
    assert found.where == server.url


@pytest.mark.parametrize(
    ("kind", "pytorch", "runtime"),
    [("cuda", "2.9.0+cu130", Runtime.CUDA), ("cuda", "2.9.0+rocm7.0", Runtime.ROCM), ("mps", "2.9.0", Runtime.METAL)],
)
def test_the_runtime_is_that_of_its_pytorch(kind: str, pytorch: str, runtime: Runtime, place: LoadPlace) -> None:
    with ComfyServer(stats=[stats_of(kind, pytorch)]) as server:
        assert engine(server.url).find().runtimes == (runtime.value,)
        engine(server.url).load(replace(SETTINGS, runtime=runtime), place)
        with pytest.raises(Unsupported, match=f"has runtime {runtime}, and the cell asks for vulkan"):
            engine(server.url).load(replace(SETTINGS, runtime=Runtime.VULKAN), place)
        assert len(server.bodies("POST /free")) == 1


def stats_of(kind: str, pytorch: str = "2.9.0+cu130", used: int = 0, torch: int = 0) -> Any:
    gpu = {"name": "gpu", "type": kind, "vram_total": 2**34, "vram_free": 2**34 - used}
    system = {"comfyui_version": "0.3.64", "pytorch_version": pytorch, "ram_total": 2**35, "ram_free": 2**35 - used}
    return {"system": system, "devices": [{**gpu, "torch_vram_total": torch, "torch_vram_free": 0}]}


def test_nobody_there_is_told_in_words() -> None:
    with ComfyServer() as gone:
        url = gone.url
    with pytest.raises(Unsupported, match=r"no ComfyUI: .* does not answer: .*engines: \{comfyui: \{url: "):
        engine(url).find()


@pytest.mark.parametrize(
    "answer", [json_answer({"hello": 1}), json_answer([]), text_answer("<html>"), json_answer({}, 401)]
)
def test_another_server_is_not_taken_for_it(answer: Any) -> None:
    with RecordedServer({"GET /system_stats": answer}) as other, pytest.raises(Unsupported):
        engine(other.url).find()


def test_its_token_goes_with_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_TOKEN", "secret")
    with RecordedServer({"GET /system_stats": json_answer(recorded()["system_stats"])}) as server:
        engine(server.url, token_env="COMFY_TOKEN").find()
        assert server.asked[0].headers["authorization"] == "Bearer secret"


def test_a_load_empties_the_server_and_keeps_no_argv(server: ComfyServer, place: LoadPlace) -> None:
    loaded = engine(server.url).load(SETTINGS, place).loaded
    assert server.bodies("POST /free") == [{"unload_models": True, "free_memory": True}]
    assert (loaded.engine_version, loaded.engine_runtime) == ("ComfyUI 0.3.64, PyTorch 2.13.0+cpu", "cpu: cpu")
    assert loaded.load_s is None and loaded.model_file == MODEL
    assert "SECRET" not in to_json(loaded).decode()


def test_a_cancelled_load_loads_nothing(server: ComfyServer, place: LoadPlace) -> None:
    def notify(stage: str) -> None:
        raise LoadFailed(Cause.CANCELLED, stage)

    with pytest.raises(LoadFailed):
        engine(server.url).load(SETTINGS, replace(place, notify=notify))
    assert not server.bodies("POST /free")


@pytest.mark.parametrize(
    ("settings", "workload", "words"),
    [
        (SETTINGS, Chat("hi", "Say hi.", 4), "it takes no text"),
        (replace(SETTINGS, gpu_layers=3, mmap=True), WORK, "cannot set gpu_layers, mmap"),
    ],
)
def test_what_it_cannot_is_refused(settings: LoadSettings, workload: Workload, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        support = ComfyUI().capabilities()
        refuse_settings("comfyui", support, settings)
        refuse_workload("comfyui", support, workload)


@pytest.mark.parametrize(
    ("source", "inputs", "words"),
    [
        (ModelSource(path="/a.gguf"), PLACES, "holds models under names of its own"),
        (ModelSource(), PLACES[:2], r"names v1-5-pruned\S+, and the cell asks for sd15"),
        (ModelSource(), (*PLACES, NodeInput("width", "99", "width")), "no node 99, which takes width"),
    ],
)
def test_a_model_that_the_graph_does_not_name_is_refused(
    source: ModelSource, inputs: tuple[NodeInput, ...], words: str, server: ComfyServer, place: LoadPlace
) -> None:
    with pytest.raises(Unsupported, match=words):
        session = engine(server.url).load(replace(SETTINGS, source=source), place)
        trials_of(session, job(replace(WORK, inputs=inputs)))
    assert not server.bodies("POST /prompt")


def test_a_warmup_reads_the_model_and_the_measured_run_makes_the_figures(server: ComfyServer, place: LoadPlace) -> None:
    session = engine(server.url).load(SETTINGS, place)
    first, second = trials_of(session, job(repeat=3), warmups=1)
    assert (first.index, first.warmup, second.index, second.warmup) == (0, True, 1, False)
    assert first.image is not None and second.image is not None
    assert (second.image.images, second.image.iterations, second.image.image_models) == (1, 4, MODEL)
    assert second.image.model_load_s == 0.0 and first.image.model_load_s is not None
    assert second.image.image_engine_s == 5.302
    assert second.image.image_ram_peak_bytes == 25276502016 - recorded()["system_stats"]["system"]["ram_free"]
    assert second.image.image_vram_peak_bytes is None  # a CPU has none, although ComfyUI tells the RAM as VRAM
    assert [(step.node, step.done, step.of) for step in second.image.steps] == [("5", n, 4) for n in (1, 2, 3, 4)]
    assert seconds_per_image(second) == second.ended_s and iteration_rate(second) is not None
    assert from_json(Trial, to_json(second)) == second
    prompts = [body["prompt"] for body in server.bodies("POST /prompt")]
    seeds = [7 + WARMUP_NONCE, 7 + 3]
    assert (
        [prompt["5"]["inputs"]["seed"] for prompt in prompts]
        == seeds
        == [first.image.image_seed, second.image.image_seed]
    )
    assert prompts[0]["5"]["inputs"]["steps"] == 4 and prompts[0]["1"]["inputs"]["ckpt_name"] == MODEL
    assert prompts[0]["4"]["inputs"] == json.loads(GRAPH)["4"]["inputs"]


def test_the_peak_of_memory(place: LoadPlace) -> None:
    one, two = stats_of("cuda", used=2**30, torch=2**29), stats_of("cuda", used=2**32, torch=2**31)
    with ComfyServer([run("second")], stats=[one, one, two, one]) as server:
        (trial,) = trials_of(engine(server.url).load(SETTINGS, place), job())
    assert trial.image is not None
    peaks = (trial.image.image_vram_peak_bytes, trial.image.image_torch_vram_peak_bytes)
    assert peaks in ((2**32, 2**31), (2**30, 2**29))  # readings of a short run: at its start and at its end
    assert len(server.bodies("GET /system_stats")) >= 3


@pytest.mark.parametrize(
    ("script", "workload", "flag"),
    [
        (run("first"), WORK, Flag.MODEL_LOADED),
        (run("cached"), WORK, Flag.IMAGES_CACHED),
        (run("second"), replace(WORK, images=2), Flag.FEWER_IMAGES),
    ],
)
def test_what_makes_a_run_doubtful_is_flagged(script: Script, workload: Workflow, flag: Flag, place: LoadPlace) -> None:
    with ComfyServer([script]) as server:
        (trial,) = trials_of(engine(server.url).load(SETTINGS, place), job(workload))
    assert flag in trial.flags


BUSY = json.dumps({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 3}}}})
UNKNOWN = json.dumps({"type": "crystools.monitor", "data": {"gpus": [{"x": 1}]}})
SECOND = run("second")


def test_bytes_that_mean_nothing_are_let_pass(place: LoadPlace) -> None:
    noise = (UNKNOWN, b"", b"\0\0\0\2" + bytes(70_000), "null", "{", json.dumps({"type": "progress", "data": 3}), BUSY)
    with ComfyServer([replace(SECOND, actions=(*noise, *SECOND.actions))]) as server:
        (trial,) = trials_of(engine(server.url).load(SETTINGS, place), job())
    assert trial.image is not None and trial.image.iterations == 4 and Flag.ENGINE_BUSY in trial.flags


CUT = SECOND.until("progress", 2)
TEXT_FRAME = b"\x81"


@pytest.mark.parametrize(
    ("script", "cause", "words"),
    [
        (CUT.then(Control.DROP), Cause.STREAM_BROKEN, "websocket closed while the graph ran: .*history says success"),
        (CUT.then(Control.CLOSE), Cause.STREAM_BROKEN, "1001.*history says success"),
        (CUT.then(Raw(TEXT_FRAME + b"\x03\xff\xfe\xfd")), Cause.STREAM_BROKEN, "websocket closed"),
        (CUT.then(Raw(b"\xff\xff\xff\xff")), Cause.STREAM_BROKEN, "websocket closed"),
        (run("error"), Cause.RAM, r"node 4 \(EmptyLatentImage\): RuntimeError: .*can't allocate memory"),
        (run("interrupted"), Cause.STOPPED_EARLY, "by somebody else"),
        (run("model_missing"), Cause.MODEL_FILE_MISSING, r"node 1 \(CheckpointLoaderSimple\): Value not in list: ckpt"),
        (run("node_missing"), Cause.REQUEST_REFUSED, "node NoSuchNode does not exist.: Node ID '#9'"),
        (run("bad_input"), Cause.REQUEST_REFUSED, r"node 5 \(KSampler\): Failed to convert .* steps, many"),
        (Script("<html>", 502), Cause.REQUEST_REFUSED, "HTTP 502"),
        (Script({"number": 1}), Cause.STREAM_BROKEN, "without a prompt_id"),
        (
            Script({"prompt_id": "x", "node_errors": run("bad_input").answer["node_errors"]}),
            Cause.REQUEST_REFUSED,
            r"node 5 \(KSampler\)",
        ),
    ],
)
def test_a_run_that_fails_keeps_the_engines_words(script: Script, cause: Cause, words: str, place: LoadPlace) -> None:
    with ComfyServer([script]) as server:
        session = engine(server.url).load(SETTINGS, place)
        with pytest.raises(RequestFailed, match=words) as caught:
            trials_of(session, job())
        assert caught.value.cause is cause
        runs = script.status == 200 and "prompt_id" in script.answer
        assert server.bodies("POST /interrupt") == ([{"prompt_id": script.prompt_id}] if runs else [])
        session.close()


def test_a_server_that_goes_is_lost(place: LoadPlace) -> None:
    with ComfyServer([CUT.then(Control.VANISH)]) as server:
        session = engine(server.url).load(SETTINGS, place)
        with pytest.raises(EngineLost):
            trials_of(session, job())
        with pytest.raises(EngineLost, match="Connection refused"):
            trials_of(session, job())
        session.close()  # and never raises


def test_a_graph_that_was_taken_without_an_answer_is_interrupted(place: LoadPlace) -> None:
    with ComfyServer([Script({}, status=0)]) as server:
        with pytest.raises(EngineLost):
            trials_of(engine(server.url).load(SETTINGS, place), job())
        (posted,) = server.bodies("POST /prompt")
        assert server.bodies("POST /interrupt") == [{"prompt_id": posted["prompt_id"]}]


@pytest.mark.parametrize(
    ("script", "timeouts", "cause"),
    [
        (CUT.then(Control.HOLD), Timeouts(1, 20, 0.3), Cause.TRIAL_TIMEOUT),
        (
            SECOND.without("execution_success", "executing").then(Control.HOLD),
            Timeouts(1, 20, 0.3),
            Cause.TRIAL_TIMEOUT,
        ),
        (SECOND.until("status").then(Control.HOLD), Timeouts(1, 0.3, 20), Cause.FIRST_TOKEN_TIMEOUT),
    ],
)
def test_a_run_without_an_end_is_given_up(script: Script, timeouts: Timeouts, cause: Cause, place: LoadPlace) -> None:
    with ComfyServer([script]) as server:
        session = engine(server.url).load(SETTINGS, place)
        with pytest.raises(RequestFailed) as caught:
            trials_of(session, job(timeouts=timeouts))
        assert caught.value.cause is cause
        assert server.bodies("POST /interrupt") == [{"prompt_id": script.prompt_id}]
        assert server.bodies("POST /queue") == [{"delete": [script.prompt_id]}]


def test_a_cancel_interrupts_the_run(place: LoadPlace) -> None:
    cancelled = threading.Event()

    def progress(phase: str, live: Any) -> None:
        threading.Thread(target=cancel_at, args=(live,), daemon=True).start()

    def cancel_at(live: Any) -> None:
        while live.reads < 2:
            threading.Event().wait(0.01)
        cancelled.set()

    with ComfyServer([CUT.then(Control.AWAIT_INTERRUPT)]) as server:
        session = engine(server.url).load(SETTINGS, place)
        with pytest.raises(AgentError) as caught:
            list(measure(job(), session, 0, cancelled, progress))
        assert caught.value.cause is Cause.CANCELLED
        assert server.bodies("POST /interrupt") == [{"prompt_id": CUT.prompt_id}]


def test_an_old_engine_ends_with_an_idle_message(place: LoadPlace) -> None:
    with ComfyServer([SECOND.without("execution_success", "progress_state")]) as server:
        (trial,) = trials_of(engine(server.url).load(SETTINGS, place), job())
    assert trial.image is not None and trial.image.images == 1 and trial.image.image_engine_s is None


def test_closing_empties_the_server_and_never_raises(server: ComfyServer, place: LoadPlace) -> None:
    session = engine(server.url).load(SETTINGS, place)
    session.check_alive()
    session.close()
    assert len(server.bodies("POST /free")) == 2


def test_sessions_refuse_each_others_work(server: ComfyServer, place: LoadPlace) -> None:
    """An engine that is loaded already is not asked again what it can do."""
    session = engine(server.url).load(SETTINGS, place)
    with pytest.raises(Unsupported, match="runs workflows alone"):
        trials_of(session, job(Chat("hi", "Say hi.", 4)))
    text = HttpSession(session.loaded, session.request_for, session.check_alive, session.close)
    with pytest.raises(Unsupported, match="comfyui makes no images"):
        list(measure(job(), text, 0, threading.Event(), lambda phase, live: None))


def test_a_job_travels_with_its_graph() -> None:
    assert from_json(Job, to_json(job())) == job()
