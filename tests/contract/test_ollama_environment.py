"""The environment of an Ollama server: journalled, written, read back from the restarted process, restored."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from agents.clock import SystemClock
from agents.contract.job import LoadSettings, Runtime
from agents.device_file import EngineEntry
from agents.engines.ollama.adapter import Ollama
from agents.engines.ollama.api import version_of
from agents.engines.ollama.environment import ServerEnvironment, changed_text, environment_for
from agents.engines.server.api import Api, ApiError
from agents.errors import LoadFailed, Unsupported
from tests.fakes import restarted_ollama

OWN = "# of the owner\nOLLAMA_HOST=0.0.0.0\nOLLAMA_KV_CACHE_TYPE=f16\n"
WANTED = {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "1"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="a script's process has another name elsewhere")


def a_load(**fields: Any) -> LoadSettings:
    return LoadSettings("ollama", "llama3.2", **fields)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, {}),
        ({"runtime": Runtime.CPU}, {}),
        ({"runtime": Runtime.METAL}, {}),
        ({"runtime": Runtime.VULKAN}, {"OLLAMA_LLM_LIBRARY": "vulkan", "OLLAMA_VULKAN": "1"}),
        (
            {"runtime": Runtime.ROCM},
            {"OLLAMA_LLM_LIBRARY": "", "OLLAMA_VULKAN": "0", "CUDA_VISIBLE_DEVICES": "-1"},
        ),
        ({"kv_type_k": "q8_0", "kv_type_v": "q8_0", "flash_attention": True}, WANTED),
        ({"flash_attention": False}, {"OLLAMA_FLASH_ATTENTION": "0"}),
    ],
)
def test_what_a_cell_asks_of_the_environment(asked: dict[str, Any], wanted: dict[str, str]) -> None:
    assert environment_for(a_load(**asked)) == wanted


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"kv_type_k": "q8_0"}, "one type for the K and the V cache"),
        ({"kv_type_k": "q8_0", "kv_type_v": "f16"}, "one type for the K and the V cache"),
        ({"kv_type_k": "q5_1", "kv_type_v": "q5_1"}, "KV type q5_1: Ollama has f16, q8_0, q4_0"),
    ],
)
def test_what_its_environment_cannot_say(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        environment_for(a_load(**asked))


def test_the_owners_lines_stay() -> None:
    assert changed_text(OWN, WANTED) == (
        "# of the owner\nOLLAMA_HOST=0.0.0.0\nOLLAMA_FLASH_ATTENTION=1\nOLLAMA_KV_CACHE_TYPE=q8_0\n"
    )
    assert changed_text("", {}) == "\n"


@pytest.mark.parametrize("entry", [EngineEntry(), EngineEntry(restart=("true",)), EngineEntry(environment_file="/x")])
def test_without_the_owners_leave_the_words_say_what_to_set(entry: EngineEntry) -> None:
    environment = ServerEnvironment(entry, Api("http://127.0.0.1:9"))
    environment.refuse({})
    with pytest.raises(Unsupported, match=r"restart: .* environment_file: FILE") as caught:
        environment.apply(WANTED)
    assert "OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE=q8_0" in caught.value.detail


@pytest.fixture
def entry(tmp_path: Path) -> Iterator[EngineEntry]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = restarted_ollama.make(tmp_path, port)
    (tmp_path / "ollama.env").write_text(OWN)
    yield EngineEntry(url=f"http://127.0.0.1:{port}", restart=command, environment_file=str(tmp_path / "ollama.env"))
    restarted_ollama.end(tmp_path)


def environment_of(entry: EngineEntry, **more: Any) -> ServerEnvironment:
    return ServerEnvironment(entry, Api(entry.url or ""), **more)


def served(folder: Path) -> dict[str, str]:
    """The environment of the server that runs."""
    return psutil.Process(int((folder / "pid").read_text())).environ()


@linux
def test_it_is_set_in_the_server_and_taken_back(tmp_path: Path, entry: EngineEntry) -> None:
    environment = environment_of(entry)
    environment.apply(WANTED)
    assert served(tmp_path).items() >= WANTED.items()
    first = int((tmp_path / "pid").read_text())
    environment.apply({"OLLAMA_KV_CACHE_TYPE": "q4_0"})  # of the next cell: the journal keeps the owner's text
    assert served(tmp_path)["OLLAMA_KV_CACHE_TYPE"] == "q4_0"
    assert not psutil.pid_exists(first) or psutil.Process(first).status() == psutil.STATUS_ZOMBIE
    environment.restore()
    assert (tmp_path / "ollama.env").read_text() == OWN
    assert served(tmp_path)["OLLAMA_KV_CACHE_TYPE"] == "f16"
    assert not (tmp_path / "ollama.env.before-orchestrate").exists()


def test_a_file_that_was_not_there_is_not_there_afterwards(tmp_path: Path, entry: EngineEntry) -> None:
    (tmp_path / "ollama.env").unlink()
    environment = environment_of(entry)
    environment.apply(WANTED)
    assert "OLLAMA_FLASH_ATTENTION=1" in (tmp_path / "ollama.env").read_text()
    environment.restore()
    assert not (tmp_path / "ollama.env").exists()


def test_what_a_crash_left_is_taken_back_at_the_next_start(tmp_path: Path, entry: EngineEntry) -> None:
    environment_of(entry).apply(WANTED)
    journal = tmp_path / "ollama.env.before-orchestrate"
    Ollama(entry).restore_after_crash()  # its process still runs: another agent's start changes nothing
    assert (tmp_path / "ollama.env").read_text() != OWN
    note = json.loads(journal.read_text())
    journal.write_text(json.dumps({**note, "started": note["started"] - 1000.0}))  # as of a process that is gone
    assert Ollama(entry).find().version == "0.33.0"
    assert (tmp_path / "ollama.env").read_text() != OWN, "to look for it changes nothing"
    Ollama(entry).restore_after_crash()
    assert (tmp_path / "ollama.env").read_text() == OWN and not journal.exists()


class UntilItAnswers:
    """A clock that stands still until the server answers, and is past everything then."""

    unix_s = staticmethod(SystemClock.unix_s)

    def __init__(self, url: str) -> None:
        self._api, self._over = Api(url), False

    def sleep(self, seconds: float) -> None:
        SystemClock.sleep(seconds)
        with suppress(ApiError):
            self._over = bool(version_of(self._api))

    def monotonic_ns(self) -> int:
        return 10**15 if self._over else 0


@linux
def test_a_service_that_does_not_read_the_file_is_noticed(tmp_path: Path, entry: EngineEntry) -> None:
    (tmp_path / "deaf").touch()
    words = r"without OLLAMA_FLASH_ATTENTION, OLLAMA_KV_CACHE_TYPE: does its service read .*ollama\.env"
    with pytest.raises(LoadFailed, match=words):
        environment_of(entry, clock=UntilItAnswers(entry.url or "")).apply(WANTED)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            (sys.executable, "-c", "import sys; sys.exit('Unit ollama.service not found.')"),
            "Unit ollama.service not found.",
        ),
        (("/no/such/program",), "No such file"),
    ],
)
def test_a_restart_that_fails_keeps_its_words_and_the_journal(
    tmp_path: Path, entry: EngineEntry, command: tuple[str, ...], words: str
) -> None:
    environment = environment_of(entry.model_copy(update={"restart": command}))
    with pytest.raises(LoadFailed, match=words):
        environment.apply(WANTED)
    with pytest.raises(LoadFailed, match=words):
        environment.restore()
    assert (tmp_path / "ollama.env").read_text() == OWN  # and the next start restarts the server
    assert (tmp_path / "ollama.env.before-orchestrate").exists()


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, entry: EngineEntry) -> None:
    there = entry.model_copy(update={"environment_file": str(tmp_path / "no/such/folder/ollama.env")})
    with pytest.raises(Unsupported, match="cannot be written"):
        environment_of(there).apply(WANTED)
