"""What every engine adapter is: find, capabilities, load; and a session: request, stream, close.

An adapter raises only ``agents.errors``. It holds no state between loads: that is the session's.
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
from agents.engines.stream.chunks import Chunk, Event
from agents.engines.stream.exchange import Exchange, Limits, LiveCount
from agents.errors import LoadFailed, Unsupported

DYING_S = 3.0  # between the end of an engine's connections and that of its process


class Support(StrEnum):
    """What an adapter does with an axis."""

    SETS = "sets"
    RECORDS = "records"  # can only say what it is
    CANNOT = "cannot"


@dataclass(frozen=True, slots=True)
class LoadPlace:
    """What a load may use on this device: where files lie, where the log goes, how to say what is going on.

    ``notify`` raises LoadFailed (CANCELLED) once ``cancelled`` is set.
    """

    models: Path
    log: Path
    timeout_s: float
    clock: Clock
    cancelled: threading.Event
    notify: Callable[[str], None]
    peers: Peers | None = None
    on_emptied: Callable[[], None] = lambda: None  # called where a load itself takes others' models out of the memory

    def refuse_late(self, started_ns: int) -> None:
        """Raises LoadFailed if the load that began at ``started_ns`` of ``clock`` was cancelled, or takes too long."""
        if self.cancelled.is_set():
            raise LoadFailed(Cause.CANCELLED, "cancelled while the model was loading")
        if self.clock.monotonic_ns() - started_ns > self.timeout_s * 1e9:
            raise LoadFailed(Cause.LOAD_TIMEOUT, f"not loaded within {self.timeout_s:g} s")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent: nothing is computed between the clock's start and the send.

    ``prime`` is sent first, unmeasured, and leaves ``expected_cached_tokens`` in the KV cache.
    ``decode`` turns the stream's events into chunks. ``expected_tokens`` is None where the model may stop by itself.
    ``after`` is asked when the stream is over, for figures that the stream did not tell; it raises nothing.
    """

    url: str
    body: bytes
    decode: Callable[[tuple[Event, ...]], tuple[Chunk, ...]]
    headers: Mapping[str, str] = field(default_factory=dict)
    prime: bytes | None = None
    expected_cached_tokens: int = 0
    cached_tokens_allowed: int = 0  # beside those: the template's own start, where no cache can be switched off
    expected_tokens: int | None = None
    after: Callable[[], EngineTimings | None] | None = None
    text_tokens: int | None = None  # of a prompt with an image: tokens without it, where the engine tells


class Session(Protocol):
    """One loaded model, ready for requests."""

    @property
    def loaded(self) -> Loaded: ...

    def request_for(self, workload: Workload, nonce: int) -> Request:
        """The request for ``workload``; ``nonce`` differs between the trials of a job: so do random prompts."""
        ...

    def stream(
        self, request: Request, body: bytes, limits: Limits, live: LiveCount, cancelled: threading.Event
    ) -> Exchange: ...

    def check_alive(self, within_s: float = DYING_S) -> None:
        """Raises RequestFailed or EngineLost, with the engine's last words, if the engine has ended, or ends within
        ``within_s``: one whose connection broke may be dying."""
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
        """One run, with a seed of its own for each ``nonce``. Raises AgentError.

        Index and warm-up of the trial are the caller's to say; ``sent_s`` counts from the clock's zero. The limit for
        the first token is here one for the run's beginning.
        """
        ...


ABILITIES = ("chat", "image", "synthetic", "exact_stop", "workflow")
"""What a workload may ask of an engine, beside the axes: text, an image with it, token ids of our choice, a given
number of tokens whatever the model says, a graph that makes images."""


class Engine(Protocol):
    """An adapter for one kind of engine."""

    name: str

    def find(self) -> EngineFound:
        """What of this engine is on the device. Raises Unsupported with why it cannot be used, and what to do."""
        ...

    def capabilities(self) -> Mapping[str, Support]:
        """For each field of LoadSettings that is an axis, and each of ABILITIES: what the adapter does with it. What is
        not named it cannot."""
        ...

    def load(self, settings: LoadSettings, place: LoadPlace) -> Session:
        """Raises Unsupported before anything is loaded, LoadFailed after."""
        ...


@runtime_checkable
class Restores(Protocol):
    """An engine whose adapter changes something of the owner's, such as a server's environment."""

    def restore_left(self) -> None:
        """What an earlier process did not live to take back. Raises AgentError."""
        ...


def refuse_settings(engine: str, support: Mapping[str, Support], settings: LoadSettings) -> None:
    """Raises Unsupported if a cell asks for what the engine cannot set. An axis that it can only record passes: the
    adapter compares what it finds, by ``refuse_mismatch``."""
    cannot = [name for name in requested_axes(settings) if support.get(name, Support.CANNOT) is Support.CANNOT]
    if cannot:
        able = sorted(name for name in AXES_OF_LOADS if support.get(name) is Support.SETS)
        raise Unsupported(f"{engine} cannot set {', '.join(cannot)}; it sets {', '.join(able)}")


def refuse_workload(engine: str, support: Mapping[str, Support], workload: Workload) -> None:
    """Raises Unsupported if the engine cannot run it."""
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
    """Raises Unsupported where a cell asks for another value of an axis that can only be recorded than was ``found``,
    by the names of LoadSettings; one that is not told at all cannot be asked for."""
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
