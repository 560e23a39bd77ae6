"""A model from an address: a real web server on the loopback, and what goes wrong with one."""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from pathlib import Path

import pytest

from agents.contract.job import ModelSource
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.store import disk
from agents.models.store.files import ModelFiles
from agents.models.web.fetch import fetch_url
from tests.unit.models.fake_hub import REPO, Asked, FakeHub
from tests.unit.models.lan_devices import BackgroundFetch, LanDevice, cluster
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("on_this_machine_alone", "without_waiting")

NAME = "tiny-Q4_0.gguf"
SECRETS = ("annie", "pass/word", "pass%2Fword", "s3cr3t")


def get(source: ModelSource, store: Path, messages: list[str] | None = None) -> ModelFiles:
    return fetch_url(source, store, (messages if messages is not None else []).append)


def of(hub: FakeHub, name: str = NAME, mmproj: str | None = None, sha256: str | None = None) -> ModelSource:
    return ModelSource(url=hub.address(name), mmproj=mmproj, sha256=sha256)


def gets(hub: FakeHub) -> list[Asked]:
    return [one for one in hub.asked if one.method == "GET"]


def failed(source: ModelSource, store: Path, messages: list[str] | None = None) -> LoadFailed:
    with pytest.raises(LoadFailed) as caught:
        get(source, store, messages)
    return caught.value


def test_a_file_is_fetched_once_hashed_and_checked(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    messages: list[str] = []
    files = get(of(hub), tmp_path, messages)
    assert files.path.read_bytes() == model and files.path.name == NAME
    assert files.sha256 == hashlib.sha256(model).hexdigest()
    assert files.facts is not None and files.facts.architecture == "llama"
    assert messages[-2] == f"fetching url:{hub.address(NAME)}: 2.3 MiB of 2.3 MiB"
    hub.asked.clear()
    assert get(of(hub), tmp_path) == files
    assert hub.asked == []
    assert {path.name for path in files.path.parent.iterdir()} == {NAME, f".{NAME}.sha256.json"}


@pytest.mark.parametrize("cut", [1, 1_000_000])
def test_a_dropped_connection_is_resumed_where_it_broke(hub: FakeHub, model: bytes, tmp_path: Path, cut: int) -> None:
    hub.cuts = [cut]
    assert get(of(hub), tmp_path).path.read_bytes() == model
    first, second = gets(hub)
    tag = f'"{hashlib.sha256(model).hexdigest()}"'
    assert (first.range, second.range, second.if_range) == (None, f"bytes={cut}-", tag)
    assert hub.sent_bytes() == len(model)


def stop_after(hub: FakeHub, source: ModelSource, store: Path, cut: int) -> None:
    """An attempt that ends in the middle."""
    hub.cuts = [cut, *([0] * 10)]
    assert "the server stopped sending" in failed(source, store).detail
    hub.cuts.clear()
    hub.asked.clear()


def test_what_an_ended_attempt_has_left_is_taken_up(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    stop_after(hub, of(hub), tmp_path, 700_000)
    assert get(of(hub), tmp_path).path.read_bytes() == model
    assert [one.range for one in gets(hub)] == ["bytes=700000-"]


def test_a_file_that_was_changed_meanwhile_begins_anew(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    stop_after(hub, of(hub), tmp_path, 700_000)
    hub.files[NAME] = other = model[:-1] + bytes([model[-1] ^ 1])
    assert get(of(hub), tmp_path).path.read_bytes() == other
    assert [one.range for one in gets(hub)] == [None]


def test_with_a_sha256_a_part_is_taken_up_whatever_the_server_tells_of_versions(
    hub: FakeHub, model: bytes, tmp_path: Path
) -> None:
    source = of(hub, sha256=hashlib.sha256(model).hexdigest())
    stop_after(hub, source, tmp_path, 700_000)
    for path in tmp_path.rglob(".*.partial.json"):
        path.unlink()
    assert get(source, tmp_path).path.read_bytes() == model
    assert [one.range for one in gets(hub)] == ["bytes=700000-"]


def test_a_server_without_ranges_sends_all_again(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    hub.knows_ranges = False
    hub.cuts = [1_000]
    assert get(of(hub), tmp_path).path.read_bytes() == model
    assert [one.sent_bytes for one in gets(hub)] == [1_000, len(model)]


def test_a_server_that_knows_no_head_and_tells_no_size(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    hub.knows_head = hub.knows_ranges = hub.tells_size = False
    messages: list[str] = []
    assert get(of(hub), tmp_path, messages).path.read_bytes() == model
    assert f"fetching url:{hub.address(NAME)}: 0 bytes" in messages


def test_a_signed_address_that_knows_no_head_is_asked_for_its_first_byte(
    hub: FakeHub, model: bytes, tmp_path: Path
) -> None:
    hub.knows_head = False
    get(of(hub), tmp_path)
    assert [(one.method, one.range) for one in hub.asked] == [("HEAD", None), ("GET", "bytes=0-0"), ("GET", None)]
    assert hub.sent_bytes() == 1 + len(model)


def test_a_sha256_that_differs(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    right, wrong = hashlib.sha256(model).hexdigest(), "0" * 64
    error = failed(of(hub, sha256=wrong), tmp_path)
    assert error.cause is Cause.MODEL_FILE_INVALID
    assert f"should have SHA-256 {wrong} but came with SHA-256 {right}; it was deleted" in error.detail
    assert not list(tmp_path.rglob("*.gguf*"))
    assert get(of(hub, sha256=right), tmp_path).sha256 == right


def test_the_same_sha256_from_another_address_is_the_same_file(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(model).hexdigest()
    files = get(of(hub, sha256=sha256), tmp_path)
    hub.asked.clear()
    elsewhere = ModelSource(url=f"http://mirror.invalid/a/{NAME}?signed=now", sha256=sha256)
    assert get(elsewhere, tmp_path) == files
    assert hub.asked == []


def test_a_page_instead_of_a_model_is_not_kept(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    hub.files[NAME] = b"<!DOCTYPE html><title>Log in</title>"
    error = failed(of(hub), tmp_path)
    assert error.cause is Cause.MODEL_FILE_INVALID
    assert f"url:{hub.address(NAME)}: " in error.detail and "begins with '<!DOCTYP'" in error.detail
    hub.files[NAME] = model
    assert get(of(hub), tmp_path).path.read_bytes() == model


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"refuses url:.* \(HTTP 401\)"),
        (403, r"refuses url:.* \(HTTP 403\)"),
        (404, r"the server has no url:.* \(HTTP 404\)"),
        (410, r"the server has no url:.* \(HTTP 410\)"),
        (418, "the server answers HTTP 418"),
        (429, r"stopped sending \(HTTP 429\)"),
        (503, r"stopped sending \(HTTP 503\)"),
    ],
)
def test_refusals(hub: FakeHub, tmp_path: Path, status: int, words: str) -> None:
    hub.refusal = (status, {})
    with pytest.raises(LoadFailed, match=words) as caught:
        get(of(hub), tmp_path)
    assert caught.value.cause is Cause.MODEL_FILE_MISSING


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/m.gguf", "http://nowhere.invalid/m.gguf"])
def test_a_server_that_is_not_there(tmp_path: Path, address: str) -> None:
    error = failed(ModelSource(url=address), tmp_path)
    assert (error.cause, error.detail) == (
        Cause.MODEL_FILE_MISSING,
        f"url:{address} cannot be reached (ConnectError)",
    )


def test_a_redirect_is_followed_and_the_login_is_not_taken_along(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    with FakeHub(REPO, {NAME: model}) as elsewhere:
        hub.sends_files_from = elsewhere.endpoint.replace("127.0.0.1", "localhost")
        source = ModelSource(url=hub.address(NAME).replace("http://", "http://annie:pass%2Fword@"))
        assert get(source, tmp_path).path.read_bytes() == model
        assert elsewhere.sent_bytes() == len(model)
        assert {one.authorization for one in elsewhere.asked} == {None}
    basic = base64.b64encode(b"annie:pass/word").decode()
    assert {one.authorization for one in hub.asked} == {f"Basic {basic}"}


def test_a_redirect_to_no_end_and_to_a_file_of_the_device(hub: FakeHub, tmp_path: Path) -> None:
    hub.sends_files_from = hub.endpoint
    assert "cannot be reached (TooManyRedirects)" in failed(of(hub), tmp_path).detail
    hub.refusal = (302, {"Location": "file:///etc/passwd"})
    assert "cannot be reached (UnsupportedProtocol)" in failed(of(hub), tmp_path).detail


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_neither_login_nor_query_stands_in_a_message_a_path_or_a_log(
    hub: FakeHub, tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    address = hub.address(NAME).replace("http://", "http://annie:pass%2Fword@") + "?token=s3cr3t"
    hub.refusal = None if status == 200 else (status, {})
    hub.files[NAME] = b"no model"
    messages: list[str] = []
    error = failed(ModelSource(url=address), tmp_path, messages)
    words = [error.detail, *messages, *(str(path) for path in tmp_path.rglob("*")), repr(ModelSource(url=address))]
    words += [path.read_text("utf-8", "replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [one for one in words for secret in SECRETS if secret in one]
    assert not [one for one in caplog.messages for secret in SECRETS[:3] if secret in one]
    assert f"url:{hub.address(NAME)}?..." in error.detail


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fm.gguf", "..%5Cm.gguf", ".gguf", ".hidden.gguf", "m.bin", "", "m%00.gguf", "m%0a.gguf", "a/.."]
)
def test_a_name_that_leads_elsewhere_is_no_name(hub: FakeHub, tmp_path: Path, name: str) -> None:
    error = failed(of(hub, name), tmp_path / "store")
    assert "does not name a .gguf file" in error.detail
    assert hub.asked == [] and not list(tmp_path.iterdir())


def test_the_disk_is_asked_before_a_byte_is_fetched(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "DISK_MARGIN_BYTES", 1 << 60)
    error = failed(of(hub), tmp_path)
    assert error.cause is Cause.DISK_FULL and "needs 2.3 MiB" in error.detail
    assert gets(hub) == []


def test_all_parts_of_a_split_model_and_the_projector_beside_it(model: bytes, projector: bytes, tmp_path: Path) -> None:
    other = model[:-1] + bytes([model[-1] ^ 1])
    files = {"m-00001-of-00002.gguf": model, "m-00002-of-00002.gguf": other, "mmproj F16.gguf": projector}
    with FakeHub(REPO, files) as hub:
        sha256 = hashlib.sha256(model).hexdigest()
        got = get(of(hub, "m-00001-of-00002.gguf", mmproj="mmproj F16.gguf", sha256=sha256), tmp_path)
        assert got.facts is not None and got.mmproj is not None
        assert [path.read_bytes() for path in got.facts.parts] == [model, other]
        assert got.mmproj.read_bytes() == projector and got.mmproj.name == "mmproj F16.gguf"
        address = hub.address("mmproj%20F16.gguf")
        assert get(of(hub, "m-00001-of-00002.gguf", mmproj=address, sha256=sha256), tmp_path) == got
        error = failed(of(hub, "m-00002-of-00002.gguf"), tmp_path)
        assert "is part 2 of 2: name the first" in error.detail
        error = failed(of(hub, "m-00001-of-00002.gguf", mmproj="m-00001-of-00002.gguf"), tmp_path)
        assert "llama model, not a vision projector" in error.detail


def test_a_part_that_the_server_lacks(model: bytes, tmp_path: Path) -> None:
    with FakeHub(REPO, {"m-00001-of-00002.gguf": model}) as hub:
        error = failed(of(hub, "m-00001-of-00002.gguf"), tmp_path)
        assert f"the server has no url:{hub.address('m-00002-of-00002.gguf')} (HTTP 404)" in error.detail


@pytest.mark.parametrize("told", [True, False])
def test_devices_fetch_an_address_once(hub: FakeHub, model: bytes, tmp_path: Path, told: bool) -> None:
    sha256 = hashlib.sha256(model).hexdigest()
    source = of(hub, sha256=sha256) if told else of(hub)
    with cluster(tmp_path, "a", "b", "c") as devices:
        begin = threading.Barrier(len(devices))

        def fetch(device: LanDevice) -> ModelFiles:
            begin.wait()
            return device.resolve(source)

        for running in [BackgroundFetch(lambda device=device: fetch(device)) for device in devices]:  # type: ignore[misc]
            assert running.result().sha256 == sha256
    assert hub.sent_bytes() == len(model)


def test_another_device_waits_for_an_address_of_unknown_contents(
    hub: FakeHub, model: bytes, pair: list[LanDevice]
) -> None:
    first, second = pair
    go_on = threading.Event()
    hub.stops_at = (1_000_000, go_on)
    fetching = BackgroundFetch(lambda: second.resolve(of(hub)))
    until(lambda: len(gets(hub)) == 1, "the second one fetches")
    waiting = BackgroundFetch(lambda: first.resolve(of(hub)))
    until(
        lambda: first.has_message("waiting for B to fetch tiny-Q4_0.gguf"), "the first one waits, though its id is less"
    )
    go_on.set()
    assert waiting.result().sha256 == fetching.result().sha256
    assert hub.sent_bytes() == len(model)
