"""A real ``llama-server`` of another hand: one model, a router, images, failed loads, its death. Built beforehand."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.clock import SystemClock
from agents.contract.job import Chat, Image, Job, LoadSettings, ModelSource, Stop, Synthetic, Timeouts, Workload
from agents.contract.measure import StopReason
from agents.contract.report import Cause, Failed, Measured, Outcome, Refused
from agents.device.inventory import inventory
from agents.device_file import EngineEntry
from agents.engines.base import Engine, LoadPlace
from agents.engines.llama.running import LlamaRunning
from agents.engines.llama.server import LlamaServer
from agents.errors import LoadFailed
from agents.job.host import Host
from agents.models.tiny.make import make_tiny
from tests.contract.test_tiny_models_run import png_of
from tests.slow.build_llama import built
from tests.waiting import until

PROGRAM = built() or Path("not built")
pytestmark = pytest.mark.skipif(built() is None, reason="llama-server is not built: python tests/slow/build_llama.py")
CHAT = Chat("hello", "Say hello.", 12, stop=Stop.EXACT)
SYNTHETIC = Synthetic("pp64+tg16", prompt_tokens=64, generate_tokens=16)
DEEP = Synthetic("pp32+tg4 @ d128", 32, 4, 128)
PNG = base64.b64encode(png_of((200, 30, 30), 64)).decode()
SEEN = replace(CHAT, image=Image("red.png", "image/png", 64, 64, PNG))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a router wants it: files, and a folder for a model with its projector."""
    folder = tmp_path_factory.mktemp("router")
    made, seer = make_tiny("llama", "Q8_0", folder / "made"), make_tiny("qwen3vl", "Q8_0", folder / "made")
    models = folder / "models"
    (models / "seer").mkdir(parents=True)
    shutil.copy(made.path, models / "tiny-llama-Q8_0.gguf")
    shutil.copy(seer.path, models / "seer/seer-Q8_0.gguf")
    assert seer.mmproj is not None
    shutil.copy(seer.mmproj, models / "seer/mmproj-F16.gguf")
    (models / "broken.gguf").write_bytes(made.path.read_bytes()[:-300_000])
    return models


@contextmanager
def server(log: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address and process, ready."""
    command = [str(PROGRAM), *arguments, "--host", "127.0.0.1", "--port", "0", "-t", "1", "-np", "1", "--no-ui"]
    with log.open("wb") as words, subprocess.Popen(command, stdout=words, stderr=words) as process:
        try:
            found: list[str] = []

            def listens() -> bool:
                found[:] = re.findall(r"listening on (http://\S+)", log.read_text("utf-8", "replace"))
                return bool(found) or process.poll() is not None

            until(listens, "llama-server")
            assert found, log.read_text()
            yield found[0], process
        finally:
            process.terminate()


@pytest.fixture
def single(store: Path, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with server(tmp_path / "server.log", "-m", str(store / "tiny-llama-Q8_0.gguf"), "-c", "2048") as one:
        yield one


@pytest.fixture
def router(store: Path, tmp_path: Path) -> Iterator[str]:
    with server(tmp_path / "server.log", "--models-dir", str(store), "-c", "2048", "-ctk", "q8_0") as (url, _):
        yield url


@contextmanager
def hosting(engine: Engine, folder: Path) -> Iterator[Host]:
    host = Host(inventory(folder, []), folder, (engine,))
    try:
        yield host
    finally:
        host.unload()


def running(url: str) -> LlamaRunning:
    return LlamaRunning(EngineEntry(url=url))


def run(host: Host, load: LoadSettings, workload: Workload, cancelled: threading.Event | None = None) -> Outcome:
    job = Job("j", 1, "c", "cell", "d", 0, load, workload, warmups=0, timeouts=Timeouts(60.0, 60.0, 60.0))
    return host.run(replace(job, keep_output=True), cancelled or threading.Event(), lambda phase, live: None).outcome


def measured(outcome: Outcome) -> Measured:
    assert isinstance(outcome, Measured), outcome
    return outcome


def asked(model: str, **settings: Any) -> LoadSettings:
    return LoadSettings("llama-server", model, **settings)


def test_one_model_that_runs(single: tuple[str, subprocess.Popen[bytes]], folder: Path) -> None:
    url, process = single
    assert running(url).find().version.startswith("llama.cpp b")
    with hosting(running(url), folder) as host:
        load = asked("tiny-llama-Q8_0", context_tokens=2048, quantisation="Q8_0")
        outcome = measured(run(host, load, CHAT))
        (trial,) = outcome.trials
        assert (trial.completion_tokens, trial.stop_reason, trial.engine.cached_tokens) == (12, StopReason.LENGTH, 0)
        assert (outcome.loaded.context_tokens_actual, outcome.loaded.load_s) == (2048, None)
        (synthetic,) = measured(run(host, load, SYNTHETIC)).trials
        assert (synthetic.prompt_tokens, synthetic.completion_tokens) == (64, 16)
        (deep,) = measured(run(host, load, DEEP)).trials
        assert (deep.engine.cached_tokens, deep.engine.prompt_tokens) == (128, 32)
        other = run(host, asked("tiny-llama-Q8_0", context_tokens=4096), CHAT)
        assert isinstance(other, Refused) and "has context_tokens 2048" in other.detail
        blind = run(host, asked("tiny-llama-Q8_0"), SEEN)
        assert isinstance(blind, Failed) and "image input is not supported" in blind.detail
        measured(run(host, load, CHAT))
        process.kill()
        process.wait()
        lost = run(host, load, CHAT)
        assert isinstance(lost, Refused | Failed) and url in lost.detail


def test_a_router_loads_and_unloads(router: str, folder: Path) -> None:
    engine = running(router)
    assert "(router)" in engine.find().where
    with hosting(engine, folder) as host:
        outcome = measured(run(host, asked("tiny-llama-Q8_0", context_tokens=2048, kv_type_k="q8_0"), CHAT))
        assert outcome.loaded.load_s is not None and outcome.loaded.load_s > 0
        assert ("--cache-type-k", "q8_0") in outcome.loaded.settings
        assert outcome.trials[0].completion_tokens == 12
        assert states(engine) == {"broken": "unloaded", "seer": "unloaded", "tiny-llama-Q8_0": "loaded"}
        (deep,) = measured(run(host, asked("seer"), DEEP)).trials
        assert (deep.engine.cached_tokens, deep.engine.prompt_tokens) == (128, 32)
        text, seen = (measured(run(host, asked("seer"), each)).trials[0].prompt_tokens or 0 for each in (CHAT, SEEN))
        assert seen >= text + 4  # 64 x 64 pixels, 32 x 32 a token
        assert states(engine) == {"broken": "unloaded", "seer": "loaded", "tiny-llama-Q8_0": "unloaded"}
        refused = run(host, asked("tiny-llama-Q8_0", kv_type_k="f16"), CHAT)
        assert isinstance(refused, Refused) and "has kv_type_k q8_0" in refused.detail
        missing = run(host, asked("nothing"), CHAT)
        assert isinstance(missing, Refused) and missing.cause is Cause.MODEL_FILE_MISSING
        failed = run(host, asked("broken"), CHAT)
        assert isinstance(failed, Failed) and failed.cause is Cause.LOAD_FAILED
        assert "could not load broken (unloaded, exit code 1)" in failed.detail
        measured(run(host, asked("tiny-llama-Q8_0"), SYNTHETIC))
    assert set(states(engine).values()) == {"unloaded"}


def test_a_model_that_another_loaded_is_loaded_anew(router: str, folder: Path) -> None:
    engine = running(router)
    engine._api.post("/models/load", {"model": "tiny-llama-Q8_0"})
    until(lambda: states(engine)["tiny-llama-Q8_0"] == "loaded", "the model")
    with hosting(engine, folder) as host:
        assert measured(run(host, asked("tiny-llama-Q8_0"), CHAT)).loaded.load_s


def test_a_cancel_while_the_router_loads(router: str, folder: Path) -> None:
    engine = running(router)
    cancelled = threading.Event()

    def notify(stage: str) -> None:
        cancelled.set()

    place = LoadPlace(folder, folder / "log", 60.0, SystemClock(), cancelled, notify)
    with pytest.raises(LoadFailed) as caught:
        engine.load(asked("seer"), place)
    assert caught.value.cause is Cause.CANCELLED and states(engine)["seer"] == "unloaded"


def states(engine: LlamaRunning) -> dict[str, str]:
    return {each["id"]: each["status"]["value"] for each in engine._api.get("/models")["data"]}


def started(name: str) -> LoadSettings:
    source = ModelSource(tiny=name)
    return LoadSettings("llama-server", f"tiny:{name}", "Q8_0", context_tokens=1024, threads=1, source=source)


def test_a_started_server_sees_an_image(folder: Path) -> None:
    with hosting(LlamaServer(EngineEntry(programs=(str(PROGRAM),))), folder) as host:
        text, seen = (measured(run(host, started("qwen3vl"), each)).trials[0] for each in (CHAT, SEEN))
        assert (seen.prompt_tokens or 0) >= (text.prompt_tokens or 0) + 4
        assert seen.completion_tokens == 12 and seen.output


def test_a_started_server_refuses_a_bad_file_in_its_own_words(folder: Path, tmp_path: Path) -> None:
    whole = make_tiny("llama", "Q8_0", folder / "models/tiny").path.read_bytes()
    bad = tmp_path / "unknown.gguf"  # well formed, so the check before lets it pass
    bad.write_bytes(whole.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0llamX", 1))
    with hosting(LlamaServer(EngineEntry(programs=(str(PROGRAM),))), folder) as host:
        outcome = run(host, LoadSettings("llama-server", str(bad), source=ModelSource(path=str(bad))), CHAT)
    assert isinstance(outcome, Failed) and outcome.cause is Cause.MODEL_FILE_INVALID
    assert "unknown model architecture: 'llamX'" in outcome.detail
