"""A llama.cpp server that this agent started: its session, and the facts of its load from its log."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from agents.contract.job import LoadSettings, Runtime, Workload
from agents.contract.report import Cause, Loaded
from agents.engines.base import DYING_S, Request
from agents.engines.llama.child import LOG_TAIL, Child, environment_facts
from agents.engines.llama.log import read_log
from agents.engines.llama.requests import llama_request, with_text_tokens
from agents.engines.server.api import Api, ApiError
from agents.engines.stream.exchange import Exchange, Limits, LiveCount, exchange
from agents.errors import LoadFailed
from agents.models.store.files import ModelFiles

END_OF_GOOD_LOAD, END_OF_FAILED_LOAD = "listening on", "exiting due to"  # what llama.cpp logs last


class ChildSession:
    """One child process with one loaded model."""

    def __init__(self, child: Child, address: str, loaded: Loaded, n_vocab: int) -> None:
        self._child = child
        self._address = address
        self._loaded = loaded
        self._n_vocab = n_vocab

    @property
    def loaded(self) -> Loaded:
        return self._loaded

    @property
    def pids(self) -> tuple[int, ...]:
        """The engine's process; telemetry follows it and its children."""
        return (self._child.process.pid,)

    def request_for(self, workload: Workload, nonce: int) -> Request:
        request = llama_request(self._address, workload, self._n_vocab, nonce)
        return with_text_tokens(request, Api(self._address), workload)

    def stream(
        self, request: Request, body: bytes, limits: Limits, live: LiveCount, cancelled: threading.Event
    ) -> Exchange:
        return exchange(request.url, body, request.headers, limits, live=live, cancelled=cancelled)

    def check_alive(self, within_s: float = DYING_S) -> None:
        self._child.check_alive(within_s)

    def close(self) -> None:
        self._child.end()


def loaded_of(
    settings: LoadSettings, files: ModelFiles, log: str, load_s: float, version: str, handed: Iterable[tuple[str, Any]]
) -> Loaded:
    """The facts of a load, from the log. ``handed``: the settings as they were handed to the engine.

    Raises LoadFailed (RUNTIME_MISSING) if the engine did not take the runtime that was asked for.
    """
    facts = read_log(log)
    _refuse_other_runtime(settings, facts.devices, facts.layers_offloaded, log)
    model = files.facts.file_bytes if files.facts else files.path.stat().st_size
    projector = files.mmproj.stat().st_size if files.mmproj else 0
    return Loaded(
        load_s=load_s,
        reused=False,
        engine_version=version,
        engine_runtime=", ".join(facts.devices) or Runtime.CPU.value,
        model_file=files.path.name,
        model_bytes=model + projector,
        model_sha256=files.sha256,
        model_architecture=files.facts.architecture if files.facts else None,
        active_bytes=files.facts.active_bytes if files.facts else None,
        layers_offloaded=facts.layers_offloaded,
        layers_total=facts.layers_total,
        weights_bytes=facts.weights_bytes,
        kv_bytes=facts.kv_bytes,
        compute_bytes=facts.compute_bytes,
        context_tokens_actual=facts.context_tokens,
        settings=(
            *((name, str(value)) for name, value in handed),
            *environment_facts().items(),
            *((f"log.{name}", value) for name, value in facts.reported),
        ),
    )


def _refuse_other_runtime(settings: LoadSettings, devices: tuple[str, ...], layers: int | None, log: str) -> None:
    requested = settings.runtime
    used = ", ".join(devices) or "none"
    if requested not in (None, Runtime.CPU) and settings.gpu_layers != 0 and not layers:
        raise LoadFailed(
            Cause.RUNTIME_MISSING,
            f"runtime {requested} was asked for, but the engine put no layer on a GPU"
            f" (it would have run on the CPU); devices it used: {used}",
            log[-LOG_TAIL:],
        )
    if requested is Runtime.CPU and layers:
        detail = f"runtime cpu was asked for, but the engine put {layers} layers on a GPU; devices it used: {used}"
        raise LoadFailed(Cause.RUNTIME_MISSING, detail, log[-LOG_TAIL:])


def vocabulary(address: str, files: ModelFiles) -> int:
    """Size of the vocabulary: from the file, else asked of the engine. Raises LoadFailed."""
    if files.facts is not None and files.facts.n_vocab:
        return files.facts.n_vocab
    try:
        return int(Api(address).get("/v1/models")["data"][0]["meta"]["n_vocab"])
    except (ApiError, KeyError, IndexError, TypeError, ValueError) as error:
        raise LoadFailed(Cause.LOAD_FAILED, f"the engine does not tell its vocabulary: {error!r}") from error
