"""LM Studio's own Python SDK against a server that speaks its messages: the axes that REST has not."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmstudio")

from agents.clock import SystemClock
from agents.contract.job import LoadSettings
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace
from agents.engines.lmstudio.adapter import LMStudio
from agents.engines.lmstudio.sdk import Sdk
from agents.errors import EngineLost, LoadFailed, Unsupported
from tests.contract.adapters.lmstudio import recorded
from tests.fakes.lmstudio_server import FakeLMStudio

MODEL = "meta-llama-3.1-8b-instruct"
SETTINGS = LoadSettings(
    "lmstudio", MODEL, context_tokens=4096, kv_type_k="q8_0", kv_type_v="q8_0", mmap=False, gpu_layers=-1
)


def old_rest(state: FakeLMStudio, route: str, body: Any) -> Any:
    """REST v0 alone."""
    if route == "GET /api/v0/models":
        listed = recorded("models_v0.json")
        loaded = [{**listed["data"][1], "id": name, "state": "loaded"} for name in state.loaded]
        return {**listed, "data": [*listed["data"], *loaded]}
    return recorded("chat_v0.json") if route == "POST /api/v0/chat/completions" else None


def new_rest(state: FakeLMStudio, route: str, body: Any) -> Any:
    if route == "GET /api/v1/models":
        model = {"key": MODEL, "format": "gguf", "max_context_length": 131072}
        return {"models": [{**model, "loaded_instances": [{"id": name, "config": {}} for name in state.loaded]}]}
    if route == "POST /api/v1/models/unload":
        state.unload(body["instance_id"])
        return body
    return None


@pytest.fixture(params=[old_rest, new_rest], ids=["v0", "v1"])
def server(request: pytest.FixtureRequest) -> Iterator[FakeLMStudio]:
    with FakeLMStudio(request.param) as one:
        yield one


@pytest.fixture
def place(tmp_path: Path) -> LoadPlace:
    cancelled = threading.Event()
    return LoadPlace(tmp_path / "models", tmp_path / "e.log", 20.0, SystemClock(), cancelled, lambda phase: None)


def made(server: FakeLMStudio) -> LMStudio:
    return LMStudio(EngineEntry(url=server.url))


def test_the_axes_of_the_sdk_arrive_and_are_read_back(server: FakeLMStudio, place: LoadPlace) -> None:
    session = made(server).load(SETTINGS, place)
    (asked,) = [message["creationParameter"] for message in server.received if message.get("type") == "channelCreate"]
    assert (asked["modelKey"], asked["identifier"]) == (MODEL, "orchestrate-1")
    assert "ttlMs" not in asked or asked["ttlMs"] is None
    assert server.loaded["orchestrate-1"] == {
        "llm.load.contextLength": 4096,
        "llm.load.llama.kCacheQuantizationType": {"checked": True, "value": "q8_0"},
        "llm.load.llama.vCacheQuantizationType": {"checked": True, "value": "q8_0"},
        "llm.load.llama.tryMmap": False,
        "llm.load.llama.acceleration.offloadRatio": "max",
        "load.gpuSplitConfig": {"disabledGpus": [], "strategy": "evenly", "priority": [], "customRatio": []},
    }
    told = dict(session.loaded.settings)
    assert session.loaded.engine_version.startswith("LM Studio 0.3.39+2, REST v")
    assert session.loaded.context_tokens_actual == 4096
    assert (told["through"], told["told.llamaKCacheQuantizationType"], told["tryMmap"]) == ("sdk", "q8_0", "False")
    session.check_alive(within_s=0.0)
    session.close()
    assert server.unloaded == ["orchestrate-1"]
    with pytest.raises(EngineLost, match="has unloaded orchestrate-1"):
        session.check_alive(within_s=0.0)


def test_the_users_instances_keep_their_names(server: FakeLMStudio, place: LoadPlace) -> None:
    server.loaded["orchestrate-1"] = {}
    session = made(server).load(SETTINGS, place)
    assert dict(session.loaded.settings)["loaded_beside"] == "orchestrate-1"
    session.close()
    assert server.unloaded == ["orchestrate-2"]


def test_a_context_that_was_clamped_fails_in_words(server: FakeLMStudio, place: LoadPlace) -> None:
    server.changes = {"llm.load.contextLength": 2048}
    with pytest.raises(LoadFailed, match="contextLength 2048 instead of 4096") as caught:
        made(server).load(SETTINGS, place)
    assert caught.value.cause is Cause.CONTEXT_TOO_LONG
    assert server.unloaded == ["orchestrate-1"]


def test_the_sdks_error_keeps_lm_studios_words(server: FakeLMStudio, place: LoadPlace) -> None:
    words = "Model loading was stopped due to insufficient system resources."
    server.refusal = {"title": "Failed to load model", "cause": words}
    with pytest.raises(LoadFailed) as caught:
        made(server).load(SETTINGS, place)
    assert words in caught.value.detail and caught.value.cause is Cause.RAM


def test_a_cancel_during_the_load_unloads_what_comes_up(server: FakeLMStudio, place: LoadPlace) -> None:
    server.held = held = threading.Event()

    def cancel() -> None:
        server.loading.wait(10.0)
        place.cancelled.set()
        threading.Timer(0.5, held.set).start()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(LoadFailed) as caught:
        made(server).load(SETTINGS, place)
    thread.join()
    assert caught.value.cause is Cause.CANCELLED
    assert server.unloaded == ["orchestrate-1"] and server.loaded == {}


@pytest.mark.parametrize("url", ["https://127.0.0.1:1234", "http://127.0.0.1:1234/lm"])
def test_an_address_that_the_sdk_cannot_take_is_refused(url: str) -> None:
    with pytest.raises(Unsupported, match="without TLS and path"):
        Sdk(url, None)


def test_a_token_that_this_sdk_does_not_take_is_refused_before_a_load(
    server: FakeLMStudio, place: LoadPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lmstudio

    monkeypatch.setenv("LM_API_TOKEN", "secret")
    if "api_token" in inspect.signature(lmstudio.Client).parameters:
        pytest.skip("this one takes tokens")
    with pytest.raises(Unsupported, match="takes no API token"):
        made(server).load(SETTINGS, place)
    assert not server.received
