"""A session with a model that a server of its own holds: requests go to the server, and closing unloads the model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from agents.contract.job import Workload
from agents.contract.report import Loaded
from agents.engines.base import DYING_S, Request
from agents.engines.stream.exchange import Exchange, Limits, LiveCount, exchange
from agents.errors import AgentError, EngineLost


@dataclass(frozen=True)
class HttpSession:
    """``ping`` raises AgentError where the server does not answer, or does not hold the model any more. An AgentError
    of ``unload`` is ignored."""

    loaded: Loaded
    request_for: Callable[[Workload, int], Request]
    ping: Callable[[], object]
    unload: Callable[[], object]

    def stream(
        self, request: Request, body: bytes, limits: Limits, live: LiveCount, cancelled: threading.Event
    ) -> Exchange:
        return exchange(request.url, body, request.headers, limits, live=live, cancelled=cancelled)

    def check_alive(self, within_s: float = DYING_S) -> None:  # noqa: ARG002  a server that is not ours is only asked
        try:
            self.ping()
        except AgentError as error:
            raise EngineLost(error.detail) from error

    def close(self) -> None:
        with suppress(AgentError):
            self.unload()
