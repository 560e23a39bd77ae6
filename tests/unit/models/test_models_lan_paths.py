"""A path of the matrix that another device has: found there, fetched once, found here from then on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from agents.contract.job import ModelSource
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.lan import catalogue
from agents.models.lan.fetch import stored_from_path
from agents.models.store import disk
from agents.models.store.files import files_at
from tests.unit.models.lan_devices import BackgroundFetch, LanDevice, cluster
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("on_this_machine_alone", "without_waiting")

SERVER = "agents.models.lan.catalogue"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is ``/models`` to every model server, and to no job process: all run on one disk here."""
    folder = tmp_path / "models"
    folder.mkdir()
    is_model_path = catalogue._is_model_path

    def there(path: str) -> str:
        return path.replace("/models/", f"{folder}/", 1)

    monkeypatch.setattr(f"{SERVER}.files_at", lambda path, mmproj: files_at(there(path), mmproj))
    monkeypatch.setattr(f"{SERVER}._is_model_path", lambda path: is_model_path(there(path)))
    return folder


def path_source(path: str, mmproj: str | None = None) -> ModelSource:
    return ModelSource(path=path, mmproj=mmproj)


def test_a_path_is_fetched_once_and_found_here_from_then_on(models: Path, model: bytes, pair: list[LanDevice]) -> None:
    _, second = pair
    (models / "m.gguf").write_bytes(model)
    files = second.resolve(path_source("/models/m.gguf"), "Q4_0")
    assert files.path.read_bytes() == model
    assert files.path.is_relative_to(second.store / "lan") and files.path.name == "m.gguf"
    assert files.sha256 is not None and files.facts is not None and files.mmproj is None
    second.messages.clear()
    second.knows = []
    assert second.resolve(path_source("/models/m.gguf")) == files
    assert second.messages == []


def test_it_is_hashed_once_however_often_it_is_asked_for(
    models: Path, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def counted(path: Path, *how: Any) -> str:
        hashed.append(path)
        return disk.hash_file(path, *how)

    monkeypatch.setattr(f"{SERVER}.hash_file", counted)
    (models / "m.gguf").write_bytes(model)
    with cluster(tmp_path, "a", "b", "c") as (first, second, third):
        second.knows = third.knows = [first]
        for device in (second, third):
            device.resolve(path_source("/models/m.gguf"))
        assert hashed == [models / "m.gguf"]


def test_all_parts_and_the_projector_lie_side_by_side(
    models: Path, model: bytes, projector: bytes, pair: list[LanDevice]
) -> None:
    _, second = pair
    other = model[:-1] + bytes([model[-1] ^ 1])
    (models / "m-00001-of-00002.gguf").write_bytes(model)
    (models / "m-00002-of-00002.gguf").write_bytes(other)
    (models / "mmproj-F16.gguf").write_bytes(projector)
    files = second.resolve(path_source("/models/m-00001-of-00002.gguf", "mmproj*"))
    assert files.facts is not None and files.mmproj is not None
    assert [path.read_bytes() for path in files.facts.parts] == [model, other]
    assert files.mmproj.read_bytes() == projector
    assert files.mmproj.parent == files.path.parent
    assert second.resolve(path_source("/models/m-00001-of-00002.gguf", "mmproj*")) == files
    # without the projector it is another question, and the same files
    assert second.resolve(path_source("/models/m-00001-of-00002.gguf")).path == files.path


def test_what_was_fetched_for_a_path_can_be_had_from_there_too(models: Path, model: bytes, tmp_path: Path) -> None:
    (models / "m.gguf").write_bytes(model)
    with cluster(tmp_path, "a", "b", "c") as (_, second, third):
        second.resolve(path_source("/models/m.gguf"))
        (models / "m.gguf").unlink()
        third.knows = [second]
        assert third.resolve(path_source("/models/m.gguf")).path.read_bytes() == model


def test_a_path_that_is_nowhere(pair: list[LanDevice], models: Path) -> None:
    with pytest.raises(LoadFailed) as caught:
        pair[1].resolve(path_source("/models/none.gguf"))
    assert caught.value.cause is Cause.MODEL_FILE_MISSING
    assert caught.value.detail == "no such model file: /models/none.gguf, nor at any of 1 other devices"


def test_a_file_that_is_no_model_is_not_handed_out(pair: list[LanDevice], models: Path, model: bytes) -> None:
    (models / "page.gguf").write_text("<!DOCTYPE html>")
    (models / "cut.gguf").write_bytes(model[:1_000_000])
    (models / "part-00001-of-00002.gguf").write_bytes(model)
    (models / "model.txt").write_bytes(model)
    for name in ("page.gguf", "cut.gguf", "part-00001-of-00002.gguf", "model.txt"):
        with pytest.raises(LoadFailed, match="nor at any of 1 other devices"):
            pair[1].resolve(path_source(f"/models/{name}"))


def test_a_file_that_is_here_is_not_looked_for_elsewhere(
    models: Path, model: bytes, pair: list[LanDevice], tmp_path: Path
) -> None:
    here = tmp_path / "here.gguf"
    here.write_bytes(model)
    assert pair[1].resolve(path_source(str(here))).path == here
    here.write_bytes(model[:1_000_000])
    with pytest.raises(LoadFailed, match="truncated"):
        pair[1].resolve(path_source(str(here)))


def test_hashing_is_waited_for_and_stands_still_while_a_benchmark_runs(
    models: Path, model: bytes, pair: list[LanDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    begun, go_on = threading.Event(), threading.Event()

    def slowly(path: Path, notify: Any, between: Any) -> str:
        begun.set()
        go_on.wait(60)
        return disk.hash_file(path, notify, between)

    monkeypatch.setattr(f"{SERVER}.hash_file", slowly)
    (models / "m.gguf").write_bytes(model)
    waiting = BackgroundFetch(lambda: second.resolve(path_source("/models/m.gguf")))
    until(begun.is_set, "hashing")
    until(lambda: second.has_message("waiting for A, which has /models/m.gguf and is hashing it"), "it says so")
    first.measuring = True
    go_on.set()
    until(lambda: second.has_message("waiting for A, which has /models/m.gguf and measures now"), "it says so")
    assert not list(first.store.rglob("*.sha256.json"))  # the hash is not done before the benchmark is
    first.measuring = False
    assert waiting.result().path.read_bytes() == model


def test_a_measuring_device_is_waited_for_without_end_where_there_is_no_other_way(
    models: Path, model: bytes, pair: list[LanDevice]
) -> None:
    first, second = pair
    (models / "m.gguf").write_bytes(model)
    first.measuring = True
    waiting = BackgroundFetch(lambda: second.resolve(path_source("/models/m.gguf")))
    until(lambda: sum("measures now" in one for one in second.messages) > 20, "it asks again and again")
    first.measuring = False
    assert waiting.result().path.read_bytes() == model


def test_devices_that_have_different_files_there(
    model: bytes, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = model[:-1] + bytes([model[-1] ^ 1])
    with cluster(tmp_path, "a", "b", "c", "d") as (first, second, third, fourth):
        for device, data in ((first, other), (second, model), (third, model)):
            (models / "m.gguf").write_bytes(data)
            fourth.knows = [device]
            device.knows = [fourth]
            device.resolve(path_source("/models/m.gguf"))  # from the fourth one's server, into its own store
        (models / "m.gguf").unlink()
        fourth.knows = [first, second, third]
        assert fourth.resolve(path_source("/models/m.gguf")).path.read_bytes() == model
        assert fourth.has_message("/models/m.gguf is not the same file on all devices: that of B is taken")


def test_what_is_damaged_in_the_store_is_fetched_again(models: Path, model: bytes, pair: list[LanDevice]) -> None:
    _, second = pair
    (models / "m.gguf").write_bytes(model)
    path = second.resolve(path_source("/models/m.gguf")).path
    path.write_bytes(model[:1_000])
    assert stored_from_path("/models/m.gguf", None, second.store) is None
    assert second.resolve(path_source("/models/m.gguf")).path.read_bytes() == model
