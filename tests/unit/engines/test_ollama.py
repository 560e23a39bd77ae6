"""Ollama: its stream however the bytes are cut, the cell's settings in its words, and what is refused."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.clock import SystemClock
from agents.contract.job import Chat, Image, LoadSettings, ModelSource, Runtime, Sampling
from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace
from agents.engines.ollama.adapter import (
    Ollama,
    chat_request,
    load_options,
    model_name,
    refuse_load_mismatch,
    refuse_model,
)
from agents.engines.ollama.api import LoadedModel, ModelDetails, address_of, loaded_models, pull
from agents.engines.ollama.stream import ollama_chunks
from agents.engines.server.api import Api
from agents.engines.stream.chunks import stream_events
from agents.engines.stream.sse import StreamEvent, read_response
from agents.errors import LoadFailed, Unsupported
from tests.contract.adapters.ollama import ollama_routes
from tests.fakes.recorded_server import RecordedServer, json_answer, lines_answer
from tests.fakes.scripted_server import response
from tests.unit.engines.test_stream_chunks import split

THINKING = (Path(__file__).parents[2] / "recordings/ollama/thinking.ndjson").read_bytes()
SEEING = ModelDetails("Q4_K_M", "llama", None, frozenset({"completion", "vision"}), None)
CHAT = Chat("hello", "Say hello.", 16)


def lines(*objects: Any) -> tuple[StreamEvent, ...]:
    return tuple(StreamEvent(1_000 + index, index, json.dumps(each)) for index, each in enumerate(objects))


def done(**fields: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **fields}


@settings(deadline=None)
@given(
    framing=st.sampled_from(["chunked", "length", "close"]),
    pieces=st.lists(st.integers(0, len(THINKING)), max_size=6),
    cuts=st.lists(st.integers(0, 10_000), max_size=30),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
)
def test_no_cut_of_the_bytes_changes_the_chunks(
    framing: str, pieces: list[int], cuts: list[int], line_end: bytes
) -> None:
    body = THINKING.replace(b"\n", line_end)
    whole = b"".join(
        response([piece for _, piece in split(body, pieces)], framing, content_type="application/x-ndjson")
    )
    reads = split(whole, cuts)
    chunks = ollama_chunks(stream_events(read_response(reads)), max_tokens=15)
    assert [(chunk.text, chunk.reasoning) for chunk in chunks] == [
        ("Strawberry:", True),
        (" grüße 🍓", True),
        ("Three", False),
        ("", False),
    ]
    assert all(chunk.at_ns == reads[chunk.read][0] for chunk in chunks)
    final = chunks[-1].final
    assert final is not None and final.stop_reason is StopReason.LENGTH
    assert (final.prompt_tokens, final.completion_tokens) == (169, 15)
    assert final.engine == EngineTimings(169, None, 0.024573166, 15, 0.115959084, None, 14 / 0.115959084)


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(),
            st.recursive(
                st.none() | st.integers() | st.text(),
                lambda x: st.dictionaries(
                    st.sampled_from(["message", "done", "error", "content", "eval_count", "load_duration"]), x
                ),
            ),
        )
    )
)
def test_nothing_that_a_server_sends_makes_the_decoder_raise(sent: list[Any]) -> None:
    events = [StreamEvent(0, 0, each if isinstance(each, str) else json.dumps(each)) for each in sent]
    ollama_chunks(events)


@pytest.mark.parametrize(
    ("last", "max_tokens", "reason"),
    [
        (done(), 5, StopReason.END),
        (done(done_reason="length", eval_count=5), 5, StopReason.LENGTH),
        (done(done_reason="length", eval_count=3), 5, StopReason.CONTEXT_FULL),
        (done(done_reason="length"), 5, StopReason.LENGTH),
        (done(done_reason="load"), 5, StopReason.UNKNOWN),
        ({"done": True}, None, StopReason.UNKNOWN),  # before done_reason
    ],
)
def test_why_it_stopped(last: dict[str, Any], max_tokens: int | None, reason: StopReason) -> None:
    final = ollama_chunks(lines(last), max_tokens)[-1].final
    assert final is not None and final.stop_reason is reason


def test_a_model_that_was_loaded_anew_is_no_figure() -> None:
    said = lines({"message": {"content": "Hi"}, "done": False}, done(load_duration=2_500_000_000))
    last = ollama_chunks(said)[-1]
    assert (
        last.final is None
        and last.error is not None
        and "loaded the model anew within the request (2.5 s)" in last.error
    )
    assert ollama_chunks(lines(done(load_duration=90_000_000)))[-1].error is None


def test_a_generate_stream_is_read_too() -> None:
    found = ollama_chunks(lines({"response": "Yes", "done": False}, {"error": "runner died"}))
    assert [chunk.text for chunk in found] == ["Yes", ""] and found[-1].error == "runner died"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("192.168.1.7", "http://192.168.1.7:11434"),
        ("http://box", "http://box:80"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("box:nonsense", "http://box:11434"),
        ("::", "http://[::1]:11434"),
        ("[::1]:77", "http://[::1]:77"),
        (' "box:5" ', "http://box:5"),
    ],
)
def test_where_ollama_host_says_it_is(host: str | None, address: str) -> None:
    assert address_of({} if host is None else {"OLLAMA_HOST": host}) == address


def a_load(**fields: Any) -> LoadSettings:
    return LoadSettings("ollama", "llama3.2", **fields)


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, {}),
        ({"context_tokens": 8192, "batch_tokens": 64}, {"num_ctx": 8192, "num_batch": 64}),
        ({"gpu_layers": -1}, {"num_gpu": 999}),
        ({"gpu_layers": 7, "runtime": Runtime.VULKAN}, {"num_gpu": 7}),
        ({"runtime": Runtime.CPU}, {"num_gpu": 0}),
        ({"runtime": Runtime.CPU, "gpu_layers": 0, "threads": 3}, {"num_gpu": 0, "num_thread": 3}),
        ({"mmap": False}, {"use_mmap": False}),
    ],
)
def test_settings_become_options(asked: dict[str, Any], options: dict[str, Any]) -> None:
    assert load_options(a_load(**asked)) == options


def test_layers_on_a_gpu_with_the_cpu_runtime_are_refused() -> None:
    with pytest.raises(Unsupported, match="runtime cpu has no GPU to put all layers on"):
        load_options(a_load(runtime=Runtime.CPU, gpu_layers=-1))


@pytest.mark.parametrize(
    ("source", "quantisation", "name"),
    [
        (ModelSource(), None, "llama3.2"),
        (ModelSource(engine_names=(("ollama", "qwen3-vl:32b"),), hf_repo="o/r"), "Q8_0", "qwen3-vl:32b"),
        (ModelSource(hf_repo="unsloth/Q-GGUF"), "UD-Q4_K_XL", "hf.co/unsloth/Q-GGUF:UD-Q4_K_XL"),
        (ModelSource(hf_repo="unsloth/Q-GGUF"), None, "hf.co/unsloth/Q-GGUF"),
    ],
)
def test_what_ollama_calls_the_model(source: ModelSource, quantisation: str | None, name: str) -> None:
    assert model_name(a_load(source=source, quantisation=quantisation)) == name


@pytest.mark.parametrize(
    "source", [ModelSource(path="/a.gguf"), ModelSource(tiny="llama"), ModelSource(hf_repo="o/r", hf_revision="x")]
)
def test_files_that_it_cannot_name_are_refused(source: ModelSource) -> None:
    with pytest.raises(Unsupported):
        model_name(a_load(source=source))


@pytest.mark.parametrize(
    ("wanted", "name", "has", "fits"),
    [
        ("Q4_K_M", "llama3.2", "Q4_K_M", True),
        ("q4_k_m", "llama3.2", "Q4_K_M", True),
        ("Q8_0", "llama3.2", "Q4_K_M", False),
        ("Q8_0", "llama3.2", None, False),
        ("UD-Q4_K_XL", "hf.co/o/r:UD-Q4_K_XL", "unknown", True),  # the name chose the file
        (None, "llama3.2", "Q4_K_M", True),
    ],
)
def test_another_quantisation_is_refused(wanted: str | None, name: str, has: str | None, fits: bool) -> None:
    asked, model = a_load(quantisation=wanted), replace(SEEING, quantisation=has)
    if fits:
        refuse_model(asked, name, model)
        return
    with pytest.raises(Unsupported, match=f"has quantisation {has or 'unknown'}, and the cell asks for {wanted}"):
        refuse_model(asked, name, model)


def test_a_model_in_the_cloud_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"computed at https://ollama\.com:443"):
        refuse_model(a_load(), "gpt-oss:120b-cloud", replace(SEEING, remote="https://ollama.com:443"))


@pytest.mark.parametrize(
    ("asked", "held", "cause"),
    [
        ({"context_tokens": 8192}, LoadedModel("m", 10, 10, 4096), Cause.CONTEXT_TOO_LONG),
        ({"context_tokens": 8192}, LoadedModel("m", 10, 10, None), None),
        ({"runtime": Runtime.VULKAN}, LoadedModel("m", 10, 0, 1), Cause.RUNTIME_MISSING),
        ({"gpu_layers": 5}, LoadedModel("m", 10, 0, 1), Cause.RUNTIME_MISSING),
        ({"gpu_layers": -1}, LoadedModel("m", 10, 7, 1), Cause.VRAM),
        ({"gpu_layers": 5}, LoadedModel("m", 10, 7, 1), None),
        ({"runtime": Runtime.CPU}, LoadedModel("m", 10, 7, 1), Cause.LOAD_FAILED),
        ({"gpu_layers": 0}, LoadedModel("m", 10, 0, 1), None),
        ({"gpu_layers": 0, "runtime": Runtime.VULKAN}, LoadedModel("m", 10, 0, 1), None),
        ({"gpu_layers": 0, "runtime": Runtime.VULKAN}, LoadedModel("m", 10, 7, 1), Cause.LOAD_FAILED),
        ({}, LoadedModel("m", 10, 0, 1), None),
    ],
)
def test_what_it_made_of_the_settings_is_looked_at(
    asked: dict[str, Any], held: LoadedModel, cause: Cause | None
) -> None:
    if cause is None:
        refuse_load_mismatch(a_load(**asked), held)
        return
    with pytest.raises(LoadFailed) as caught:
        refuse_load_mismatch(a_load(**asked), held)
    assert caught.value.cause is cause


def body_of(chat: Chat, number: int = 1, model: ModelDetails = SEEING, **options: Any) -> Any:
    return json.loads(chat_request("http://h:1", "m", model, options, chat, number).body)


def test_a_request_repeats_the_options_and_forbids_truncation() -> None:
    body = body_of(replace(CHAT, sampling=Sampling(seed=7, top_k=3)), num_ctx=4096)
    assert body["options"] == {"num_ctx": 4096, "num_predict": 16, "seed": 7, "temperature": 0.0, "top_k": 3}
    assert (body["stream"], body["truncate"], body["shift"]) == (True, False, False)


IMAGE = Image("dot.png", "image/png", 1, 1, "AAAA")


@pytest.mark.parametrize(
    ("chat", "model", "roles"),
    [
        (CHAT, SEEING, ["user"]),
        (replace(CHAT, system="Be brief."), SEEING, ["system", "user"]),
        (CHAT, replace(SEEING, system="You are Llama."), ["system", "user"]),
        (replace(CHAT, image=IMAGE), SEEING, ["system", "user"]),
    ],
)
def test_two_requests_differ_in_the_first_words_that_are_ours(
    chat: Chat, model: ModelDetails, roles: list[str]
) -> None:
    bodies = [body_of(chat, number, model) for number in (1, 2, 11)]
    firsts = [body["messages"][0]["content"] for body in bodies]
    assert [each["role"] for each in bodies[0]["messages"]] == roles
    assert [first[:8] for first in firsts] == ["[100000]", "[200000]", "[110000]"]
    assert len({first[8:] for first in firsts}) == 1
    assert bodies[0]["messages"][-1]["content"].endswith(CHAT.prompt)
    if chat.image:
        assert bodies[0]["messages"][-1]["images"] == ["AAAA"]
    for own in (chat.system, model.system):
        assert own is None or own in firsts[0]


def test_a_model_that_sees_nothing_gets_no_image() -> None:
    blind = replace(SEEING, capabilities=frozenset({"completion"}))
    with pytest.raises(Unsupported, match="m sees no images: Ollama lists completion"):
        body_of(replace(CHAT, image=IMAGE), model=blind)
    body_of(replace(CHAT, image=IMAGE), model=replace(SEEING, capabilities=None))  # an older server does not tell


def a_place(tmp_path: Path, said: list[str], cancelled: threading.Event | None = None) -> LoadPlace:
    stop = cancelled or threading.Event()
    return LoadPlace(tmp_path, tmp_path / "log", 10.0, SystemClock(), stop, said.append)


PULLED = lines_answer(
    {"status": "pulling manifest"},
    {"status": "pulling dde5aa3fc5ff", "digest": "sha256:dde5", "total": 2**31},
    {"status": "pulling dde5aa3fc5ff", "digest": "sha256:dde5", "total": 2**31, "completed": 2**31},
    {"status": "verifying sha256 digest"},
    {"status": "success"},
)


def test_a_model_that_is_missing_is_pulled_and_said(tmp_path: Path) -> None:
    routes = dict(ollama_routes())
    good = routes["POST /api/show"]
    routes["POST /api/show"] = (lines_answer({"error": "model 'llama3.2' not found"}, status=404), good)  # type: ignore[assignment]
    routes["POST /api/pull"] = PULLED
    said: list[str] = []
    with RecordedServer(routes) as server:
        session = Ollama(EngineEntry(url=server.url)).load(a_load(), a_place(tmp_path, said))
        assert server.asked_of("POST /api/pull")[0].json == {"model": "llama3.2", "stream": True}
        session.close()
    assert "Ollama fetches llama3.2: 2 GiB of 2 GiB" in said and said[-1] == "loading"


@pytest.mark.parametrize(
    ("answer", "cause", "words"),
    [
        (
            lines_answer({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}),
            Cause.MODEL_FILE_MISSING,
            "file does not exist",
        ),
        (lines_answer({"error": "write /root/.ollama: no space left on device"}), Cause.DISK_FULL, "no space left"),
        (lines_answer({"status": "pulling manifest"}), Cause.MODEL_FILE_MISSING, "without a word on why"),
        (lines_answer({"error": "bad name"}, status=400), Cause.MODEL_FILE_MISSING, "HTTP 400: bad name"),
    ],
)
def test_a_pull_that_fails(tmp_path: Path, answer: Any, cause: Cause, words: str) -> None:
    with RecordedServer({"POST /api/pull": answer}) as server, pytest.raises(LoadFailed) as caught:
        pull(Api(server.url), "m", a_place(tmp_path, []))
    assert caught.value.cause is cause and words in caught.value.detail


def test_a_cancel_ends_a_pull(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with RecordedServer({"POST /api/pull": PULLED}) as server, pytest.raises(LoadFailed) as caught:
        pull(Api(server.url), "m", a_place(tmp_path, [], stop))
    assert caught.value.cause is Cause.CANCELLED


def test_what_others_left_loaded_goes_first(tmp_path: Path) -> None:
    with RecordedServer(ollama_routes()) as server:
        engine = Ollama(EngineEntry(url=server.url))
        engine.load(a_load(), a_place(tmp_path, []))  # and never closed
        engine.load(a_load(), a_place(tmp_path, [])).close()
        order = [each.route for each in server.asked if each.route in ("POST /api/chat", "POST /api/generate")]
    assert order == ["POST /api/chat", "POST /api/generate", "POST /api/chat", "POST /api/generate"]


def test_a_load_that_left_nothing_loaded_is_a_failed_load(tmp_path: Path) -> None:
    routes = {**ollama_routes(), "GET /api/ps": json_answer({"models": []})}
    with RecordedServer(routes) as server, pytest.raises(LoadFailed, match="no more, though it said"):
        Ollama(EngineEntry(url=server.url)).load(a_load(), a_place(tmp_path, []))


@pytest.mark.parametrize(
    "models", [None, "?", [7], [{"name": "m", "size": "?", "size_vram": None, "context_length": "4k"}]]
)
def test_an_answer_of_another_shape_raises_nothing_foreign(models: Any) -> None:
    with RecordedServer({"GET /api/ps": json_answer({"models": models})}) as server:
        found = loaded_models(Api(server.url))
    assert found in ((), (LoadedModel("m", 0, 0, None),))
