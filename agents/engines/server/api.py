"""Control calls to an engine's HTTP interface: JSON in, JSON out. Timed requests go through ``stream.exchange``."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

import httpx

from agents.contract.report import Cause
from agents.engines.base import LoadPlace
from agents.engines.causes import cause_of_load
from agents.engines.stream.chunks import error_text
from agents.engines.stream.shapes import whole
from agents.errors import AgentError, EngineAway, LoadFailed, NotReady, Unsupported

CALL_S = 10.0
NOT_READY = (429, 503)  # too many requests; llama-server and vLLM while they load
FIND_S = 1.0  # a server that is there answers on its loopback within milliseconds
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
POLL_S = 0.1  # how late a cancel or a time-out may be noticed during a load
T = TypeVar("T")


class ApiError(AgentError):
    """``status`` is None where there was no answer. ``detail``: the method, the path, and the engine's message;
    ``body``: its whole answer."""

    def __init__(self, detail: str, status: int | None = None, body: bytes = b"") -> None:
        super().__init__(Cause.REQUEST_REFUSED if status else Cause.ENGINE_LOST, detail)
        self.status = status
        self.body = body

    def as_refusal(self, detail: str) -> Unsupported:
        """The error to raise where a server was asked what it is: it is away, not ready yet, or another engine."""
        if self.status is None:
            return EngineAway(detail)
        return NotReady(detail) if self.status in NOT_READY else Unsupported(detail)

    def as_failed_load(self) -> LoadFailed:
        """Its cause is read from the engine's answer alone: the path in ``detail`` has words such as ``models``."""
        text = error_text(self.body) if self.body else self.detail
        return LoadFailed(cause_of_load(text) if self.status else Cause.ENGINE_LOST, self.detail)


class Api:
    """A client of the server at ``base_url``, which has no slash at its end. No proxy and no redirect; nothing is taken
    from the environment.

    ``transport`` takes the place of the network in tests.
    """

    def __init__(self, base_url: str, token: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        usable = bool(token) and str(token).isascii()  # else no header could hold it, and it opens nothing
        self.headers: Mapping[str, str] = {"Authorization": f"Bearer {token}"} if usable else {}
        self._transport = transport

    def get(self, path: str, timeout_s: float = CALL_S) -> Any:
        """The answer's JSON. Raises ApiError for no answer, for a status that is not 2xx, for what is no JSON."""
        return self._call("GET", path, None, timeout_s)

    def post(self, path: str, body: Any = None, timeout_s: float = CALL_S) -> Any:
        """As ``get``. An answer without a body is None."""
        return self._call("POST", path, body, timeout_s)

    def load(self, path: str, body: Any, place: LoadPlace) -> Any:
        """A POST that may take as long as a load may; obeys ``place.cancelled``.

        Raises LoadFailed: CANCELLED, LOAD_TIMEOUT, or the cause of the engine's message. The engine may go on loading
        after a cancel or a time-out: the caller unloads.
        """
        with self._client(timeout_s=None) as client:
            try:
                return run_with_deadline(lambda: self._with(client, "POST", path, body), place)
            except ApiError as error:
                raise error.as_failed_load() from error

    def lines(self, path: str, body: Any, silence_s: float) -> Iterator[Any]:
        """The objects of a POST's answer in JSON lines, as they come. Raises ApiError as ``get`` does, and where no
        line comes for ``silence_s``. Ending the iteration closes the connection."""
        call = f"POST {path}"
        with self._client(silence_s) as client:
            try:
                with client.stream("POST", self.base_url + path, json=body) as response:
                    if not response.is_success:
                        detail = error_text(response.read())
                        raise ApiError(f"{call}: HTTP {response.status_code}: {detail}", response.status_code)
                    for line in response.iter_lines():
                        if line.strip():
                            yield whole(json.loads(line))
            except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError) as error:
                raise self._unreachable(error) from error
            except (ValueError, RecursionError) as error:
                raise ApiError(f"{call}: the answer is not JSON lines", 200) from error

    def server_header(self, path: str, timeout_s: float = CALL_S) -> str:
        """The ``Server`` header of an answer; "" where there is none, or no answer."""
        with self._client(timeout_s) as client:
            try:
                return str(client.get(self.base_url + path).headers.get("server", ""))
            except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError):
                return ""

    def _unreachable(self, error: Exception) -> ApiError:
        return ApiError(f"{self.base_url} does not answer: {_ERRNO.sub('', str(error)) or type(error).__name__}")

    def _client(self, timeout_s: float | None) -> httpx.Client:
        timeout = httpx.Timeout(timeout_s, connect=CALL_S if timeout_s is None else timeout_s)
        return httpx.Client(transport=self._transport, timeout=timeout, trust_env=False, headers=self.headers)

    def _call(self, method: str, path: str, body: Any, timeout_s: float) -> Any:
        with self._client(timeout_s) as client:
            return self._with(client, method, path, body)

    def _with(self, client: httpx.Client, method: str, path: str, body: Any) -> Any:
        call = f"{method} {path}"
        try:
            response = client.request(method, self.base_url + path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError) as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            to = f" to {response.headers.get('location')}" if response.is_redirect else ""
            detail = f"{call}: HTTP {response.status_code}{to}: {error_text(response.content)}"
            raise ApiError(detail, response.status_code, response.content)
        if not response.content.strip():
            return None
        try:
            return whole(json.loads(response.content))
        except (ValueError, RecursionError) as error:
            raise ApiError(f"{call}: the answer is not JSON: {error_text(response.content)}", 200) from error


def run_with_deadline(load: Callable[[], T], place: LoadPlace) -> T:
    """Runs ``load`` in a thread of its own, and returns or raises what it does.

    Raises LoadFailed where ``place`` is cancelled (CANCELLED) or its time is over (LOAD_TIMEOUT), at most POLL_S late;
    the thread may go on.
    """
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(load())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="load", daemon=True).start()
    deadline = place.clock.monotonic_ns() + int(place.timeout_s * 1e9)
    while True:
        try:
            return answer.result(timeout=POLL_S)
        except FutureTimeout:
            if answer.done():  # just now, or with a TimeoutError of its own
                return answer.result()
            if place.cancelled.is_set():
                raise LoadFailed(Cause.CANCELLED, "cancelled while the model was loading") from None
            if place.clock.monotonic_ns() > deadline:
                raise LoadFailed(Cause.LOAD_TIMEOUT, f"not loaded within {place.timeout_s:g} s") from None
