"""A ComfyUI server that runs graphs for us: one prompt at a time, followed over its websocket."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agents.clock import Clock, SystemClock
from agents.contract.job import Workflow
from agents.contract.measure import Trial
from agents.contract.report import Cause, Loaded
from agents.engines.base import DYING_S, Request
from agents.engines.causes import cause_of_run
from agents.engines.comfyui.events import GraphExecution, SocketMessage, ends, is_last_message, parse_message, read_run
from agents.engines.comfyui.graph import Graph, filled, refusal
from agents.engines.comfyui.memory import polling_memory
from agents.engines.comfyui.trial import SentAt, trial_of
from agents.engines.server.api import Api, ApiError
from agents.engines.stream.exchange import Exchange, Limits, LiveCount
from agents.errors import AgentError, EngineLost, RequestFailed, Unsupported

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

STATS_S = 3.0  # for an answer about memory
LOOK_S = 0.1  # how late a cancel or a time-out may be noticed
SETTLE_S = 2.0  # between the success of a run and the engine's last message of it
MOST_FRAME_BYTES = 64 * 1024**2  # previews come over the same socket


@dataclass
class _Observed:
    """What came over the socket so far. ``steps``: the progress messages, as the live view counts receives."""

    sent: SentAt
    prompt_id: str = ""
    steps: list[tuple[int, bytes]] = field(default_factory=list)
    messages: list[SocketMessage] = field(default_factory=list)

    def has_begun(self) -> bool:
        ours = (each for each in self.messages if each.data.get("prompt_id") == self.prompt_id)
        return any(each.kind in ("execution_start", "executing") for each in ours)


class ComfySession:
    """``model``: what ComfyUI calls the model. The first run that needs it reads it (``model_load_s``)."""

    def __init__(self, api: Api, loaded: Loaded, model: str, clock: Clock | None = None) -> None:
        self._api = api
        self._loaded = loaded
        self._model = model
        self._clock = clock or SystemClock()

    @property
    def loaded(self) -> Loaded:
        return self._loaded

    def generate(
        self, workflow: Workflow, nonce: int, limits: Limits, live: LiveCount, cancelled: threading.Event
    ) -> Trial:
        """Runs the graph once. Raises AgentError, and interrupts the run then."""
        graph = filled(workflow, nonce, self._model)
        client_id = uuid.uuid4().hex
        with self._socket(client_id, limits) as socket, polling_memory(self._stats) as most:
            observed = _Observed(SentAt(self._clock.monotonic_ns(), self._clock.unix_s()))
            live.follow(observed.steps)
            observed.prompt_id = self._submit(graph, client_id)
            try:
                run = self._follow(socket, observed, limits, cancelled)
            except AgentError:
                self._interrupt(observed.prompt_id)
                raise
            self._settle(socket, observed)
        return trial_of(run, workflow, graph, nonce, observed.sent, most.memory)

    def _stats(self) -> Any:
        return self._api.get("/system_stats", STATS_S)

    def request_for(self, *_: object, **__: object) -> Request:
        raise Unsupported("comfyui runs workflows alone")

    def stream(self, *_: object, **__: object) -> Exchange:
        raise Unsupported("comfyui has no stream of tokens")

    def check_alive(self, within_s: float = DYING_S) -> None:  # noqa: ARG002  a server that is not ours is only asked
        try:
            self._api.get("/system_stats")
        except AgentError as error:
            raise EngineLost(error.detail) from error

    def close(self) -> None:
        """ComfyUI drops its models when its queue is empty, a moment after it has answered."""
        with suppress(AgentError):
            free(self._api)

    @contextmanager
    def _socket(self, client_id: str, limits: Limits) -> Iterator[ClientConnection]:
        from websockets.exceptions import ConnectionClosed, WebSocketException
        from websockets.sync.client import connect

        url = f"ws{self._api.base_url.removeprefix('http')}/ws?clientId={client_id}"
        try:
            with connect(
                url,
                additional_headers=dict(self._api.headers),
                compression=None,
                proxy=None,
                open_timeout=limits.connect_s,
                ping_interval=None,  # a server that loads a model may be silent for long
                close_timeout=1.0,
                max_size=MOST_FRAME_BYTES,
            ) as socket:
                yield socket
        except ConnectionClosed as error:
            self.check_alive()
            raise RequestFailed(Cause.STREAM_BROKEN, f"{url.partition('?')[0]}: {error}") from error
        except (OSError, WebSocketException, ValueError) as error:
            detail = str(error) or type(error).__name__
            raise EngineLost(f"{url.partition('?')[0]}: no websocket: {detail}") from error

    def _submit(self, graph: Graph, client_id: str) -> str:
        """Queues the graph, and returns the prompt's id. Raises RequestFailed with the errors of the nodes, also where
        ComfyUI would run a part of the graph.

        Newer versions take the id from us; older ones give one of their own.
        """
        ours = str(uuid.uuid4())
        try:
            answer = self._api.post("/prompt", {"prompt": graph, "client_id": client_id, "prompt_id": ours})
        except ApiError as error:
            if error.status is None:
                self._interrupt(ours)  # it may have taken the graph, and be late with its answer
                raise EngineLost(error.detail) from error
            raise refusal(error.status, _json(error.body), error.detail) from error
        found = answer.get("prompt_id") if isinstance(answer, dict) else None
        if not isinstance(found, str):
            raise RequestFailed(Cause.STREAM_BROKEN, f"POST /prompt: an answer without a prompt_id: {answer!r}"[:500])
        if answer.get("node_errors"):  # the outputs without a fault would run, and would be another graph
            self._interrupt(found)
            raise refusal(200, answer)
        return found

    def _follow(
        self, socket: ClientConnection, observed: _Observed, limits: Limits, cancelled: threading.Event
    ) -> GraphExecution:
        """Receives until the run has ended well, and returns it. Raises AgentError for every other end."""
        from websockets.exceptions import ConnectionClosed

        while True:
            try:
                message = self._receive(socket, observed)
            except ConnectionClosed as error:
                self.check_alive()
                detail = f"the websocket closed while the graph ran: {error}; {self._history(observed.prompt_id)}"
                raise RequestFailed(Cause.STREAM_BROKEN, detail) from error
            if message is not None and ends(message, observed.prompt_id):
                return _ended_well(read_run(observed.messages, observed.prompt_id))
            if cancelled.is_set():
                raise RequestFailed(Cause.CANCELLED, "cancelled while the graph ran")
            self._refuse_late(observed, limits)

    def _receive(self, socket: ClientConnection, observed: _Observed) -> SocketMessage | None:
        """The next message, None where none came within LOOK_S, or what came is none."""
        try:
            frame = socket.recv(timeout=LOOK_S)
        except TimeoutError:
            return None
        at_ns = self._clock.monotonic_ns()
        message = None if isinstance(frame, bytes) else parse_message(at_ns, frame)  # bytes: a preview
        if message is not None:
            observed.messages.append(message)
            if message.kind == "progress":
                observed.steps.append((at_ns, b""))
        return message

    def _refuse_late(self, observed: _Observed, limits: Limits) -> None:
        spent_s = (self._clock.monotonic_ns() - observed.sent.at_ns) / 1e9
        if spent_s > limits.trial_s:
            detail = f"not done within {limits.trial_s:g} s; {self._history(observed.prompt_id)}"
            raise RequestFailed(Cause.TRIAL_TIMEOUT, detail)
        if spent_s > limits.first_token_s and not observed.has_begun():
            detail = f"ComfyUI did not begin with it within {limits.first_token_s:g} s"
            raise RequestFailed(Cause.FIRST_TOKEN_TIMEOUT, detail)

    def _settle(self, socket: ClientConnection, observed: _Observed) -> None:
        """Waits for ComfyUI's last message of this prompt: the next one should not run beside its cleaning up."""
        from websockets.exceptions import ConnectionClosed

        until = self._clock.monotonic_ns() + int(SETTLE_S * 1e9)
        last = observed.messages[-1]
        with suppress(ConnectionClosed):
            while not is_last_message(last, observed.prompt_id) and self._clock.monotonic_ns() < until:
                last = self._receive(socket, observed) or last

    def _history(self, prompt_id: str) -> str:
        """The state that ComfyUI has of a run whose end did not come over the socket, as a clause for an error."""
        try:
            history = self._api.get(f"/history/{prompt_id}")
        except AgentError as error:
            return error.detail
        entry = history.get(prompt_id) if isinstance(history, dict) else None
        status: Any = entry.get("status") if isinstance(entry, dict) else None
        if not isinstance(status, dict):
            return "its history does not have it yet"
        return f"its history says {status.get('status_str')}"

    def _interrupt(self, prompt_id: str) -> None:
        """Takes the prompt out of the queue, or ends it. Versions before 0.3.57 (?) end whatever runs."""
        with suppress(AgentError):
            self._api.post("/queue", {"delete": [prompt_id]})
        with suppress(AgentError):
            self._api.post("/interrupt", {"prompt_id": prompt_id})


def _ended_well(run: GraphExecution) -> GraphExecution:
    if run.error is not None:
        raise RequestFailed(cause_of_run(run.error), run.error)
    if run.interrupted:
        raise RequestFailed(Cause.STOPPED_EARLY, "the run was interrupted at ComfyUI, by somebody else")
    return run


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def free(api: Api) -> None:
    """Drops models and cached outputs. Raises ApiError."""
    api.post("/free", {"unload_models": True, "free_memory": True})
