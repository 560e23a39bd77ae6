"""The Protocols of an engine: an adapter finds it and loads a model; a session sends requests to the loaded model.

An adapter raises only ``agents.errors``. It holds no state between loads: that is the session's. What all adapters
check in the same way (axes that cannot be set, values that differ, names of models) stands below the Protocols.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from agents.clock import Clock
from agents.contract.device import EngineFound
from agents.contract.job import LoadSettings, Stop, Synthetic, Workflow, Workload
from agents.contract.measure import EngineTimings, Trial
from agents.contract.model_peers import Peers
from agents.contract.report import Cause, Loaded
from agents.engines.stream.chunks import Chunk
from agents.engines.stream.exchange import Exchange, Limits, LiveCount
from agents.engines.stream.sse import StreamEvent
from agents.errors import LoadFailed, Unsupported

DYING_S = 3.0  # between the end of an engine's connections and that of its process


class Support(StrEnum):
    """What an adapter does with an axis, or an ability, of a cell."""

    SETS = "sets"
    RECORDS = "records"  # it reports the value, and refuses a cell that asks for another one
    CANNOT = "cannot"


@dataclass(frozen=True, slots=True)
class LoadPlace:
    """What a load may use on this device: the store of model files, the place of the engine's log, the time allowed.

    ``notify`` shows a stage of the load to people, and raises LoadFailed (CANCELLED) once ``cancelled`` is set.
    ``on_emptied`` is called by a load that has unloaded the models of others: the memory baseline is taken then.
    """

    models: Path
    log: Path
    timeout_s: float
    clock: Clock
    cancelled: threading.Event
    notify: Callable[[str], None]
    peers: Peers | None = None
    on_emptied: Callable[[], None] = lambda: None

    def refuse_late(self, started_ns: int) -> None:
        """Raises LoadFailed if the load that began at ``started_ns`` of ``clock`` was cancelled, or takes too long."""
        if self.cancelled.is_set():
            raise LoadFailed(Cause.CANCELLED, "cancelled while the model was loading")
        if self.clock.monotonic_ns() - started_ns > self.timeout_s * 1e9:
            raise LoadFailed(Cause.LOAD_TIMEOUT, f"not loaded within {self.timeout_s:g} s")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent: nothing is computed between the clock's start and the send.

    ``decode`` turns the stream's events into chunks. ``prime`` is the body of a request that is sent first, unmeasured,
    and leaves ``expected_cached_tokens`` in the KV cache. ``expected_tokens`` is None where the model may stop by
    itself. ``after`` is called when the stream is over, and returns figures that the stream did not have; it raises
    nothing.
    """

    url: str
    body: bytes
    decode: Callable[[tuple[StreamEvent, ...]], tuple[Chunk, ...]]
    headers: Mapping[str, str] = field(default_factory=dict)
    prime: bytes | None = None
    expected_cached_tokens: int = 0
    cached_tokens_allowed: int = 0  # beyond those: the template's start, where the cache cannot be switched off
    expected_tokens: int | None = None
    after: Callable[[], EngineTimings | None] | None = None
    text_tokens: int | None = (
        None  # of a prompt with an image: its tokens without the image, where the engine counts them
    )


class Session(Protocol):
    """One loaded model, ready for requests."""

    @property
    def loaded(self) -> Loaded: ...

    def request_for(self, workload: Workload, nonce: int) -> Request:
        """The request for ``workload``. ``nonce`` seeds random prompts, and differs between the trials of a job."""
        ...

    def stream(
        self, request: Request, body: bytes, limits: Limits, live: LiveCount, cancelled: threading.Event
    ) -> Exchange:
        """Sends ``body``, the request's or its ``prime``, and receives the whole answer. Raises nothing."""
        ...

    def check_alive(self, within_s: float = DYING_S) -> None:
        """Raises RequestFailed or EngineLost, with the end of the engine's log, if the engine has ended, or ends within
        ``within_s`` seconds: a process whose connection broke may be about to end."""
        ...

    def close(self) -> None:
        """Unloads, and ends what was started. Never raises."""
        ...


@runtime_checkable
class ImageSession(Session, Protocol):
    """A session that makes images from graphs, and has no stream of tokens."""

    def generate(
        self, workflow: Workflow, nonce: int, limits: Limits, live: LiveCount, cancelled: threading.Event
    ) -> Trial:
        """Runs the graph once, with a seed of its own for each ``nonce``. Raises AgentError.

        The caller sets ``index`` and ``warmup`` of the trial; ``sent_s`` counts from the clock's zero. The run must
        begin within ``limits.first_token_s`` seconds.
        """
        ...


ABILITIES = ("chat", "image", "synthetic", "exact_stop", "workflow")
"""What a workload may need of an engine, beside the axes: text prompts, images in them, prompts of given token ids, an
exact number of generated tokens, graphs that make images."""


class Engine(Protocol):
    """An adapter for one kind of engine."""

    name: str

    def find(self) -> EngineFound:
        """Version, runtimes and place of the engine on this device. Raises Unsupported with why it cannot be used, and
        what to do."""
        ...

    def capabilities(self) -> Mapping[str, Support]:
        """Axes (fields of LoadSettings) and ABILITIES -> what the adapter does with each. A missing one it cannot."""
        ...

    def load(self, settings: LoadSettings, place: LoadPlace) -> Session:
        """Loads the model. Raises Unsupported before it has begun to load, and LoadFailed after, with the model
        unloaded."""
        ...


@runtime_checkable
class Restores(Protocol):
    """An engine whose adapter changes a setting of the owner's, such as a server's environment, while it is loaded."""

    def restore_after_crash(self) -> None:
        """Restores what an earlier process changed and did not restore before it ended. Raises AgentError."""
        ...


def refuse_settings(engine: str, support: Mapping[str, Support], settings: LoadSettings) -> None:
    """Raises Unsupported if a cell asks for an axis that the engine cannot set. One that it can only record passes: the
    adapter compares the value that it finds, by ``refuse_mismatch``."""
    cannot = [name for name in requested_axes(settings) if support.get(name, Support.CANNOT) is Support.CANNOT]
    if cannot:
        able = sorted(name for name in AXES_OF_LOADS if support.get(name) is Support.SETS)
        raise Unsupported(f"{engine} cannot set {', '.join(cannot)}; it sets {', '.join(able)}")


def refuse_workload(engine: str, support: Mapping[str, Support], workload: Workload) -> None:
    """Raises Unsupported if the engine lacks an ability that ``workload`` needs."""
    for ability in abilities_of(workload):
        if support.get(ability, Support.CANNOT) is Support.CANNOT:
            raise Unsupported(f"{engine} cannot run workload {workload.name}: {_WHY_NOT[ability]}")


AXES_OF_LOADS = tuple(each.name for each in fields(LoadSettings))
_ALWAYS = {"engine", "model", "source"}
_WHY_NOT = {
    "chat": "it takes no text",
    "image": "its adapter sends no images",
    "synthetic": "it takes text, not token ids; measure it with a chat workload, whose prompt may come from a file",
    "exact_stop": "it cannot be told to go on past the end of text; use stop: natural",
    "workflow": "it makes no images",
}


def requested_axes(settings: LoadSettings) -> tuple[str, ...]:
    """The axes that a cell gives a value."""
    return tuple(name for name in AXES_OF_LOADS if name not in _ALWAYS and getattr(settings, name) is not None)


def abilities_of(workload: Workload) -> tuple[str, ...]:
    if isinstance(workload, Synthetic):
        return ("synthetic",)
    if isinstance(workload, Workflow):
        return ("workflow",)
    image = () if workload.image is None else ("image",)
    exact = ("exact_stop",) if workload.stop is Stop.EXACT else ()
    return ("chat", *image, *exact)


def refuse_mismatch(engine: str, settings: LoadSettings, found: Mapping[str, object]) -> None:
    """Raises Unsupported where a cell asks for another value than the engine has. ``found``: by the names of
    LoadSettings, axes that can only be recorded; None where the engine does not report the value."""
    for name in requested_axes(settings):
        if name not in found:
            continue
        wanted, seen = getattr(settings, name), found[name]
        if seen is None:
            raise Unsupported(f"{engine} does not tell its {name}, so it cannot be asked for ({wanted})")
        if wanted != seen:
            raise Unsupported(f"{engine} has {name} {seen}, and the cell asks for {wanted}; it cannot be set from here")


def model_name_for(engine: str, settings: LoadSettings) -> str:
    """What the engine calls the model: its entry under ``names`` in the matrix, or the model as the matrix names it.

    Raises Unsupported where the matrix names files and no name for this engine.
    """
    source = settings.source
    named = dict(source.engine_names).get(engine)
    if named is not None:
        return named
    if source.path or source.url or source.hf_repo or source.tiny:
        raise Unsupported(
            f"{engine} holds models under names of its own, and the matrix has none for {settings.model}:"
            f" add  models: {{{settings.model}: {{names: {{{engine}: NAME}}}}}}"
        )
    return settings.model
