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

from agents.contract.device import EngineFound
from agents.contract.job import LoadSettings, Runtime, Workload
from agents.contract.report import Cause, Loaded
from agents.engines.base import LoadPlace, Request, Support
from agents.engines.http_stream import Exchange, Limits, Progress, exchange
from agents.engines.llama_log import cause_of_death, cause_of_failed_load, read_log
from agents.engines.llama_requests import llama_request
from agents.errors import EngineLost, LoadFailed, RequestFailed, Unsupported
from agents.models.resolve import ModelFiles, resolve

KV_TYPES = {
    name: f"GGML_TYPE_{name.upper()}"
    for name in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
}
FLASH_ATTENTION = {True: "LLAMA_FLASH_ATTN_TYPE_ENABLED", False: "LLAMA_FLASH_ATTN_TYPE_DISABLED"}
SPIN_COUNT = "10000"
"""GOMP_SPINCOUNT: with libgomp's default, threads that wait spin for long, and a busy core beside them brought 492
tokens/s down to 7; with this, 1,261."""
LOG_TAIL = 4000
POLL_S = 0.1  # how late a cancel or a time-out may be noticed during a load


class Embedded:
    """Finds and starts the engine of the ``xllamacpp`` wheel on this machine."""

    name = "embedded"

    def find(self) -> EngineFound | None:
        try:
            version = importlib.metadata.version("xllamacpp")
        except importlib.metadata.PackageNotFoundError:
            return None
        return EngineFound(self.name, f"xllamacpp {version}", _runtimes(), "PyPI package in this environment")

    def capabilities(self) -> Mapping[str, Support]:
        axes = (
            "engine model quantisation runtime context_tokens kv_type_k kv_type_v flash_attention gpu_layers threads"
            " batch_tokens micro_batch_tokens mmap keep_in_memory kv_offload source"
        )
        return dict.fromkeys(axes.split(), Support.SETS)

    def load(self, settings: LoadSettings, place: LoadPlace) -> EmbeddedSession:
        self._refuse(settings)
        place.say("preparing model")
        files = resolve(settings, place.models, place.say)
        place.say("loading")
        return EmbeddedSession(settings, files, place)

    def _refuse(self, settings: LoadSettings) -> None:
        found = _runtimes()
        if settings.runtime is not None and settings.runtime.value not in found:
            raise Unsupported(
                f"runtime {settings.runtime.value}: this xllamacpp wheel sees {', '.join(found)} here",
                Cause.RUNTIME_MISSING,
            )
        for kind in (settings.kv_type_k, settings.kv_type_v):
            if kind is not None and kind not in KV_TYPES:
                raise Unsupported(f"KV type {kind}: llama.cpp has {', '.join(KV_TYPES)}")


def _runtimes() -> tuple[str, ...]:
    """Back ends with a device that the wheel's llama.cpp lists; asked in a child, so that no driver is loaded here."""
    global _found_runtimes
    if _found_runtimes is None:
        script = "import json, xllamacpp; print(json.dumps([d['name'] for d in xllamacpp.get_device_info()]))"
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
        names = json.loads(child.stdout.splitlines()[-1]) if child.returncode == 0 and child.stdout else []
        if child.returncode != 0:
            raise Unsupported(f"xllamacpp cannot be used here: {child.stderr.strip()[-300:]}", Cause.RUNTIME_MISSING)
        kinds = {"vulkan": Runtime.VULKAN, "rocm": Runtime.ROCM, "hip": Runtime.ROCM, "cuda": Runtime.CUDA}
        kinds |= {"mtl": Runtime.METAL, "metal": Runtime.METAL, "cpu": Runtime.CPU}
        known = (kinds.get(name.lower().rstrip("0123456789")) for name in names)
        _found_runtimes = tuple(sorted({kind.value for kind in known if kind is not None}))
    return _found_runtimes


_found_runtimes: tuple[str, ...] | None = None


def engine_params(settings: LoadSettings, files: ModelFiles) -> dict[str, Any]:
    """``xllamacpp.CommonParams`` for these settings. PURE. What was not asked for is left to llama.cpp, except what
    would change a measurement: fitting to memory, prompt caches, parallel slots."""
    params: dict[str, Any] = {
        "model.path": str(files.path),
        "hostnames": ["127.0.0.1"],
        "port": 0,
        "fit_params": False,
        "cache_prompt": False,
        "cache_ram_mib": 0,
        "n_parallel": 1,
        "verbosity": 4,  # the least that prints the memory lines
        "sse_ping_interval": -1,
        "ui": False,
    }
    asked = {
        "mmproj.path": str(files.mmproj) if files.mmproj else None,
        "n_ctx": settings.context_tokens,
        "cache_type_k": KV_TYPES.get(settings.kv_type_k or ""),
        "cache_type_v": KV_TYPES.get(settings.kv_type_v or ""),
        "n_gpu_layers": 0 if settings.runtime is Runtime.CPU else settings.gpu_layers,
        "cpuparams.n_threads": settings.threads,
        "cpuparams_batch.n_threads": settings.threads,
        "n_batch": settings.batch_tokens,
        "n_ubatch": settings.micro_batch_tokens,
        "flash_attn_type": None if settings.flash_attention is None else FLASH_ATTENTION[settings.flash_attention],
        "load_mode": _load_mode(settings.mmap, settings.keep_in_memory),
        "no_kv_offload": None if settings.kv_offload is None else not settings.kv_offload,
    }
    return params | {name: value for name, value in asked.items() if value is not None}


def _load_mode(mmap: bool | None, keep_in_memory: bool | None) -> str | None:
    if mmap is None and keep_in_memory is None:
        return None
    mode = {(True, True): "MMAP_MLOCK", (True, False): "MMAP", (False, True): "MLOCK", (False, False): "NONE"}
    return "LLAMA_LOAD_MODE_" + mode[(mmap is not False, bool(keep_in_memory))]


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
            self._loaded = _loaded_of(settings, files, params, load_s, self._log())
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

    def check_alive(self) -> None:
        with suppress(subprocess.TimeoutExpired):  # a child that broke the stream is about to be reaped
            self._child.wait(timeout=1.0)
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
        message: dict[str, str] = json.loads(line) if line else {}
        if "address" in message:
            return message["address"]
        _end(self._child)
        log = self._log()
        cause, words = cause_of_failed_load(log, None if message else self._child.returncode)
        if not words and "error" in message:
            words = message["error"]
        raise LoadFailed(cause, words, log[-LOG_TAIL:])

    def _log(self) -> str:
        return self._log_path.read_text("utf-8", "replace") if self._log_path.exists() else ""


def _start(params: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", SPIN_COUNT)}
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "agents.engines.embedded_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
        )
    with suppress(BrokenPipeError):  # it died at once: its log says why
        _stdin(child).write(json.dumps(params).encode() + b"\n")
        _stdin(child).flush()
    return child


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
        settings=(*((name, str(value)) for name, value in params.items()), ("GOMP_SPINCOUNT", SPIN_COUNT)),
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
