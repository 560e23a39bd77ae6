"""For tests of fetching: an empty Hugging Face cache, no login, no proxy, no waiting; and real small models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from agents.models.store import transfer
from agents.models.tiny.make import make_tiny
from tests.unit.models.fake_hub import REPO, FakeHub
from tests.unit.models.lan_devices import LanDevice, cluster, shorten_waits


@pytest.fixture
def on_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(transfer, "RECONNECT_WAIT_S", 0.0)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_tiny("llama", "Q4_0", tmp_path_factory.mktemp("tiny")).path.read_bytes()


@pytest.fixture(scope="session")
def projector(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    files = make_tiny("qwen3vl", "Q4_0", tmp_path_factory.mktemp("tiny"))
    assert files.mmproj is not None
    return files.mmproj.read_bytes()


@pytest.fixture
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_waits(monkeypatch)


@pytest.fixture
def hub(model: bytes) -> Iterator[FakeHub]:
    with FakeHub(REPO, {"tiny-Q4_0.gguf": model}) as hub:
        yield hub


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[LanDevice]]:
    """Two devices, ``a`` and ``b``, that know each other."""
    with cluster(tmp_path, "a", "b") as devices:
        yield devices
