"""Devices on the loopback: each with a store, a real model server, and the job process's side of a fetch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents.contract.job import LoadSettings, ModelSource
from agents.contract.model_peers import Peer, Peers
from agents.models.hub import fetch as hub
from agents.models.hub.listing import HubRequest
from agents.models.lan import download as peer_download
from agents.models.lan.server import ModelServer
from agents.models.resolve import resolve
from agents.models.store import transfer
from agents.models.store.files import ModelFiles
from tests.unit.models.fake_hub import REPO

REQUEST = HubRequest(REPO, quantisation="Q4_0")
"""The one file of ``FakeHub`` as the fixture ``hub`` makes it."""

TOKEN = "the-cluster's-token"
DEADLINE_S = 60.0


def shorten_waits(monkeypatch: pytest.MonkeyPatch, **pace: float) -> None:
    """Waits of milliseconds, so that a test waits for what it tests alone."""
    quick = {"poll_s": 0.005, "measuring_poll_s": 0.005, "decision_poll_s": 0.002, "serving_s": 0.02} | pace
    monkeypatch.setattr(peer_download, "PACE", peer_download.Pace(**quick))  # type: ignore[arg-type]
    monkeypatch.setattr(transfer, "RECONNECT_WAIT_S", 0.0)


@dataclass
class LanDevice:
    """``measuring`` is what its agent would say of a benchmark; ``messages`` are what its job process notified."""

    device_id: str
    store: Path
    token: str = TOKEN
    measuring: bool = False
    messages: list[str] = field(default_factory=list)
    knows: list[LanDevice] = field(default_factory=list)
    other_urls: list[Peer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store.mkdir(parents=True, exist_ok=True)
        self.server = ModelServer(self.store, self.token, lambda: self.measuring, host="127.0.0.1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def peers(self) -> Peers:
        known = [Peer(one.device_id, one.url, one.device_id.upper()) for one in self.knows]
        return Peers(TOKEN, self.device_id, (*known, *self.other_urls))

    def from_hub(self, endpoint: str, request: HubRequest) -> ModelFiles:
        return hub.fetch(request, self.store, self.messages.append, endpoint=endpoint, peers=self.peers)

    def resolve(self, source: ModelSource, quantisation: str | None = None) -> ModelFiles:
        settings = LoadSettings("embedded", "m", quantisation, source=source)
        return resolve(settings, self.store, self.messages.append, self.peers)

    def partial_bytes(self) -> int:
        """What has come of files that are not whole yet."""
        return sum(path.stat().st_size for path in self.store.rglob("*.partial"))

    def has_message(self, words: str) -> bool:
        return any(words in one for one in self.messages)


@contextmanager
def cluster(folder: Path, *device_ids: str) -> Iterator[list[LanDevice]]:
    """Devices that all know each other."""
    devices = [LanDevice(device_id, folder / device_id) for device_id in device_ids]
    for device in devices:
        device.knows = [other for other in devices if other is not device]
    try:
        yield devices
    finally:
        for device in devices:
            device.server.close()


class BackgroundFetch:
    """Something that runs in a thread; ``result`` waits for it, and raises what it raised."""

    def __init__(self, do: Callable[[], ModelFiles]) -> None:
        self._do = do
        self._files: ModelFiles | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._files = self._do()
        except BaseException as error:  # handed to the one who asks
            self._error = error

    def result(self) -> ModelFiles:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "still at it"
        if self._error is not None:
            raise self._error
        assert self._files is not None
        return self._files
