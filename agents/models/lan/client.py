"""Asks another device's model server, and receives from it. Plain HTTP inside the cluster's network, past any proxy.

Redirects are not followed: the token goes to the address that the coordinator gave, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agents.contract.model_peers import Peer
from agents.models.lan.protocol import BEAT, BYTES, STATE, Answer, State, by_contents, files_from_json

if TYPE_CHECKING:
    import httpx2

ASKED_AT_ONCE = 16
CONNECT_S = 2.0
ANSWER_S = 10.0
SILENCE_S = 30.0  # of a transfer: the other one measures, or is gone; asking tells which


class NotNow(Exception):
    """The device does not send this file now; the text says why. ``for_a_while``: it measures, or serves others."""

    def __init__(self, why: str, for_a_while: bool) -> None:
        super().__init__(why)
        self.for_a_while = for_a_while


class Line:
    """The way to all other devices; ``with Line(token) as line``. Safe to use from several threads."""

    def __init__(self, token: str) -> None:
        import httpx2

        timeout = httpx2.Timeout(ANSWER_S, connect=CONNECT_S)
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        self._client = httpx2.Client(headers=headers, timeout=timeout, trust_env=False, follow_redirects=False)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask_all(self, peers: Sequence[Peer], question: str) -> tuple[Answer, ...]:
        """All of them, ASKED_AT_ONCE side by side, in the order of ``peers``."""
        if not peers:
            return ()
        with ThreadPoolExecutor(min(ASKED_AT_ONCE, len(peers))) as pool:
            return tuple(pool.map(lambda peer: self.ask(peer, question), peers))

    def ask(self, peer: Peer, question: str) -> Answer:
        """Never raises: a device that does not answer lacks what is asked for."""
        import httpx2

        method = "GET" if question.startswith("/find") else "HEAD"
        try:
            response = self._client.request(method, peer.url.rstrip("/") + question)
            return _read(peer, response, method)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return Answer(peer, State.LACKS, refusal=f"cannot be reached ({type(error).__name__})")
        except ValueError:
            return Answer(peer, State.LACKS, refusal="does not answer as a model server does")

    @contextmanager
    def contents(self, peer: Peer, sha256: str, start: int) -> Iterator[httpx2.Response]:
        """The answer with the file from ``start`` on. Raises NotNow, and httpx2.TransportError."""
        import httpx2

        headers = {"Range": f"bytes={start}-"}
        timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
        url = peer.url.rstrip("/") + by_contents(sha256)
        with self._client.stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code not in (200, 206):
                raise NotNow(f"HTTP {response.status_code}", response.status_code == 503)
            yield response


def _read(peer: Peer, response: httpx2.Response, method: str) -> Answer:
    """Raises ValueError where this is no answer of a model server."""
    if response.status_code == 401:
        return Answer(peer, State.LACKS, refusal="has another token")
    if STATE not in response.headers:
        raise ValueError("no state")
    state = State(response.headers[STATE])
    files = files_from_json(response.content) if method == "GET" and state is State.HAS else ()
    return Answer(peer, state, int(response.headers.get(BYTES, "0")), response.headers.get(BEAT, ""), files)
