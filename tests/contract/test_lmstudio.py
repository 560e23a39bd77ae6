"""LM Studio beyond the suite of all adapters: the runtime, the user's own instances, the token, an older server."""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agents.clock import SystemClock
from agents.contract.job import Chat, Image, LoadSettings, Runtime, Synthetic
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace
from agents.engines.lmstudio import adapter
from agents.engines.lmstudio.adapter import JOURNAL, LMStudio
from agents.engines.lmstudio.runtime import Lms, find_lms
from agents.errors import LoadFailed, Unsupported
from tests.contract.adapters.lmstudio import (
    BEFORE,
    INFO,
    LISTED,
    LMSTUDIO,
    LOADED,
    LOADS,
    MODEL,
    OLD_ANSWER,
    OLD_CHAT,
    OURS,
    RUNTIME,
    SETTINGS,
    UNLOADS,
    listed,
    recorded,
)
from tests.fakes.recorded_server import HOLD, RecordedServer, json_answer

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests/recordings/lmstudio/runtime_ls.txt"
VULKAN = "llama.cpp-linux-x86_64-vulkan-avx2@2.29.0"
CUDA = "llama.cpp-linux-x86_64-nvidia-cuda12-avx2@2.29.0"
ON_CUDA = replace(SETTINGS, runtime=Runtime.CUDA)
CUDA_ANSWER = {**OLD_ANSWER, "runtime": {**RUNTIME, "name": CUDA.partition("@")[0]}, "model_info": INFO}
CHAT = Chat("hello", "Say hello.", 16)


@dataclass
class FakeLms:
    program: Path
    table: Path
    notes: Path

    @property
    def selected(self) -> str:
        return next(line.split()[0] for line in self.table.read_text("utf-8").splitlines() if "✓" in line)

    @property
    def selects(self) -> list[str]:
        notes = self.notes.read_text("utf-8").splitlines() if self.notes.exists() else []
        return [line.split()[2] for line in notes if line.startswith("runtime select")]


@pytest.fixture
def lms(tmp_path: Path) -> FakeLms:
    one = FakeLms(tmp_path / "lms", tmp_path / "table.txt", tmp_path / "notes.txt")
    one.table.write_bytes(TABLE.read_bytes())
    words = shlex.join([sys.executable, str(ROOT / "tests/fakes/lms_program.py"), str(one.table), str(one.notes)])
    one.program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    one.program.chmod(0o755)
    return one


@pytest.fixture
def server() -> Iterator[RecordedServer]:
    with RecordedServer(LMSTUDIO.routes) as one:
        yield one


@pytest.fixture
def place(tmp_path: Path) -> LoadPlace:
    return LoadPlace(
        models=tmp_path / "device/models",
        log=tmp_path / "engine.log",
        timeout_s=20.0,
        clock=SystemClock(),
        cancelled=threading.Event(),
        notify=lambda stage: None,
    )


def made(server: RecordedServer, lms: FakeLms | None = None, **entry: Any) -> LMStudio:
    programs = (str(lms.program),) if lms else ()
    return LMStudio(EngineEntry(url=server.url, programs=programs, **entry))


def journal(place: LoadPlace) -> Path:
    return place.models.parent / JOURNAL


def test_its_runtimes_are_found_by_its_command_line(server: RecordedServer, lms: FakeLms) -> None:
    assert made(server, lms).find().runtimes == ("cpu", "cuda", "vulkan", "metal")
    port = server.url.rpartition(":")[2]
    assert lms.notes.read_text("utf-8") == f"runtime ls --port {port}\n"


def test_the_runtime_is_selected_for_the_load_and_set_back_at_the_close(
    server: RecordedServer, lms: FakeLms, place: LoadPlace
) -> None:
    server.answer(OLD_CHAT, json_answer(CUDA_ANSWER))
    session = made(server, lms).load(ON_CUDA, place)
    assert lms.selected == CUDA and journal(place).exists()
    assert session.loaded.engine_runtime == "llama.cpp-linux-x86_64-nvidia-cuda12-avx2 2.29.0"
    session.close()
    assert lms.selected == VULKAN and not journal(place).exists()
    assert lms.selects == [CUDA, VULKAN]


def test_a_runtime_that_is_selected_already_is_left_alone(
    server: RecordedServer, lms: FakeLms, place: LoadPlace
) -> None:
    made(server, lms).load(replace(SETTINGS, runtime=Runtime.VULKAN), place).close()
    assert lms.selects == [] and not journal(place).exists()


def test_a_runtime_that_is_not_installed_is_refused_with_the_list(
    server: RecordedServer, lms: FakeLms, place: LoadPlace
) -> None:
    with pytest.raises(Unsupported, match="runtime rocm") as caught:
        made(server, lms).load(replace(SETTINGS, runtime=Runtime.ROCM), place)
    assert caught.value.cause is Cause.RUNTIME_MISSING
    assert VULKAN in caught.value.detail and "lms runtime get" in caught.value.detail
    assert not server.asked_of(LOADS) and lms.selects == []


def test_a_runtime_without_lms_is_refused(
    server: RecordedServer, place: LoadPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "find_lms", lambda entry, url: None)
    with pytest.raises(Unsupported, match=r"lms program, which is not here.*engines\.lmstudio\.programs"):
        made(server).load(ON_CUDA, place)


def test_a_program_that_is_not_there_is_named(server: RecordedServer) -> None:
    with pytest.raises(Unsupported, match=r"engines\.lmstudio\.programs: /no/lms is no program"):
        LMStudio(EngineEntry(url=server.url, programs=("/no/lms",))).find()


def test_a_selection_that_does_not_hold_is_refused(server: RecordedServer, lms: FakeLms, place: LoadPlace) -> None:
    Path(f"{lms.table}.deaf").touch()
    with pytest.raises(Unsupported, match="lms runtime ls shows another"):
        made(server, lms).load(ON_CUDA, place)
    assert not server.asked_of(LOADS)


def test_a_model_that_runs_on_another_runtime_fails_and_is_unloaded(
    server: RecordedServer, lms: FakeLms, place: LoadPlace
) -> None:
    with pytest.raises(LoadFailed, match=r"cuda was selected, and the model runs on .*vulkan") as caught:
        made(server, lms).load(ON_CUDA, place)
    assert caught.value.cause is Cause.RUNTIME_MISSING
    assert server.asked_of(UNLOADS)[-1].json == {"instance_id": OURS}
    assert lms.selected == VULKAN


def test_after_a_crash_the_next_load_sets_the_runtime_back(
    server: RecordedServer, lms: FakeLms, place: LoadPlace
) -> None:
    server.answer(OLD_CHAT, json_answer(CUDA_ANSWER))
    made(server, lms).load(ON_CUDA, place)  # and never closed
    server.answer(LISTED, [*BEFORE, listed(OURS)])
    server.answer(OLD_CHAT, LMSTUDIO.routes[OLD_CHAT])
    made(server, lms).load(SETTINGS, place).close()
    assert lms.selected == VULKAN and not journal(place).exists()


def test_the_users_instance_is_named_and_left_alone(server: RecordedServer, place: LoadPlace) -> None:
    session = made(server).load(SETTINGS, place)
    assert dict(session.loaded.settings)["loaded_beside"] == MODEL
    assert (session.loaded.context_tokens_actual, session.loaded.model_bytes) == (16384, 17990911801)
    session.close()
    assert [asked.json for asked in server.asked_of(UNLOADS)] == [{"instance_id": OURS}]


def test_an_instance_that_was_there_before_is_not_unloaded(server: RecordedServer, place: LoadPlace) -> None:
    server.answer(LOADS, json_answer({**LOADED, "instance_id": MODEL}))
    made(server).load(SETTINGS, place).close()
    assert not server.asked_of(UNLOADS)


def test_after_a_cancel_only_what_came_up_is_unloaded(server: RecordedServer, place: LoadPlace) -> None:
    server.answer(LOADS, HOLD)
    server.answer(LISTED, [*BEFORE, listed(), listed(), listed(OURS, "google/gemma-4-26b-a4b:3")])

    def cancel() -> None:
        server.wait_for(LOADS)
        place.cancelled.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(LoadFailed):
        made(server).load(SETTINGS, place)
    thread.join()
    names = [asked.json["instance_id"] for asked in server.asked_of(UNLOADS)]
    assert names == [OURS, "google/gemma-4-26b-a4b:3"]


def test_the_token_comes_from_the_environment(
    server: RecordedServer, place: LoadPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    session = made(server, token_env="MY_TOKEN").load(SETTINGS, place)
    asked = [each for each in server.asked if each.path != "/lmstudio-greeting"]  # the SDK's, which is for all to see
    assert {each.headers["authorization"] for each in asked} == {"Bearer secret"}
    assert session.request_for(CHAT, 0).headers == {"Authorization": "Bearer secret"}
    assert "secret" not in repr(session.loaded)
    session.close()


def test_a_server_that_wants_a_token_says_where_it_comes_from() -> None:
    denied = json_answer({"error": {"message": "Invalid API token", "type": "invalid_request"}}, 401)
    wanted = r"Invalid API token.*variable LM_API_TOKEN"
    with RecordedServer({LISTED: denied}) as server, pytest.raises(Unsupported, match=wanted):
        made(server).find()


def test_no_two_requests_begin_alike(server: RecordedServer, place: LoadPlace) -> None:
    session = made(server).load(SETTINGS, place)
    bodies = {session.request_for(CHAT, 0).body for _ in range(3)}
    assert len(bodies) == 3 and len({len(body) for body in bodies}) == 1
    session.close()


def test_what_its_requests_cannot_hold_is_refused(server: RecordedServer, place: LoadPlace) -> None:
    session = made(server).load(LoadSettings("lmstudio", "deepseek-r1", context_tokens=16384), place)
    with pytest.raises(Unsupported, match="deepseek-r1 takes no images"):
        session.request_for(replace(CHAT, image=Image("dot.png", "image/png", 1, 1, "AA==")), 0)
    with pytest.raises(Unsupported, match="token ids"):
        session.request_for(Synthetic("pp8", 8), 0)
    session.close()


UNEXPECTED = json_answer(recorded("errors.json")["unexpected"])
OLD_ROUTES = {LISTED: UNEXPECTED, "GET /api/v0/models": json_answer(recorded("models_v0.json"))}


def test_an_older_server_is_found_by_its_older_interface() -> None:
    with RecordedServer(OLD_ROUTES) as server:
        assert made(server).find().version == "LM Studio, REST v0"


@pytest.mark.parametrize(
    ("routes", "settings", "words"),
    [
        (OLD_ROUTES, LoadSettings("lmstudio", "meta-llama-3.1-8b-instruct"), "loads models on a server before 0.4"),
        (
            LMSTUDIO.routes,
            replace(SETTINGS, kv_type_k="q8_0", mmap=False),
            "sets kv_type_k, mmap through its SDK alone",
        ),
    ],
)
def test_without_the_sdk_what_it_alone_does_is_refused(
    routes: Any, settings: LoadSettings, words: str, place: LoadPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "installed", lambda: False)
    with RecordedServer(routes) as server, pytest.raises(Unsupported) as caught:
        made(server).load(settings, place)
    assert words in caught.value.detail and "pip install 'orchestrate-bench[lmstudio]'" in caught.value.detail


@pytest.mark.parametrize(
    ("url", "name", "target"),
    [
        ("http://127.0.0.1:1234", "lms", ("--port", "1234")),
        ("http://172.20.0.1:1234", "lms.exe", ("--port", "1234")),  # of Windows, from WSL2
        ("http://172.20.0.1:1234", "lms", ("--host", "172.20.0.1", "--port", "1234")),
    ],
)
def test_lms_is_told_its_server(tmp_path: Path, url: str, name: str, target: tuple[str, ...]) -> None:
    program = tmp_path / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_lms(EngineEntry(programs=(str(program),)), url) == Lms(str(program), target)
