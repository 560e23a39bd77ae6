"""OpenAI-compatible servers: whose dialect is spoken, how caches are kept out, and what is said of a refusal."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.clock import SystemClock
from agents.contract.job import Chat, Image, LoadSettings, ModelSource, Sampling, Stop
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Support
from agents.engines.openai.adapter import OpenAIServer, chat_request
from agents.engines.openai.dialects import Cache, dialect_of
from agents.engines.server.api import Api
from agents.errors import LoadFailed, NotReady, Unsupported
from tests.contract.adapters.openai import CHAT, VLLM_ROUTES
from tests.fakes.recorded_server import HOLD, RecordedServer, json_answer, text_answer

HELLO = Chat("hello", "Say hello.", 16)
IMAGE = Image("dot.png", "image/png", 1, 1, "AAAA")
API = Api("http://h:1", token="secret")


@pytest.mark.parametrize(
    ("owner", "version", "name", "cache", "exact"),
    [
        ("vllm", "0.19.0", "vLLM", Cache.SALT, True),
        ("vllm", "0.11.0rc1", "vLLM", Cache.SALT, True),
        ("vllm", "0.10.1", "vLLM", Cache.NONCE, True),  # gpt-oss let the salt pass
        ("vllm", "0.8.5.post1", "vLLM", Cache.NONCE, True),
        ("vllm", None, "vLLM", Cache.NONCE, True),
        ("vllm", "dev", "vLLM", Cache.NONCE, True),
        ("vllm", "1.0.0", "vLLM", Cache.SALT, True),
        ("sglang", "0.5.5", "SGLang", Cache.NONCE, True),
        ("llamacpp", None, "llama.cpp", Cache.OFF, True),
        ("", None, "OpenAI-compatible", Cache.NONCE, False),
        ("tabbyAPI", None, "OpenAI-compatible", Cache.NONCE, False),
    ],
)
def test_a_server_is_known_by_the_owner_of_its_models(
    owner: str, version: str | None, name: str, cache: Cache, exact: bool
) -> None:
    dialect = dialect_of(owner, version)
    assert (dialect.name, dialect.cache, dialect.exact is not None) == (name, cache, exact)


def body_of(owner: str, chat: Chat = HELLO, number: int = 1, version: str | None = None) -> Any:
    return json.loads(chat_request(API, "m", dialect_of(owner, version), chat, number).body)


@pytest.mark.parametrize(
    ("owner", "version", "sent"),
    [
        ("vllm", "0.19.0", {"ignore_eos": True, "min_tokens": 16, "repetition_penalty": 1.1}),
        ("sglang", None, {"ignore_eos": True, "min_tokens": 16, "repetition_penalty": 1.1}),
        (
            "llamacpp",
            None,
            {"ignore_eos": True, "cache_prompt": False, "timings_per_token": True, "repeat_penalty": 1.1},
        ),
        ("", None, {"repeat_penalty": 1.1}),
    ],
)
def test_an_exact_number_of_tokens_and_a_penalty(owner: str, version: str | None, sent: dict[str, Any]) -> None:
    chat = replace(HELLO, stop=Stop.EXACT, sampling=Sampling(repeat_penalty=1.1))
    body = body_of(owner, chat, version=version)
    names = {"ignore_eos", "min_tokens", "repetition_penalty", "repeat_penalty", "cache_prompt", "timings_per_token"}
    assert {name: body[name] for name in names & set(body)} == sent
    assert body["stream_options"]["include_usage"] is True and body["model"] == "m"


def test_a_natural_stop_asks_for_no_least_number() -> None:
    assert not {"ignore_eos", "min_tokens"} & set(body_of("vllm", version="0.19.0"))


def test_a_salt_leaves_the_prompt_alone_and_differs() -> None:
    first, second = (body_of("vllm", number=number, version="0.19.0") for number in (1, 2))
    assert first.pop("cache_salt") != second.pop("cache_salt")
    assert first == second and first["messages"] == [{"role": "user", "content": "Say hello."}]


def test_an_image_has_another_id_each_time_where_its_encoding_is_kept() -> None:
    parts = [
        body_of("vllm", replace(HELLO, image=IMAGE), number, "0.19.0")["messages"][0]["content"] for number in (1, 2)
    ]
    assert parts[0][0]["uuid"] != parts[1][0]["uuid"]
    assert parts[0][0]["image_url"]["url"] == "data:image/png;base64,AAAA"
    plain = body_of("", replace(HELLO, image=IMAGE))["messages"]
    assert plain[0] == {"role": "system", "content": "[100000]"} and "uuid" not in plain[1]["content"][0]


@pytest.mark.parametrize("chat", [HELLO, replace(HELLO, system="Be brief."), replace(HELLO, image=IMAGE)])
def test_where_nothing_switches_the_cache_off_the_first_words_differ(chat: Chat) -> None:
    firsts = [body_of("", chat, number)["messages"][0]["content"] for number in (7, 8)]
    assert [first[:8] for first in firsts] == ["[700000]", "[800000]"] and firsts[0][8:] == firsts[1][8:]


def test_a_token_goes_in_the_head_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret-7")
    with RecordedServer(VLLM_ROUTES) as server:
        session = OpenAIServer(EngineEntry(url=server.url, token_env="MY_TOKEN")).load(LOAD, a_place(tmp_path))
        assert {each.headers.get("authorization") for each in server.asked} == {"Bearer secret-7"}
        assert not any(b"secret-7" in each.body for each in server.asked)
        assert "secret-7" not in repr(session.loaded)


LOAD = LoadSettings("openai", "qwen", source=ModelSource(hf_repo="Qwen/Qwen3-8B"))


def a_place(tmp_path: Path, timeout_s: float = 10.0) -> LoadPlace:
    return LoadPlace(tmp_path, tmp_path / "log", timeout_s, SystemClock(), threading.Event(), lambda phase: None)


@pytest.mark.parametrize(
    ("token_env", "words"),
    [
        (None, "name the variable that holds its token: engines.openai.token_env"),
        ("NOT_SET_HERE", "the variable NOT_SET_HERE (engines.openai.token_env in device.yaml) is not set"),
        ("PATH", "holds a token that the server does not take"),
    ],
)
def test_a_missing_token_is_told_in_words(token_env: str | None, words: str) -> None:
    routes = {"GET /v1/models": json_answer({"error": "Unauthorized"}, 401)}
    with RecordedServer(routes) as server, pytest.raises(Unsupported) as caught:
        OpenAIServer(EngineEntry(url=server.url, token_env=token_env)).find()
    assert words in caught.value.detail and "Unauthorized" in caught.value.detail


def test_no_server_named_says_what_to_write() -> None:
    with pytest.raises(Unsupported, match=r"openai: \{url: 'http://127\.0\.0\.1:8000'\}"):
        OpenAIServer().find()
    assert OpenAIServer().capabilities()["exact_stop"] is Support.SETS, "what is wrong is that no server is named"


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_in_v1(tail: str) -> None:
    with RecordedServer(VLLM_ROUTES) as server:
        found = OpenAIServer(EngineEntry(url=server.url + tail)).find()
    assert (found.version, found.where) == ("vLLM 0.19.0", server.url)


def test_a_server_without_a_version_is_told_by_what_it_does_say(tmp_path: Path) -> None:
    models = json_answer({"data": [{"id": "Qwen/Qwen3-8B", "owned_by": "tabbyAPI"}]})
    with RecordedServer({"GET /v1/models": models, CHAT: VLLM_ROUTES[CHAT]}) as server:
        found = OpenAIServer(EngineEntry(url=server.url)).find()
    assert found.version.startswith("OpenAI-compatible (owned_by tabbyAPI, Server: ")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (LoadSettings("openai", "other"), "the server has no model other; it lists Qwen/Qwen3-8B"),
        (replace(LOAD, context_tokens=8192), "has context_tokens 4096, and the cell asks for 8192"),
        (LoadSettings("openai", "m", source=ModelSource(path="/m.gguf")), "add  models: {m: {names: {openai: NAME}}}"),
    ],
)
def test_what_the_server_was_not_started_with_is_refused(tmp_path: Path, settings: LoadSettings, words: str) -> None:
    with RecordedServer(VLLM_ROUTES) as server, pytest.raises(Unsupported) as caught:
        OpenAIServer(EngineEntry(url=server.url)).load(settings, a_place(tmp_path))
    assert words in caught.value.detail
    assert not server.asked_of(CHAT)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("field", ["stream_options", "cache_salt", "seed"])
def test_a_field_that_is_refused_is_named(tmp_path: Path, status: int, field: str) -> None:
    said = {"detail": [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted"}]}
    with (
        RecordedServer({**VLLM_ROUTES, CHAT: json_answer(said, status)}) as server,
        pytest.raises(Unsupported) as caught,
    ):
        OpenAIServer(EngineEntry(url=server.url)).load(LOAD, a_place(tmp_path))
    assert f"refuses the field {field}" in caught.value.detail and "Extra inputs" in caught.value.detail


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("route", ["GET /v1/models", CHAT])
def test_a_server_that_loads_still_is_not_ready(tmp_path: Path, route: str, status: int) -> None:
    routes = {**VLLM_ROUTES, route: json_answer({"error": "Loading model"}, status)}
    with RecordedServer(routes) as server, pytest.raises(NotReady, match="Loading model"):
        OpenAIServer(EngineEntry(url=server.url)).load(LOAD, a_place(tmp_path))


def test_of_several_engines_behind_one_address_that_of_the_model_counts(tmp_path: Path) -> None:
    mine = {"id": "Qwen/Qwen3-8B", "owned_by": "vllm"}
    listed = json_answer({"data": [{"id": "other", "owned_by": "llamacpp"}, mine]})
    with RecordedServer({**VLLM_ROUTES, "GET /v1/models": listed}) as server:
        session = OpenAIServer(EngineEntry(url=server.url)).load(LOAD, a_place(tmp_path))
        sent = server.asked_of(CHAT)[-1].json
    assert session.loaded.engine_version.startswith("vLLM")
    assert "cache_prompt" not in sent and "cache_salt" in sent


def test_thousands_of_models_are_not_all_told(tmp_path: Path) -> None:
    listed = json_answer([{"id": f"model-{number}"} for number in range(5000)])
    with (
        RecordedServer({**VLLM_ROUTES, "GET /v1/models": listed}) as server,
        pytest.raises(Unsupported, match="model-19 and 4980 more") as caught,
    ):
        OpenAIServer(EngineEntry(url=server.url)).load(LOAD, a_place(tmp_path))
    assert len(caught.value.detail) < 600


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (json_answer({"choices": [{"message": {"content": "It exited with a crash."}}]}), Cause.LOAD_FAILED),
        (json_answer({"error": {"message": "CUDA out of memory", "type": "InternalServerError"}}, 500), Cause.VRAM),
        (text_answer("<html>", content_type="text/html"), Cause.LOAD_FAILED),
        (HOLD, Cause.LOAD_TIMEOUT),
    ],
)
def test_a_server_without_a_first_word(tmp_path: Path, answer: Any, cause: Cause) -> None:
    with RecordedServer({**VLLM_ROUTES, CHAT: answer}) as server, pytest.raises(LoadFailed) as caught:
        OpenAIServer(EngineEntry(url=server.url)).load(LOAD, a_place(tmp_path, timeout_s=0.5))
    assert caught.value.cause is cause


def test_a_cancel_while_a_server_loads(tmp_path: Path) -> None:
    place = a_place(tmp_path)
    with RecordedServer({**VLLM_ROUTES, CHAT: HOLD}) as server:

        def cancel() -> None:
            server.wait_for(CHAT)
            place.cancelled.set()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(LoadFailed) as caught:
            OpenAIServer(EngineEntry(url=server.url)).load(LOAD, place)
        thread.join()
    assert caught.value.cause is Cause.CANCELLED
