"""What the suite of all adapters needs to know of one: how it is made, what its server answers, what must come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.contract.job import LoadSettings
from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.engines.base import Engine
from tests.fakes.recorded_server import Answer, Routes


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the recorded chat stream. ``tokens``: those of ``Trial.completion_tokens``."""

    prompt_tokens: int | None
    tokens: int
    text: str
    stop_reason: StopReason
    engine: EngineTimings
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class BadLoad:
    """Routes put over the good ones; then a load must fail so. ``words``: a part of its detail."""

    routes: Routes
    cause: Cause
    words: str


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter in the suite. Routes are "METHOD /path"; documents and versions of the recordings: its own file.

    ``loads``: the control call that loads; None for an adapter that takes a running server as it is, which also
    ``unloads`` nothing. ``arrives``: fields that must stand in the load's body for ``settings`` (or, where the load is
    of several calls, ``arrives_at`` names the one). ``refused``: settings with an axis that it cannot set.
    """

    name: str
    make: Callable[[str], Engine]
    routes: Routes
    settings: LoadSettings
    version: str
    chat: str
    figures: Figures
    stream_error: Answer
    stream_error_words: str
    loads: str | None = None
    arrives: Mapping[str, Any] = field(default_factory=dict)
    unloads: str | None = None
    refused: tuple[LoadSettings, ...] = ()
    bad_loads: tuple[BadLoad, ...] = ()
    images: bool = True
    runtime: str | None = None  # in Loaded.engine_runtime; None: not told
    loading: Routes = field(default_factory=dict)  # put over the routes, a load takes without end


def id_of(adapter: Adapter) -> str:
    return adapter.name
