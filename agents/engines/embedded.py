"""The embedded engine: llama.cpp's own server inside the ``xllamacpp`` wheel, one child process a configuration."""

from __future__ import annotations

import importlib.metadata
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from agents.clock import Clock
from agents.contract.device import EngineFound
from agents.contract.job import LoadSettings, Runtime, Workload
from agents.contract.report import Cause, Loaded
from agents.engines.base import DYING_S, LoadPlace, Request, Support
from agents.engines.http_stream import Exchange, Limits, Progress, exchange
from agents.engines.llama_devices import llama_devices, machine_bytes
from agents.engines.llama_log import cause_of_death, cause_of_failed_load, read_log
from agents.engines.llama_params import KV_TYPES, engine_params, refuse_what_no_memory_holds
from agents.engines.llama_requests import llama_request
from agents.errors import EngineLost, LoadFailed, RequestFailed, Unsupported
from agents.models.resolve import ModelFiles, resolve

SPIN_COUNT = "10000"
"""GOMP_SPINCOUNT: with libgomp's default, threads that wait spin for long, and a busy core beside them brought 492
tokens/s down to 7; with this, 1,261."""
LOG_TAIL = 4000
LOG_SETTLES_S = 3.0  # llama.cpp writes its log from a thread of its own: its last lines may come after the answer
LOG_OF_GOOD_LOAD, LOG_OF_FAILED_LOAD = "listening on", "exiting due to"  # the last words of either
POLL_S = 0.1  # how late a cancel or a time-out may be noticed during a load


class Embedded:
    """Finds and starts the engine of the ``xllamacpp`` wheel on this machine."""

    name = "embedded"

    def find(self) -> EngineFound:
        """Raises Unsupported where the wheel is not installed or cannot be loaded."""
        runtimes = llama_devices().runtimes
        version = importlib.metadata.version("xllamacpp")
        return EngineFound(self.name, f"xllamacpp {version}", runtimes, "PyPI package in this environment")

    def capabilities(self) -> Mapping[str, Support]:
        axes = (
            "engine model quantisation runtime context_tokens kv_type_k kv_type_v flash_attention gpu_layers threads"
            " batch_tokens micro_batch_tokens mmap keep_in_memory kv_offload source chat image synthetic exact_stop"
        )
        return dict.fromkeys(axes.split(), Support.SETS)

    def load(self, settings: LoadSettings, place: LoadPlace) -> EmbeddedSession:
        self._refuse(settings)
        place.say("preparing model")
        files = resolve(settings, place.models, place.say, place.peers)
        refuse_what_no_memory_holds(settings, files, machine_bytes())
        place.say("loading")
        return EmbeddedSession(settings, files, place)

    def _refuse(self, settings: LoadSettings) -> None:
        found = llama_devices().runtimes
        if settings.runtime is not None and settings.runtime.value not in found:
            raise Unsupported(
                f"runtime {settings.runtime.value}: this xllamacpp wheel sees {', '.join(found)} here",
                Cause.RUNTIME_MISSING,
            )
        for kind in (settings.kv_type_k, settings.kv_type_v):
            if kind is not None and kind not in KV_TYPES:
                raise Unsupported(f"KV type {kind}: llama.cpp has {', '.join(KV_TYPES)}")


class EmbeddedSession:
    """One child process with one loaded model. Raises LoadFailed from the constructor, with no process left."""

    def __init__(self, settings: LoadSettings, files: ModelFiles, place: LoadPlace) -> None:
        self._log_path = place.log
        params = engine_params(settings, files)
        started = place.clock.monotonic_ns()
        self._child = _start(params, place.log)
        try:
            self._address = self._ready(place)
            load_s = (place.clock.monotonic_ns() - started) / 1e9
            log = self._settled_log(LOG_OF_GOOD_LOAD, place.clock)
            if LOG_OF_GOOD_LOAD not in log:
                _refuse_full_disk(place.log)
            self._loaded = _loaded_of(settings, files, params, load_s, log)
            self._n_vocab = _n_vocab(self._address, files)
        except BaseException:
            self.close()
            raise

    @property
    def loaded(self) -> Loaded:
        return self._loaded

    def request_for(self, workload: Workload, nonce: int) -> Request:
        return llama_request(self._address, workload, self._n_vocab, nonce)

    def stream(
        self, request: Request, body: bytes, limits: Limits, progress: Progress, cancelled: threading.Event
    ) -> Exchange:
        return exchange(request.url, body, request.headers, limits, progress=progress, cancelled=cancelled)

    def check_alive(self, within_s: float = DYING_S) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=within_s)
        if self._child.returncode is None:
            return
        cause, words = cause_of_death(self._child.returncode)
        tail = self._log()[-LOG_TAIL:]
        if cause is Cause.ENGINE_LOST:
            raise EngineLost(words, tail)
        raise RequestFailed(cause, words, tail)

    def close(self) -> None:
        _end(self._child)

    def _ready(self, place: LoadPlace) -> str:
        """Waits for the child's one line. The address of its server; raises LoadFailed."""
        line = _read_line(self._child, place)
        message: dict[str, str] = json.loads(line) if line.startswith(b"{") else {}
        if "address" in message:
            return message["address"]
        error = message.get("error", "")
        if "Failed to init" not in error:  # not llama.cpp's own words, which are in its log
            _end(self._child)
            cause, words = cause_of_failed_load(self._log(), self._child.returncode)
            if error:
                cause = Cause.RUNTIME_MISSING if error.startswith("ImportError") else Cause.LOAD_FAILED
                words = error
            raise LoadFailed(cause, words, self._log()[-LOG_TAIL:])
        log = self._settled_log(LOG_OF_FAILED_LOAD, place.clock)
        if LOG_OF_FAILED_LOAD not in log:
            _refuse_full_disk(place.log)
        cause, words = cause_of_failed_load(log, None)
        raise LoadFailed(cause, words, log[-LOG_TAIL:])

    def _settled_log(self, last_words: str, clock: Clock) -> str:
        """The log when ``last_words`` stand in it, or as it is after LOG_SETTLES_S."""
        deadline = clock.monotonic_ns() + int(LOG_SETTLES_S * 1e9)
        while last_words not in (log := self._log()) and clock.monotonic_ns() < deadline:
            clock.sleep(0.01)
        return log

    def _log(self) -> str:
        return self._log_path.read_text("utf-8", "replace") if self._log_path.exists() else ""


def _start(params: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOMP_SPINCOUNT": _spin_count()}
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "agents.engines.embedded_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
        )
    with suppress(BrokenPipeError):  # it died at once: its log says why
        _stdin(child).write(json.dumps(params).encode() + b"\n")
        _stdin(child).flush()
    return child


def _spin_count() -> str:
    return os.environ.get("GOMP_SPINCOUNT", SPIN_COUNT)


def _refuse_full_disk(log: Path) -> None:
    """Raises LoadFailed (DISK_FULL) if the log's disk takes no more: without its log nothing is known of a load."""
    probe = log.with_suffix(".full")
    try:
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        raise LoadFailed(Cause.DISK_FULL, f"the engine's log {log} cannot be written: {error.strerror}") from error
    finally:
        probe.unlink(missing_ok=True)


def _stdin(child: subprocess.Popen[bytes]) -> IO[bytes]:
    assert child.stdin is not None
    return child.stdin


def _read_line(child: subprocess.Popen[bytes], place: LoadPlace) -> bytes:
    """The child's first line, b"" if it ended without one. Raises LoadFailed on time-out and cancel."""
    assert child.stdout is not None
    deadline = place.clock.monotonic_ns() + int(place.timeout_s * 1e9)
    while not select.select([child.stdout], [], [], POLL_S)[0]:
        if place.cancelled.is_set():
            raise LoadFailed(Cause.CANCELLED, "cancelled while the model was loading")
        if place.clock.monotonic_ns() > deadline:
            raise LoadFailed(Cause.LOAD_TIMEOUT, f"not loaded within {place.timeout_s:g} s")
    return child.stdout.readline()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the child and reaps it. Killed at once: what it holds is memory, and its own way out was seen to hang."""
    with suppress(OSError):
        child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _loaded_of(settings: LoadSettings, files: ModelFiles, params: dict[str, Any], load_s: float, log: str) -> Loaded:
    """What the log tells of the load. Raises LoadFailed if a GPU was asked for and no layer went there."""
    facts = read_log(log)
    on_gpu = settings.runtime not in (None, Runtime.CPU)
    if on_gpu and settings.gpu_layers != 0 and not facts.layers_offloaded:
        raise LoadFailed(
            Cause.RUNTIME_MISSING,
            f"runtime {settings.runtime} was asked for, but the engine put no layer on a GPU"
            f" (it would have run on the CPU); devices it used: {', '.join(facts.devices) or 'none'}",
            log[-LOG_TAIL:],
        )
    model = files.facts.file_bytes if files.facts else files.path.stat().st_size
    projector = files.mmproj.stat().st_size if files.mmproj else 0
    return Loaded(
        load_s=load_s,
        reused=False,
        engine_version=f"xllamacpp {importlib.metadata.version('xllamacpp')}",
        engine_runtime=", ".join(facts.devices) or Runtime.CPU.value,
        model_file=files.path.name,
        model_bytes=model + projector,
        model_sha256=files.sha256,
        model_architecture=files.facts.architecture if files.facts else None,
        layers_offloaded=facts.layers_offloaded,
        layers_total=facts.layers_total,
        weights_bytes=facts.weights_bytes,
        kv_bytes=facts.kv_bytes,
        compute_bytes=facts.compute_bytes,
        context_tokens_actual=facts.context_tokens,
        settings=(
            *((name, str(value)) for name, value in params.items()),
            ("GOMP_SPINCOUNT", _spin_count()),
            ("nice", str(os.getpriority(os.PRIO_PROCESS, 0))),  # Ray's workers run at 15 unless it is told otherwise
            *((f"log.{name}", value) for name, value in facts.told),
        ),
    )


def _n_vocab(address: str, files: ModelFiles) -> int:
    """Size of the vocabulary: from the file, else asked of the engine."""
    if files.facts is not None and files.facts.n_vocab:
        return files.facts.n_vocab
    import httpx

    try:
        answer = httpx.get(f"{address}/v1/models", timeout=10.0, trust_env=False).raise_for_status().json()
        return int(answer["data"][0]["meta"]["n_vocab"])
    except (httpx.HTTPError, KeyError, IndexError, TypeError, ValueError) as error:
        raise LoadFailed(Cause.LOAD_FAILED, f"the engine does not tell its vocabulary: {error!r}") from error
