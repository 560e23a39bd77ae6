"""Model files from device to device: real servers on the loopback, and a hub that counts what it sends."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from agents.contract.model_peers import Peer
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.hub.listing import HubRequest
from agents.models.lan.server import ModelServer
from agents.models.lan.shared_files import shared_path
from agents.models.store import disk
from tests.unit.models.fake_hub import REPO, FakeHub
from tests.unit.models.lan_devices import REQUEST, TOKEN, BackgroundFetch, LanDevice, cluster
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("on_this_machine_alone", "without_waiting")


def test_a_device_takes_from_another_what_that_one_has(hub: FakeHub, model: bytes, pair: list[LanDevice]) -> None:
    first, second = pair
    first.from_hub(hub.endpoint, REQUEST)
    files = second.from_hub(hub.endpoint, REQUEST)
    assert files.path.read_bytes() == model
    assert files.path.is_relative_to(second.store)
    assert hub.sent_bytes() == len(model)
    assert second.has_message("fetching tiny-Q4_0.gguf from A: 2.3 MiB of 2.3 MiB")
    assert not list(second.store.rglob("fetching/*.json"))


@pytest.mark.parametrize("first", ["a", "b"])
def test_one_fetches_and_the_other_waits_for_it(hub: FakeHub, model: bytes, pair: list[LanDevice], first: str) -> None:
    early, late = pair if first == "a" else reversed(pair)
    go_on = threading.Event()
    hub.stops_at = (1_000_000, go_on)
    fetching = BackgroundFetch(lambda: early.from_hub(hub.endpoint, REQUEST))
    until(lambda: len(hub.file_requests()) == 1, "the first one fetches")
    waiting = BackgroundFetch(lambda: late.from_hub(hub.endpoint, REQUEST))
    words = f"waiting for {early.device_id.upper()} to fetch tiny-Q4_0.gguf"
    until(lambda: late.has_message(words), words)
    go_on.set()
    assert fetching.result().sha256 == waiting.result().sha256
    assert hub.sent_bytes() == len(model)
    assert late.has_message(f"from {early.device_id.upper()}: 2.3 MiB of 2.3 MiB")


def test_however_many_begin_at_once_the_file_crosses_the_line_once(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    for round_ in range(5):
        with cluster(tmp_path / str(round_), "a", "b", "c", "d") as devices:
            hub.asked.clear()
            begin = threading.Barrier(len(devices))

            def fetch(device: LanDevice, begin: threading.Barrier = begin) -> BackgroundFetch:
                def together() -> object:
                    begin.wait()
                    return device.from_hub(hub.endpoint, REQUEST)

                return BackgroundFetch(together)  # type: ignore[arg-type]

            for files in [fetch(device) for device in devices]:
                assert files.result().sha256 == hashlib.sha256(model).hexdigest()
            assert hub.sent_bytes() == len(model), round_
            assert len(hub.file_requests()) == 1


def offered_path(device: LanDevice, model: bytes) -> Path:
    path = shared_path(device.store, hashlib.sha256(model).hexdigest())
    assert path is not None
    return path


def replace_bytes(path: Path, words: bytes) -> None:
    """Other bytes in the middle, of which neither size nor time tells."""
    stat = path.stat()
    with path.open("rb+") as file:
        file.seek(1_500_000)
        file.write(words)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_wrong_bytes_are_not_kept_and_the_next_device_is_asked(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    with cluster(tmp_path, "a", "b", "c") as (first, second, third):
        for device in (first, third):
            device.knows = []
            device.from_hub(hub.endpoint, REQUEST)
        for device in (first, third):
            replace_bytes(offered_path(device, model), b"damaged")
        hub.asked.clear()
        assert second.from_hub(hub.endpoint, REQUEST).path.read_bytes() == model
        for name in ("A", "C"):
            assert second.has_message(f"{name} sent other bytes than it said: tiny-Q4_0.gguf is not taken from there")
        assert hub.sent_bytes() == len(model)  # nobody else had it


def test_a_device_with_the_right_bytes_is_found_behind_one_with_wrong_ones(
    hub: FakeHub, model: bytes, tmp_path: Path
) -> None:
    with cluster(tmp_path, "a", "b", "c") as (first, second, third):
        for device in (first, third):
            device.knows = []
            device.from_hub(hub.endpoint, REQUEST)
        hub.asked.clear()
        for bad in (first, third):
            replace_bytes(offered_path(bad, model), b"damaged")
            assert second.from_hub(hub.endpoint, REQUEST).path.read_bytes() == model
            assert hub.file_requests() == []
            for path in second.store.rglob("tiny-Q4_0.gguf"):
                path.unlink()
            replace_bytes(offered_path(bad, model), model[1_500_000:1_500_007])
        assert second.has_message("sent other bytes than it said")


def test_a_transfer_that_breaks_off_is_resumed_where_it_broke(
    hub: FakeHub, model: bytes, pair: list[LanDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    first.from_hub(hub.endpoint, REQUEST)
    sent: list[tuple[int, int]] = []
    send = ModelServer.send

    def breaks_off(server: ModelServer, connection: Any, file: Any, start: int, count: int) -> None:
        sent.append((start, count))
        send(server, connection, file, start, 700_000 if len(sent) == 1 else count)

    monkeypatch.setattr(ModelServer, "send", breaks_off)
    assert second.from_hub(hub.endpoint, REQUEST).path.read_bytes() == model
    assert sent == [(0, len(model)), (700_000, len(model) - 700_000)]
    assert hub.sent_bytes() == len(model)


def test_what_the_internet_began_another_device_ends_and_the_other_way_round(
    hub: FakeHub, model: bytes, pair: list[LanDevice]
) -> None:
    first, second = pair
    second.knows = []
    hub.cuts = [800_000, *([0] * 10)]
    with pytest.raises(LoadFailed, match="stopped sending"):
        second.from_hub(hub.endpoint, REQUEST)
    hub.cuts.clear()
    first.from_hub(hub.endpoint, REQUEST)
    second.knows = [first]
    assert second.from_hub(hub.endpoint, REQUEST).path.read_bytes() == model
    assert second.has_message("from A: 781.2 KiB of 2.3 MiB")  # taken up where it stood


def test_a_device_that_is_gone_and_one_of_another_cluster_are_said_and_passed_over(
    hub: FakeHub, model: bytes, pair: list[LanDevice], tmp_path: Path
) -> None:
    first, second = pair
    first.from_hub(hub.endpoint, REQUEST)
    stranger = LanDevice("x", tmp_path / "x", token="another token")
    second.other_urls = [Peer("x", stranger.url, "X"), Peer("y", "http://127.0.0.1:1", "Y")]
    second.from_hub(hub.endpoint, REQUEST)
    stranger.server.close()
    assert hub.sent_bytes() == len(model)
    words = "asking other devices for tiny-Q4_0.gguf: X has another token, Y cannot be reached (ConnectError)"
    assert second.messages.count(words) == 1
    assert not any(TOKEN in one for one in second.messages)


def test_a_file_of_the_hugging_face_cache_is_served_too(hub: FakeHub, model: bytes, pair: list[LanDevice]) -> None:
    first, second = pair
    huggingface_hub.hf_hub_download(REPO, "tiny-Q4_0.gguf", endpoint=hub.endpoint)
    hub.asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        first.from_hub(hub.endpoint, REQUEST)
        patch.setattr(constants, "HF_HUB_CACHE", str(second.store / "no-cache"))
        assert second.from_hub(hub.endpoint, REQUEST).path.is_relative_to(second.store)
    assert hub.file_requests() == []


def test_all_parts_of_a_split_model_and_its_projector(model: bytes, projector: bytes, pair: list[LanDevice]) -> None:
    other = model[:-1] + bytes([model[-1] ^ 1])
    files = {"m-Q8_0-00001-of-00002.gguf": model, "m-Q8_0-00002-of-00002.gguf": other, "mmproj-F16.gguf": projector}
    request = HubRequest(REPO, quantisation="Q8_0", mmproj="mmproj*")
    with FakeHub(REPO, files) as hub:
        both = [BackgroundFetch(lambda device=device: device.from_hub(hub.endpoint, request)) for device in pair]  # type: ignore[misc]
        for device, files_of in zip(pair, [one.result() for one in both], strict=True):
            assert files_of.facts is not None
            assert [path.read_bytes() for path in files_of.facts.parts] == [model, other]
            assert files_of.mmproj is not None and files_of.mmproj.read_bytes() == projector
            assert files_of.path.is_relative_to(device.store)
        assert hub.sent_bytes() == sum(len(data) for data in files.values())


def test_a_full_disk_is_said_before_a_byte_is_fetched(
    hub: FakeHub, pair: list[LanDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    first.from_hub(hub.endpoint, REQUEST)
    monkeypatch.setattr(disk, "DISK_MARGIN_BYTES", 1 << 60)
    with pytest.raises(LoadFailed) as caught:
        second.from_hub(hub.endpoint, REQUEST)
    assert caught.value.cause is Cause.DISK_FULL
    assert not list(second.store.rglob("*.partial"))
