"""Every adapter against recorded answers of its engine's server: one suite, one record an adapter.

A new adapter: a file under ``tests/contract/adapters/`` with its ``Adapter`` record, and its name in ADAPTERS below.
``adapters/made_up.py`` shows the smallest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.clock import SystemClock
from agents.contract.job import Chat, Image, Job, Timeouts
from agents.contract.measure import StopReason, Trial
from agents.contract.report import Cause
from agents.engines.base import ABILITIES, AXES_OF_LOADS, LoadPlace, Session, Support, refuse_settings
from agents.errors import AgentError, EngineLost, LoadFailed, RequestFailed, Unsupported
from agents.job.measure import measure
from tests.contract.adapters.lemonade import LEMONADE
from tests.contract.adapters.llama_server import ROUTER, RUNNING
from tests.contract.adapters.lmstudio import LMSTUDIO
from tests.contract.adapters.made_up import MADE_UP
from tests.contract.adapters.ollama import OLLAMA
from tests.contract.adapters.openai import MLX, VLLM
from tests.contract.adapters.record import Adapter, BadLoad, id_of
from tests.fakes.recorded_server import HOLD, RecordedServer, json_answer, text_answer

ADAPTERS: tuple[Adapter, ...] = (LEMONADE, LMSTUDIO, MADE_UP, MLX, OLLAMA, VLLM, ROUTER, RUNNING)
LOADING = tuple(each for each in ADAPTERS if each.loads)
UNLOADING = tuple(each for each in ADAPTERS if each.unloads)
SEEING = tuple(each for each in ADAPTERS if each.images)

CHAT = Chat("hello", "Say hello.", 16)
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
each_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=id_of)
each_loading = pytest.mark.parametrize("adapter", LOADING, ids=id_of)
each_unloading = pytest.mark.parametrize("adapter", UNLOADING, ids=id_of)


@pytest.fixture
def server(adapter: Adapter) -> Iterator[RecordedServer]:
    with RecordedServer(adapter.routes) as one:
        yield one


@pytest.fixture
def place(tmp_path: Path) -> LoadPlace:
    cancelled = threading.Event()

    def notify(stage: str) -> None:
        if cancelled.is_set():
            raise LoadFailed(Cause.CANCELLED, "cancelled while the model was prepared")

    return LoadPlace(tmp_path / "models", tmp_path / "logs/engine.log", 20.0, SystemClock(), cancelled, notify)


def load(adapter: Adapter, server: RecordedServer, place: LoadPlace) -> Session:
    return adapter.make(server.url).load(adapter.settings, place)


def trial_of(session: Session, adapter: Adapter, chat: Chat = CHAT) -> Trial:
    timeouts = Timeouts(load_s=20.0, first_token_s=20.0, trial_s=20.0)
    job = Job("j", 1, "c", "cell", "d", 0, adapter.settings, chat, warmups=0, timeouts=timeouts, keep_output=True)
    (trial,) = measure(job, session, 0, threading.Event(), lambda phase, live: None)
    return trial


@each_adapter
def test_it_finds_its_server(adapter: Adapter, server: RecordedServer) -> None:
    engine = adapter.make(server.url)
    found = engine.find()
    assert found.name == engine.name == adapter.settings.engine
    assert adapter.version in found.version and found.where
    if adapter.loads:
        assert not server.asked_of(adapter.loads)


@each_adapter
def test_nobody_there_is_told_in_words(adapter: Adapter) -> None:
    with RecordedServer({}) as gone:
        url = gone.url
    with pytest.raises(Unsupported) as caught:
        adapter.make(url).find()
    assert url in caught.value.detail or url.removeprefix("http://") in caught.value.detail


@each_adapter
def test_another_server_is_not_taken_for_it(adapter: Adapter) -> None:
    pages = dict.fromkeys(adapter.routes, text_answer("<html>It works!</html>", content_type="text/html"))
    others = dict.fromkeys(adapter.routes, json_answer({"hello": []}))
    for routes in ({}, pages, others):
        with RecordedServer(routes) as other, pytest.raises(Unsupported):
            adapter.make(other.url).find()


@each_adapter
def test_it_says_what_it_can_do_with_each_axis(adapter: Adapter, server: RecordedServer) -> None:
    support = adapter.make(server.url).capabilities()
    assert set(support) <= {*AXES_OF_LOADS, *ABILITIES}
    assert support["chat"] is Support.SETS
    assert (support.get("image") is Support.SETS) is adapter.images


@each_adapter
def test_a_load_tells_its_version(adapter: Adapter, server: RecordedServer, place: LoadPlace) -> None:
    session = load(adapter, server, place)
    assert adapter.version in session.loaded.engine_version
    assert session.loaded.engine_runtime == adapter.runtime
    load_s = session.loaded.load_s  # unknown of a server that is taken as it runs
    assert not session.loaded.reused and (load_s is None or load_s > 0 or not adapter.loads)
    session.check_alive(within_s=0.0)
    session.close()


@each_loading
def test_the_settings_arrive(adapter: Adapter, server: RecordedServer, place: LoadPlace) -> None:
    session = load(adapter, server, place)
    assert adapter.loads
    sent = server.asked_of(adapter.loads)[-1].json
    assert {name: sent.get(name) for name in adapter.arrives} == dict(adapter.arrives)
    assert session.loaded.settings
    session.close()


@pytest.mark.parametrize(
    ("adapter", "index"), [(each, index) for each in ADAPTERS for index in range(len(each.refused))]
)
def test_what_it_cannot_is_refused_before_a_load(
    adapter: Adapter, index: int, server: RecordedServer, place: LoadPlace
) -> None:
    engine, settings = adapter.make(server.url), adapter.refused[index]
    with pytest.raises(Unsupported):
        refuse_settings(engine.name, engine.capabilities(), settings)
        engine.load(settings, place)
    assert adapter.loads is None or not server.asked_of(adapter.loads)


@each_adapter
def test_the_figures_of_a_chat(adapter: Adapter, server: RecordedServer, place: LoadPlace) -> None:
    session, wanted = load(adapter, server, place), adapter.figures
    cut = wanted.stop_reason is StopReason.LENGTH
    trial = trial_of(session, adapter, replace(CHAT, max_tokens=wanted.tokens) if cut else CHAT)
    seen = (trial.prompt_tokens, trial.completion_tokens, trial.reasoning_tokens, trial.stop_reason, trial.engine)
    assert seen == (wanted.prompt_tokens, wanted.tokens, wanted.reasoning_tokens, wanted.stop_reason, wanted.engine)
    assert trial.output == wanted.text
    assert CHAT.prompt in server.asked_of(adapter.chat)[-1].body.decode()
    session.close()


@pytest.mark.parametrize("adapter", SEEING, ids=id_of)
def test_an_image_goes_with_its_request(adapter: Adapter, server: RecordedServer, place: LoadPlace) -> None:
    session = load(adapter, server, place)
    trial_of(session, adapter, replace(CHAT, image=Image("dot.png", "image/png", 1, 1, PNG)))
    assert PNG in server.asked_of(adapter.chat)[-1].body.decode()
    session.close()


@each_adapter
def test_an_error_in_the_stream(adapter: Adapter, server: RecordedServer, place: LoadPlace) -> None:
    session = load(adapter, server, place)
    server.answer(adapter.chat, adapter.stream_error)
    with pytest.raises(RequestFailed) as caught:
        trial_of(session, adapter)
    assert adapter.stream_error_words in caught.value.detail
    session.close()


@pytest.mark.parametrize(("adapter", "bad"), [(each, bad) for each in ADAPTERS for bad in each.bad_loads])
def test_a_load_that_fails_keeps_the_engines_words(
    adapter: Adapter, bad: BadLoad, server: RecordedServer, place: LoadPlace
) -> None:
    for route, answer in bad.routes.items():
        server.answer(route, answer)
    with pytest.raises(AgentError) as caught:
        load(adapter, server, place)
    assert isinstance(caught.value, LoadFailed | Unsupported)
    assert (caught.value.cause, bad.words in caught.value.detail) == (bad.cause, True), caught.value.detail


@each_unloading
def test_a_cancel_during_the_load_unloads(adapter: Adapter, server: RecordedServer, place: LoadPlace) -> None:
    assert adapter.loads and adapter.unloads
    for route, answer in (adapter.loading or {adapter.loads: HOLD}).items():
        server.answer(route, answer)
    cancel = _when(lambda: server.wait_for(adapter.loads or ""), place.cancelled.set)
    with pytest.raises(LoadFailed) as caught:
        load(adapter, server, place)
    cancel.join()
    assert caught.value.cause is Cause.CANCELLED
    server.wait_for(adapter.unloads)


@each_unloading
def test_closing_unloads_and_never_raises(adapter: Adapter, server: RecordedServer, place: LoadPlace) -> None:
    assert adapter.unloads
    before = len(server.asked_of(adapter.unloads))
    load(adapter, server, place).close()
    assert len(server.asked_of(adapter.unloads)) > before
    session = load(adapter, server, place)
    server.answer(adapter.unloads, json_answer({"error": "no"}, 500))
    session.close()


@each_adapter
def test_a_server_that_ended(adapter: Adapter, server: RecordedServer, place: LoadPlace) -> None:
    session = load(adapter, server, place)
    server.stop()
    with pytest.raises(EngineLost):
        session.check_alive(within_s=0.0)
    with pytest.raises(AgentError):
        trial_of(session, adapter)
    session.close()


def _when(first: Callable[[], object], then: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        first()
        then()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
