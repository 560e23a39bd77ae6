"""HTTP client of the other devices' model servers. Plain HTTP inside the cluster's network, past any proxy.

Redirects are not followed: the token goes to the address that the coordinator gave, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agents.contract.model_peers import Peer
from agents.models.lan.protocol import BEAT, BYTES, STATE, Answer, FileStatus, contents_query, files_from_json

if TYPE_CHECKING:
    import httpx2

ASKED_AT_ONCE = 16
CONNECT_S = 2.0
ANSWER_S = 10.0
SILENCE_S = 30.0
"""Without a byte a transfer is given up after this: the sender measures, or is gone, and a question tells which."""


class SendingRefused(Exception):
    """A device does not send the file; the text says why. ``is_temporary``: it measures, or sends to others."""

    def __init__(self, why: str, is_temporary: bool) -> None:
        super().__init__(why)
        self.is_temporary = is_temporary


class PeerClient:
    """``with PeerClient(token) as client``. Safe to use from several threads."""

    def __init__(self, token: str) -> None:
        import httpx2

        timeout = httpx2.Timeout(ANSWER_S, connect=CONNECT_S)
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        self._client = httpx2.Client(headers=headers, timeout=timeout, trust_env=False, follow_redirects=False)

    def __enter__(self) -> PeerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask_all(self, peers: Sequence[Peer], question: str) -> tuple[Answer, ...]:
        """Asks ASKED_AT_ONCE of them at a time. The answers are in the order of ``peers``."""
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
            return _answer_of(peer, response, method)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return Answer(peer, FileStatus.LACKS, refusal=f"cannot be reached ({type(error).__name__})")
        except ValueError:
            return Answer(peer, FileStatus.LACKS, refusal="does not answer as a model server does")

    @contextmanager
    def stream_file(self, peer: Peer, sha256: str, start: int) -> Iterator[httpx2.Response]:
        """The response with the file's bytes from ``start`` on. Raises SendingRefused, httpx2.TransportError."""
        import httpx2

        headers = {"Range": f"bytes={start}-"}
        timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
        url = peer.url.rstrip("/") + contents_query(sha256)
        with self._client.stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code not in (200, 206):
                raise SendingRefused(f"HTTP {response.status_code}", response.status_code == 503)
            yield response


def _answer_of(peer: Peer, response: httpx2.Response, method: str) -> Answer:
    """Raises ValueError where this is no answer of a model server."""
    if response.status_code == 401:
        return Answer(peer, FileStatus.LACKS, refusal="has another token")
    if STATE not in response.headers:
        raise ValueError("no state")
    status = FileStatus(response.headers[STATE])
    files = files_from_json(response.content) if method == "GET" and status is FileStatus.HAS else ()
    return Answer(peer, status, int(response.headers.get(BYTES, "0")), response.headers.get(BEAT, ""), files)
