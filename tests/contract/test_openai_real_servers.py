"""Real OpenAI-compatible servers with tiny models: llama.cpp's (in the xllamacpp wheel), and others that are no
dependencies of the project, each where a variable names an interpreter that has it:

MLX_LM_PYTHON            pip install 'mlx[cpu]' mlx-lm            45 s, 355 MB; or installed here
LLAMA_CPP_PYTHON         pip install 'llama-cpp-python[server]'   builds llama.cpp, 5 minutes on 2 cores
TRANSFORMERS_PYTHON      pip install 'transformers[serving]' torch   90 s, some GB
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from agents.clock import SystemClock
from agents.contract.job import Chat, Job, LoadSettings, Stop, Timeouts
from agents.contract.measure import Flag, StopReason, Trial
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Session, Support
from agents.engines.openai.adapter import OpenAIServer
from agents.errors import EngineLost, RequestFailed, Unsupported
from agents.job.measure import measure
from agents.models.tiny.make import make_tiny
from tests.contract.test_tiny_models_run import served
from tests.fakes.tiny_hf import make_tiny_hf
from tests.waiting import until

MLX_PYTHON = os.environ.get("MLX_LM_PYTHON") or (sys.executable if importlib.util.find_spec("mlx_lm") else None)
LLAMA_CPP_PYTHON = os.environ.get("LLAMA_CPP_PYTHON")
TRANSFORMERS_PYTHON = os.environ.get("TRANSFORMERS_PYTHON")
Server = Callable[[Path], AbstractContextManager[str]]
CHAT = Chat("long", "Which of these devices is the best one, and why would that be so? " * 8, 16)


@contextmanager
def llama_cpp(folder: Path) -> Iterator[str]:
    with served(make_tiny("llama", "Q8_0", folder), folder / "log") as client:
        yield str(client.base_url).rstrip("/")


def mlx_lm(folder: Path) -> AbstractContextManager[str]:
    (folder / "hf/hub").mkdir(parents=True)  # without it the server cannot list its models
    return started(
        MLX_PYTHON, "-m", "mlx_lm", "server", "--model", str(make_tiny_hf(folder / "tiny-hf")), folder=folder
    )


def llama_cpp_python(folder: Path) -> AbstractContextManager[str]:
    model = str(make_tiny("llama", "Q8_0", folder).path)
    return started(LLAMA_CPP_PYTHON, "-m", "llama_cpp.server", "--model", model, "--n_ctx", "2048", folder=folder)


def transformers(folder: Path) -> AbstractContextManager[str]:
    program = "from transformers.cli.transformers import main; main()"
    model = str(make_tiny_hf(folder / "tiny-hf"))
    return started(TRANSFORMERS_PYTHON, "-c", program, "serve", model, "--device", "cpu", folder=folder)


@contextmanager
def started(python: str | None, *arguments: str, folder: Path) -> Iterator[str]:
    """A server that takes ``--host`` and ``--port``; its address."""
    assert python
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, *arguments, "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    offline = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=offline) as child:
        try:
            until(lambda: child.poll() is not None or up(port), "the server")
            assert child.returncode is None, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            child.kill()


def up(port: int) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).status_code == 200
    return False


MLX = pytest.param(mlx_lm, marks=pytest.mark.skipif(MLX_PYTHON is None, reason="mlx-lm is not installed"), id="mlx")
PLAIN = [
    pytest.param(llama_cpp_python, marks=pytest.mark.skipif(not LLAMA_CPP_PYTHON, reason="not here"), id="llama_cpp"),
    pytest.param(transformers, marks=pytest.mark.skipif(not TRANSFORMERS_PYTHON, reason="not here"), id="transformers"),
]
BOTH = pytest.mark.parametrize("serve", [pytest.param(llama_cpp, id="llama.cpp"), MLX])


def engine_at(url: str) -> OpenAIServer:
    return OpenAIServer(EngineEntry(url=url))


def settings_at(url: str) -> LoadSettings:
    """The server's own name for the one model that it has."""
    (model,) = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]
    return LoadSettings("openai", model["id"])


def loaded(url: str, tmp_path: Path) -> Session:
    place = LoadPlace(tmp_path, tmp_path / "log", 60.0, SystemClock(), threading.Event(), lambda phase: None)
    return engine_at(url).load(settings_at(url), place)


def trials_of(session: Session, chat: Chat, warmups: int) -> list[Trial]:
    load = LoadSettings("openai", "m")
    job = Job("j", 1, "c", "cell", "d", 0, load, chat, timeouts=Timeouts(60.0, 60.0, 60.0), keep_output=True)
    return list(measure(job, session, warmups, threading.Event(), lambda phase, live: None))


def cached_when_sent_twice(session: Session) -> int:
    """What the server takes from its cache where the very same bytes come again."""
    request = session.request_for(CHAT, 0)
    told = []
    for _ in range(2):
        answer = httpx.post(
            request.url, content=request.body, headers=dict(request.headers), timeout=60, trust_env=False
        )
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        usage = [event["usage"] for event in events if event.get("usage")][-1]
        told.append((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))
    return int(told[1])


@BOTH
def test_repeats_are_counted_and_none_comes_from_a_cache(serve: Server, tmp_path: Path) -> None:
    with serve(tmp_path) as url:
        session = loaded(url, tmp_path)
        first = trials_of(session, CHAT, warmups=2)
        again = trials_of(session, CHAT, warmups=0)  # a repeat in a job of its own
        other = trials_of(loaded(url, tmp_path), CHAT, warmups=0)  # and one after another agent's start
        for trial in first + again + other:
            assert trial.prompt_tokens == first[0].prompt_tokens and (trial.prompt_tokens or 0) > 100
            assert (trial.completion_tokens, trial.stop_reason) == (16, StopReason.LENGTH)
            assert trial.engine.cached_tokens is not None and trial.engine.cached_tokens < 16
            assert not {Flag.PROMPT_CACHED, Flag.TOKEN_COUNT_UNKNOWN, Flag.FEWER_TOKENS} & set(trial.flags)
            assert trial.output
        if serve is mlx_lm:
            assert cached_when_sent_twice(session) > 100  # it would have


@pytest.mark.parametrize("serve", PLAIN)
def test_a_server_that_tells_little(serve: Server, tmp_path: Path) -> None:
    """llama_cpp.server streams no counts: an answer that was cut at its limit has as many pieces as tokens."""
    with serve(tmp_path) as url:
        session = loaded(url, tmp_path)
        for trial in trials_of(session, CHAT, warmups=1):
            assert (trial.completion_tokens, trial.stop_reason) == (16, StopReason.LENGTH)
            assert not {Flag.TOKEN_COUNT_UNKNOWN, Flag.FEWER_TOKENS} & set(trial.flags)
        assert dict(session.loaded.settings)["prompt cache"] == "nonce"
        assert engine_at(url).capabilities()["exact_stop"] is Support.CANNOT


def test_llama_cpp_is_known_and_its_cache_is_off(tmp_path: Path) -> None:
    with llama_cpp(tmp_path) as url:
        found = engine_at(url).find()
        assert found.version.startswith("llama.cpp (owned_by llamacpp") and found.where == url
        session = loaded(url, tmp_path)
        assert session.loaded.engine_version.startswith("llama.cpp b")
        assert dict(session.loaded.settings)["prompt cache"] == "off"
        assert engine_at(url).capabilities()["exact_stop"] is Support.SETS
        one, two = trials_of(session, replace(CHAT, stop=Stop.EXACT), warmups=1)
        assert (one.engine.cached_tokens, two.engine.cached_tokens) == (0, 0)
        assert one.output_sha256 == two.output_sha256  # the prompt itself was left alone
        assert [arrival.tokens for arrival in two.arrivals] == [1] * 16


@pytest.mark.skipif(MLX_PYTHON is None, reason="mlx-lm is not installed")
def test_mlx_lm_tells_its_version_in_the_stream(tmp_path: Path) -> None:
    with mlx_lm(tmp_path) as url:
        session = loaded(url, tmp_path)
        assert session.loaded.engine_version.startswith("OpenAI-compatible 0.")
        assert dict(session.loaded.settings)["prompt cache"] == "nonce"
        assert engine_at(url).capabilities()["exact_stop"] is Support.CANNOT


def test_a_prompt_that_is_too_long_is_told_as_such(tmp_path: Path) -> None:
    with llama_cpp(tmp_path) as url:
        session = loaded(url, tmp_path)
        with pytest.raises(RequestFailed) as caught:
            trials_of(session, replace(CHAT, prompt="word " * 5000), warmups=0)
    assert caught.value.cause is Cause.PROMPT_TOO_LONG


@BOTH
def test_a_model_that_it_does_not_have_is_refused(serve: Server, tmp_path: Path) -> None:
    with serve(tmp_path) as url:
        place = LoadPlace(tmp_path, tmp_path / "log", 60.0, SystemClock(), threading.Event(), lambda phase: None)
        with pytest.raises(Unsupported, match="the server has no model gpt-7; it lists /"):
            engine_at(url).load(LoadSettings("openai", "gpt-7"), place)


@BOTH
def test_a_server_that_is_killed_is_noticed(serve: Server, tmp_path: Path) -> None:
    with serve(tmp_path) as url:
        session = loaded(url, tmp_path)
        session.check_alive(within_s=0.0)
    with pytest.raises(EngineLost):
        session.check_alive(within_s=0.0)
    session.close()
