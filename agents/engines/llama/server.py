"""llama.cpp's ``llama-server``, of any build: a child process for each configuration, on a port of its own."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from agents.contract.device import EngineFound
from agents.contract.job import LoadSettings
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Support
from agents.engines.llama.child import Child, tied_to_parent
from agents.engines.llama.devices import system_bytes
from agents.engines.llama.flags import server_arguments
from agents.engines.llama.log import cause_of_failed_load
from agents.engines.llama.params import refuse_more_than_memory, refuse_unknown_kv_types
from agents.engines.llama.programs import OMITTED_VARIABLES, Build, choose, probe
from agents.engines.llama.running import LlamaRunning
from agents.engines.llama.session import END_OF_GOOD_LOAD, ChildSession, loaded_of, vocabulary
from agents.engines.server.api import FIND_S, Api, ApiError
from agents.errors import LoadFailed, Unsupported
from agents.models.resolve import resolve
from agents.models.store.files import ModelFiles

POLL_S = 0.02  # how late its readiness, its end or a cancel may be noticed during a load
PROGRAM = "llama-server"

# The second form stands in logs up to about b3500. The server is started with port 0, for any: a line that repeats this
# 0 is no address yet.
_ADDRESS = re.compile(r"listening on (http://\S+:[1-9]\d*)|is listening, hostname: (\S+), port: ([1-9]\d*)")


class LlamaServer:
    """``entry.programs`` names builds; without it, the one on PATH is taken."""

    name = "llama-server"

    def __init__(self, entry: EngineEntry | None = None) -> None:
        self._entry = entry or EngineEntry()
        self._probed: dict[tuple[Path, int], Build] = {}  # by program and the time of its last change

    def find(self) -> EngineFound:
        """Raises Unsupported where no build is there that can be started."""
        builds, broken = self._builds()
        several = len(builds) > 1
        version = "; ".join(
            f"{build.version} for {', '.join(build.runtimes)}" if several else build.version for build in builds
        )
        runtimes = tuple(sorted({runtime for build in builds for runtime in build.runtimes}))
        where = "; ".join([*(str(build.program) for build in builds), *broken])
        return EngineFound(self.name, f"llama.cpp {version}", runtimes, where)

    def capabilities(self) -> Mapping[str, Support]:
        axes = (
            "engine model quantisation runtime context_tokens kv_type_k kv_type_v flash_attention gpu_layers threads"
            " batch_tokens micro_batch_tokens mmap keep_in_memory kv_offload source chat image synthetic exact_stop"
        )
        return dict.fromkeys(axes.split(), Support.SETS)

    def load(self, settings: LoadSettings, place: LoadPlace) -> StartedSession:
        # Before a model is downloaded, which may take hours.
        refuse_unknown_kv_types(settings)
        build = choose(self._builds()[0], settings.runtime)
        place.notify("preparing model")
        files = resolve(settings, place.models, place.notify, place.peers)
        refuse_more_than_memory(settings, files, system_bytes() + sum(device.total_bytes for device in build.devices))
        arguments = server_arguments(settings, files, build)
        place.notify("loading")
        return StartedSession(settings, files, build, arguments, place)

    def _builds(self) -> tuple[list[Build], list[str]]:
        """Builds that run, at least one, and why others do not. Raises Unsupported."""
        builds, broken = [], []
        for named in self._entry.programs or (PROGRAM,):
            try:
                builds.append(self._probe(named))
            except Unsupported as error:
                broken.append(error.detail)
        if not builds:
            raise Unsupported("; ".join(broken), Cause.RUNTIME_MISSING)
        return builds, broken

    def _probe(self, named: str) -> Build:
        program = shutil.which(Path(named).expanduser())
        if program is None:
            what = "is no program" if self._entry.programs else "is not on PATH: install llama.cpp, or"
            raise Unsupported(f"{named} {what} (device.yaml: engines: {{llama-server: {{programs: [PATH]}}}})")
        path = Path(program)
        # A build may be replaced while the agent runs: its new file is another key.
        key = path, path.stat().st_mtime_ns
        if key not in self._probed:
            self._probed[key] = probe(path)
        return self._probed[key]


def llama_server(entry: EngineEntry) -> LlamaServer | LlamaRunning:
    """The owner's running server where ``device.yaml`` has its ``url``; else builds that we start."""
    return LlamaRunning(entry) if entry.url else LlamaServer(entry)


class StartedSession(ChildSession):
    """One process with one loaded model. The constructor loads it; it raises LoadFailed, and ends the process then."""

    def __init__(
        self, settings: LoadSettings, files: ModelFiles, build: Build, arguments: list[str], place: LoadPlace
    ) -> None:
        started = place.clock.monotonic_ns()
        child = Child(
            tied_to_parent(build.program, arguments), place.log, pipes_stdout=False, omitted=OMITTED_VARIABLES
        )
        try:
            address, ready = _ready(child, place, started)
            log = child.complete_log(END_OF_GOOD_LOAD, place.clock)
            handed = (("program", build.program), ("arguments", shlex.join(arguments)))
            version = f"llama.cpp {build.version}"
            loaded = loaded_of(settings, files, log, (ready - started) / 1e9, version, handed)
            super().__init__(child, address, loaded, vocabulary(address, files))
        # Whatever ends the load, a child that stays would keep the memory of the GPU.
        except BaseException:
            child.end()
            raise


def _ready(child: Child, place: LoadPlace, started_ns: int) -> tuple[str, int]:
    """Waits until requests may be sent, and returns the server's address and the time, ns, at which it was ready.
    Raises LoadFailed."""
    while True:
        place.refuse_late(started_ns)
        # Before the log: one that has ended may have logged its address as well.
        if child.returncode is not None:
            cause, detail = cause_of_failed_load(child.log(), child.returncode)
            raise LoadFailed(cause, detail, child.tail())
        # Taken before the two looks: what they cost is not the load's.
        now = place.clock.monotonic_ns()
        address = address_in(child.log())
        if address and _healthy(address):  # older versions listen before the model is loaded
            return address, now
        place.clock.sleep(POLL_S)


def address_in(log: str) -> str | None:
    """The address that the server listens on, from its log. PURE"""
    found = _ADDRESS.search(log)
    return None if found is None else found[1] or f"http://{found[2]}:{found[3]}"


def _healthy(address: str) -> bool:
    try:
        Api(address).get("/health", FIND_S)
    except ApiError:
        return False
    return True
