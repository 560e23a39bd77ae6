"""Fetching from a real HTTP server on the loopback that speaks the hub's routes. The real hub is never asked."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.hub import download as hub_download
from agents.models.hub.fetch import fetch
from agents.models.hub.listing import LISTING_HOLDS_S, HubRequest
from agents.models.hub.pick import RemoteFile
from agents.models.store.files import ModelFiles
from tests.unit.models.fake_hub import COMMIT, REPO, Asked, FakeHub

pytestmark = pytest.mark.usefixtures("on_this_machine_alone")

TOKEN = "hf_secretsecretsecret"


def get(hub: FakeHub, store: Path, messages: list[str] | None = None, **wanted: str) -> ModelFiles:
    request = HubRequest(REPO, **({"quantisation": "Q4_0"} | wanted))
    return fetch(request, store, (messages if messages is not None else []).append, endpoint=hub.endpoint)


def age_listings(store: Path) -> None:
    for path in store.rglob("listings/*.json"):
        long_ago = path.stat().st_mtime - LISTING_HOLDS_S - 1
        os.utime(path, (long_ago, long_ago))


def ranges(requests: list[Asked]) -> list[str | None]:
    return [one.range for one in requests]


def test_a_file_is_fetched_verified_and_its_facts_read(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    messages: list[str] = []
    files = get(hub, tmp_path, messages)
    assert files.path.read_bytes() == model
    assert files.path.name == "tiny-Q4_0.gguf"
    assert files.sha256 == hashlib.sha256(model).hexdigest()
    assert files.facts is not None and files.facts.architecture == "llama"
    assert messages[-2:] == [
        "fetching hf:someone/Tiny-GGUF: 2.3 MiB of 2.3 MiB",
        "checking tiny-Q4_0.gguf.partial: " + "2.3 MiB of 2.3 MiB",
    ]
    assert not list(tmp_path.rglob("*.partial"))


def test_the_hub_is_not_asked_again_while_the_listing_is_fresh(hub: FakeHub, tmp_path: Path) -> None:
    first = get(hub, tmp_path)
    hub.asked.clear()
    assert get(hub, tmp_path) == first
    assert hub.asked == []
    age_listings(tmp_path)
    assert get(hub, tmp_path) == first
    assert [one.path for one in hub.asked] == [f"/api/models/{REPO}"]


def test_a_changed_file_is_fetched_beside_the_old_one(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    old = get(hub, tmp_path)
    hub.files["tiny-Q4_0.gguf"] = model[:-1] + bytes([model[-1] ^ 1])
    age_listings(tmp_path)
    new = get(hub, tmp_path)
    assert new.path != old.path and new.sha256 != old.sha256
    assert old.path.read_bytes() == model


@pytest.mark.parametrize("cut", [0, 1, 1_000_000])
def test_a_dropped_connection_is_resumed_where_it_broke(hub: FakeHub, model: bytes, tmp_path: Path, cut: int) -> None:
    hub.cuts = [cut]
    assert get(hub, tmp_path).path.read_bytes() == model
    assert ranges(hub.file_requests()) == ["bytes=0-", f"bytes={cut}-"]
    assert sum(one.sent_bytes for one in hub.file_requests()) == len(model)


def test_what_an_ended_attempt_has_left_is_taken_up(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    hub.cuts = [700_000, *([0] * 10)]
    with pytest.raises(LoadFailed, match="stopped sending"):
        get(hub, tmp_path)
    hub.cuts.clear()
    hub.asked.clear()
    assert get(hub, tmp_path).path.read_bytes() == model
    assert ranges(hub.file_requests()) == ["bytes=700000-"]


def test_a_server_without_ranges_sends_all_again(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    hub.knows_ranges = False
    hub.cuts = [1_000]
    assert get(hub, tmp_path).path.read_bytes() == model
    assert [one.sent_bytes for one in hub.file_requests()] == [1_000, len(model)]


def test_a_wrong_hash_is_refused_and_not_kept(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    right = hashlib.sha256(model).hexdigest()
    hub.files["tiny-Q4_0.gguf"] = model[:-1] + b"?"
    hub.stated_sha256["tiny-Q4_0.gguf"] = right
    with pytest.raises(LoadFailed, match=f"should have SHA-256 {right}") as caught:
        get(hub, tmp_path)
    assert caught.value.cause is Cause.MODEL_FILE_INVALID
    assert not list(tmp_path.rglob("*.gguf*"))
    hub.files["tiny-Q4_0.gguf"] = model
    assert get(hub, tmp_path).sha256 == right


def test_a_file_damaged_in_the_store_is_noticed(hub: FakeHub, tmp_path: Path) -> None:
    files = get(hub, tmp_path)
    with files.path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    os.utime(files.path, ns=(0, 0))
    with pytest.raises(LoadFailed, match="damaged, delete it"):
        get(hub, tmp_path)


def test_a_file_longer_than_the_hub_says_is_refused(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    hub.stated_sizes["tiny-Q4_0.gguf"] = 1_000
    with pytest.raises(LoadFailed, match="should have 1,000 bytes") as caught:
        get(hub, tmp_path)
    assert caught.value.cause is Cause.MODEL_FILE_INVALID


def test_what_is_not_a_model_is_refused_though_its_hash_is_right(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["tiny-Q4_0.gguf"] = b"<!DOCTYPE html>"
    with pytest.raises(LoadFailed, match="begins with '<!DOCTYP'") as caught:
        get(hub, tmp_path)
    assert caught.value.cause is Cause.MODEL_FILE_INVALID


def test_the_disk_is_asked_before_a_byte_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.stated_sizes["tiny-Q4_0.gguf"] = 1 << 62
    with pytest.raises(LoadFailed, match=r"needs 4194304 TiB .* but the disk of .* has .* free") as caught:
        get(hub, tmp_path)
    assert caught.value.cause is Cause.DISK_FULL
    assert hub.file_requests() == []


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, {"X-Error-Code": "RepoNotFound"}), "not on the hub, or it is private"),
        ((401, {}), r"refuses .* token \(HTTP 401\)"),
        ((401, {"X-Error-Message": "Invalid credentials in Authorization header"}), "refuses .* token"),
        ((404, {"X-Error-Code": "RepoNotFound"}), "not on the hub, or it is private"),
        ((403, {"X-Error-Code": "GatedRepo"}), "is gated: accept its terms"),
        ((403, {}), "refuses .* token"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), "has no revision"),
        ((418, {}), "answers HTTP 418"),
        ((503, {}), "is not on this device, and the hub answers HTTP 503"),
        ((200, {}), "is not on this device, and what answers in the hub's place"),
    ],
)
def test_refusals(hub: FakeHub, tmp_path: Path, refusal: tuple[int, dict[str, str]], words: str) -> None:
    hub.refusal = refusal
    with pytest.raises(LoadFailed, match=words) as caught:
        get(hub, tmp_path)
    assert caught.value.cause is Cause.MODEL_FILE_MISSING


def test_a_revision(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="has no revision 'v9'"):
        get(hub, tmp_path, revision="v9")
    get(hub, tmp_path, revision=COMMIT)
    age_listings(tmp_path)
    hub.asked.clear()
    get(hub, tmp_path, revision=COMMIT)
    assert hub.asked == []  # a commit does not change


def test_a_name_that_is_none(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="OWNER/NAME is expected"):
        fetch(HubRequest("a/b/c"), tmp_path, print, endpoint=hub.endpoint)


def test_without_a_network_what_was_fetched_is_used(hub: FakeHub, tmp_path: Path) -> None:
    files = get(hub, tmp_path)
    age_listings(tmp_path)
    endpoint = hub.endpoint
    hub.__exit__()
    messages: list[str] = []
    assert fetch(HubRequest(REPO, quantisation="Q4_0"), tmp_path, messages.append, endpoint=endpoint) == files
    assert any("cannot be reached" in one and "kept on this device" in one for one in messages)
    with pytest.raises(LoadFailed, match="is not on this device, and the hub cannot be reached") as caught:
        fetch(HubRequest(REPO, quantisation="Q4_0"), tmp_path / "other", messages.append, endpoint=endpoint)
    assert caught.value.cause is Cause.MODEL_FILE_MISSING
    hub.__enter__()


def test_offline_by_the_environment(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = get(hub, tmp_path)
    age_listings(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert get(hub, tmp_path) == files
    with pytest.raises(LoadFailed, match="HF_HUB_OFFLINE is set"):
        get(hub, tmp_path / "other")
    assert hub.asked == []


def test_what_other_programs_fetched_is_used_where_it_lies(
    hub: FakeHub, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = huggingface_hub.hf_hub_download(REPO, "tiny-Q4_0.gguf", endpoint=hub.endpoint)
    hub.asked.clear()
    files = get(hub, tmp_path / "store")
    assert str(files.path) == theirs
    assert files.sha256 == hashlib.sha256(model).hexdigest()
    assert hub.file_requests() == []
    assert not [path for path in Path(theirs).parent.iterdir() if "sha256" in path.name]  # nothing is left there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert str(get(hub, tmp_path / "other").path) == theirs


def test_the_token_goes_to_the_hub_alone(
    hub: FakeHub, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    messages: list[str] = []
    with FakeHub(REPO, {"tiny-Q4_0.gguf": model}) as elsewhere:
        hub.sends_files_from = elsewhere.endpoint.replace("127.0.0.1", "localhost")
        get(hub, tmp_path, messages)
        assert [one.authorization for one in elsewhere.asked] == [None]
    assert {one.authorization for one in hub.asked} == {f"Bearer {TOKEN}"}
    hub.refusal = (403, {})
    with pytest.raises(LoadFailed) as caught:
        get(hub, tmp_path / "other", messages)
    assert TOKEN not in caught.value.detail and not any(TOKEN in one for one in messages)


def test_all_parts_of_a_split_model_and_its_projector(model: bytes, projector: bytes, tmp_path: Path) -> None:
    # Each part is a GGUF of its own; that these are the same one twice is nothing the check looks at.
    files = {
        "Q8_0/m-Q8_0-00002-of-00002.gguf": model,
        "Q8_0/m-Q8_0-00001-of-00002.gguf": model,
        "m-Q4_0.gguf": model,
        "mmproj-F16.gguf": projector,
    }
    with FakeHub(REPO, files) as hub:
        got = get(hub, tmp_path, quantisation="q8_0", mmproj="mmproj*")
        assert len(hub.file_requests()) == 3
        with pytest.raises(LoadFailed, match="llama model, not a vision projector"):
            get(hub, tmp_path, quantisation="q8_0", mmproj="m-Q4_0.gguf")
    assert got.facts is not None
    assert [path.name for path in got.facts.parts] == ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    assert got.facts.file_bytes == 2 * len(model)
    assert got.path == got.facts.parts[0]
    assert got.mmproj is not None and got.mmproj.read_bytes() == projector


def test_a_file_too_large_for_plain_http_goes_through_the_library(
    hub: FakeHub, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_download, "PLAIN_HTTP_LIMIT_BYTES", 1_000)
    files = get(hub, tmp_path)
    assert files.path.read_bytes() == model
    assert [path.name for path in files.path.parent.iterdir() if not path.name.startswith(".")] == ["tiny-Q4_0.gguf"]
    assert "HEAD" in [one.method for one in hub.asked]  # the library's way


def test_a_download_by_the_library_shows_that_bytes_come_and_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its agent would take hours without a word for a hang."""
    monkeypatch.setattr(hub_download, "LOOK_S", 0.005)
    more, seen = threading.Semaphore(0), list[int]()

    def fetch_slowly(*_: object, local_dir: Path, **__: object) -> str:
        local_dir.mkdir(parents=True)
        with (local_dir / "part.incomplete").open("wb") as file:
            while len(seen) < 4:
                more.acquire(timeout=10.0)
                file.write(b"x" * 8192)
                file.flush()
        return ""

    def on_bytes(done: int) -> None:
        seen.append(done)
        more.release()
        if len(seen) == 4:
            raise LoadFailed(Cause.CANCELLED, "cancelled")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch_slowly)
    repo, file = hub_download.RemoteRepo(REPO, COMMIT, None), RemoteFile("m.gguf", 60_000_000_000, None)
    with pytest.raises(LoadFailed, match="cancelled"):
        hub_download._download_by_library(repo, file, tmp_path / "m.gguf.partial", on_bytes)
    assert seen == sorted(set(seen)), "each time that bytes have come, and no other"
