"""What every engine adapter is: find, capabilities, load; and a session: request, stream, close.

An adapter raises only ``agents.errors``. It holds no state between loads: that is the session's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from agents.clock import Clock
from agents.contract.device import EngineFound
from agents.contract.job import LoadSettings, Workload
from agents.contract.report import Loaded
from agents.engines.http_stream import Exchange, Limits, Progress
from agents.engines.wire import Chunk, Event
from agents.errors import Unsupported
from agents.models.peers import Peers

DYING_S = 3.0  # between the end of an engine's connections and that of its process


class Support(StrEnum):
    """What an adapter does with an axis."""

    SETS = "sets"
    RECORDS = "records"  # can only say what it is
    CANNOT = "cannot"


@dataclass(frozen=True, slots=True)
class LoadPlace:
    """What a load may use on this device: where files lie, where the log goes, how to say what is going on.

    ``say`` raises LoadFailed (CANCELLED) once ``cancelled`` is set.
    """

    models: Path
    log: Path
    timeout_s: float
    clock: Clock
    cancelled: threading.Event
    say: Callable[[str], None]
    peers: Peers | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent: nothing is computed between the clock's start and the send.

    ``prime`` is sent first, unmeasured, and leaves ``expected_cached_tokens`` in the KV cache.
    ``decode`` turns the stream's events into chunks. ``expected_tokens`` is None where the model may stop by itself.
    """

    url: str
    body: bytes
    decode: Callable[[tuple[Event, ...]], tuple[Chunk, ...]]
    headers: Mapping[str, str] = field(default_factory=dict)
    prime: bytes | None = None
    expected_cached_tokens: int = 0
    expected_tokens: int | None = None


class Session(Protocol):
    """One loaded model, ready for requests."""

    @property
    def loaded(self) -> Loaded: ...

    def request_for(self, workload: Workload, nonce: int) -> Request:
        """The request for ``workload``; ``nonce`` differs between the trials of a job: so do random prompts."""
        ...

    def stream(
        self, request: Request, body: bytes, limits: Limits, progress: Progress, cancelled: threading.Event
    ) -> Exchange: ...

    def check_alive(self, within_s: float = DYING_S) -> None:
        """Raises RequestFailed or EngineLost, with the engine's last words, if the engine has ended, or ends within
        ``within_s``: one whose connection broke may be dying."""
        ...

    def close(self) -> None:
        """Unloads, and ends what was started. Never raises."""
        ...


class Engine(Protocol):
    """An adapter for one kind of engine."""

    name: str

    def find(self) -> EngineFound | None:
        """What of this engine is on the device; None if nothing."""
        ...

    def capabilities(self) -> Mapping[str, Support]:
        """For each field of LoadSettings that is an axis: what the adapter does with it."""
        ...

    def load(self, settings: LoadSettings, place: LoadPlace) -> Session:
        """Raises Unsupported before anything is loaded, LoadFailed after."""
        ...


def refuse_what_it_cannot(engine: Engine, settings: LoadSettings) -> None:
    """Raises Unsupported if ``settings`` ask for a value of an axis that the engine does not set."""
    support = engine.capabilities()
    asked = [each.name for each in fields(settings) if getattr(settings, each.name) is not None]
    cannot = [name for name in asked if support.get(name, Support.SETS) is not Support.SETS]
    if cannot:
        able = sorted(name for name, how in support.items() if how is Support.SETS)
        raise Unsupported(f"{engine.name} cannot set {', '.join(cannot)}; it sets {', '.join(able)}")
