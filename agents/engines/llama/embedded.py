"""The embedded engine: llama.cpp's own server inside the ``xllamacpp`` wheel, one child process a configuration."""

from __future__ import annotations

import importlib.metadata
import json
import select
import sys
from collections.abc import Mapping
from contextlib import suppress

from agents.contract.device import EngineFound
from agents.contract.job import LoadSettings
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Support
from agents.engines.llama.child import Child
from agents.engines.llama.devices import llama_devices, machine_bytes
from agents.engines.llama.log import cause_of_failed_load
from agents.engines.llama.params import engine_params, refuse_more_than_memory, refuse_unknown_kv_types
from agents.engines.llama.session import (
    END_OF_FAILED_LOAD,
    END_OF_GOOD_LOAD,
    ChildSession,
    loaded_of,
    vocabulary,
)
from agents.errors import LoadFailed, Unsupported
from agents.models.resolve import resolve
from agents.models.store.files import ModelFiles

POLL_S = 0.1  # how late a cancel or a time-out may be noticed during a load


class Embedded:
    """Finds and starts the engine of the ``xllamacpp`` wheel on this machine."""

    name = "embedded"

    def __init__(self, entry: EngineEntry | None = None) -> None:
        """``entry`` is not read: the engine comes with this environment."""

    def find(self) -> EngineFound:
        """Raises Unsupported where the wheel is not installed or cannot be loaded."""
        runtimes = llama_devices().runtimes
        return EngineFound(self.name, _version(), runtimes, "PyPI package in this environment")

    def capabilities(self) -> Mapping[str, Support]:
        axes = (
            "engine model quantisation runtime context_tokens kv_type_k kv_type_v flash_attention gpu_layers threads"
            " batch_tokens micro_batch_tokens mmap keep_in_memory kv_offload source chat image synthetic exact_stop"
        )
        return dict.fromkeys(axes.split(), Support.SETS)

    def load(self, settings: LoadSettings, place: LoadPlace) -> EmbeddedSession:
        # Before a model is downloaded, which may take hours.
        self._refuse(settings)
        place.notify("preparing model")
        files = resolve(settings, place.models, place.notify, place.peers)
        refuse_more_than_memory(settings, files, machine_bytes())
        place.notify("loading")
        return EmbeddedSession(settings, files, place)

    def _refuse(self, settings: LoadSettings) -> None:
        found = llama_devices().runtimes
        if settings.runtime is not None and settings.runtime.value not in found:
            raise Unsupported(
                f"runtime {settings.runtime.value}: this xllamacpp wheel sees {', '.join(found)} here",
                Cause.RUNTIME_MISSING,
            )
        refuse_unknown_kv_types(settings)


class EmbeddedSession(ChildSession):
    """One child process with one loaded model. The constructor loads it; it raises LoadFailed, and ends the process
    then."""

    def __init__(self, settings: LoadSettings, files: ModelFiles, place: LoadPlace) -> None:
        params = engine_params(settings, files)
        started = place.clock.monotonic_ns()
        # -P: no file in the current folder takes the place of a module.
        child = Child([sys.executable, "-P", "-m", "agents.engines.llama.embedded_child"], place.log, pipes_stdout=True)
        try:
            with suppress(BrokenPipeError):  # it died at once: its log has the reason
                child.pipe("stdin").write(json.dumps(params).encode() + b"\n")
                child.pipe("stdin").flush()
            address = _ready(child, place, started)
            load_s = (place.clock.monotonic_ns() - started) / 1e9
            log = child.complete_log(END_OF_GOOD_LOAD, place.clock)
            loaded = loaded_of(settings, files, log, load_s, _version(), params.items())
            super().__init__(child, address, loaded, vocabulary(address, files))
        # Whatever ends the load, a child that stays would keep the memory of the GPU.
        except BaseException:
            child.end()
            raise


def _version() -> str:
    return f"xllamacpp {importlib.metadata.version('xllamacpp')}"


def _ready(child: Child, place: LoadPlace, started_ns: int) -> str:
    """Waits for the child's one line, and returns the address of its server. Raises LoadFailed."""
    line = _read_line(child, place, started_ns)
    message: dict[str, str] = json.loads(line) if line.startswith(b"{") else {}
    if "address" in message:
        return message["address"]
    error = message.get("error", "")
    if "Failed to init" not in error:  # not llama.cpp's own words, which are in its log
        child.end()
        cause, detail = cause_of_failed_load(child.log(), child.returncode)
        if error:
            cause = Cause.RUNTIME_MISSING if error.startswith("ImportError") else Cause.LOAD_FAILED
            detail = error
        raise LoadFailed(cause, detail, child.tail())
    # A thread of llama.cpp writes the log: the cause may come after the child's line.
    cause, detail = cause_of_failed_load(child.complete_log(END_OF_FAILED_LOAD, place.clock), None)
    raise LoadFailed(cause, detail, child.tail())


def _read_line(child: Child, place: LoadPlace, started_ns: int) -> bytes:
    """The child's first line; b"" if it ended without one. Raises LoadFailed on time-out and cancel."""
    answers = child.pipe("stdout")
    while not select.select([answers], [], [], POLL_S)[0]:
        place.refuse_late(started_ns)
    # Its line is written in one piece: once it can be read, ``readline`` does not block.
    return answers.readline()
