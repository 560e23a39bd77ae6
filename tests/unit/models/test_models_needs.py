"""What a device lacks before a run: of each kind of source, without fetching a byte of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from agents.contract.job import LoadSettings, ModelSource
from agents.contract.model_need import ModelNeed
from agents.models.hub.fetch import fetch
from agents.models.needs import NOT_HERE, free_bytes, needs
from agents.models.resolve import resolve
from tests.unit.models.fake_hub import REPO, FakeHub
from tests.unit.models.lan_devices import REQUEST

pytestmark = pytest.mark.usefixtures("on_this_machine_alone")

HUB = ModelSource(hf_repo=REPO)


def load(source: ModelSource, quantisation: str | None = "Q4_0", context: int = 1) -> LoadSettings:
    return LoadSettings("embedded", "m", quantisation, context_tokens=context, source=source)


def lacked(missing_bytes: int | None, detail: str = "", files: int = 1) -> ModelNeed:
    return ModelNeed("m", "Q4_0", False, missing_bytes, files, detail)


HERE = ModelNeed("m", "Q4_0", True, 0, 0)


def test_a_model_of_the_hub_by_its_listing_alone(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    assert needs([load(HUB)], tmp_path, endpoint=hub.endpoint) == (lacked(len(model)),)
    assert hub.file_requests() == []
    fetch(REQUEST, tmp_path, print, endpoint=hub.endpoint)
    assert needs([load(HUB)], tmp_path, endpoint=hub.endpoint) == (HERE,)


def test_what_was_begun_is_no_longer_missing(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    fetch(REQUEST, tmp_path, print, endpoint=hub.endpoint)
    (path,) = tmp_path.rglob("tiny-Q4_0.gguf")
    path.with_name("tiny-Q4_0.gguf.partial").write_bytes(model[:1_000_000])
    path.unlink()
    assert needs([load(HUB)], tmp_path, endpoint=hub.endpoint) == (lacked(len(model) - 1_000_000),)


def test_each_source_and_quantisation_counts_once(hub: FakeHub, tmp_path: Path) -> None:
    loads = [load(HUB, context=context) for context in (1, 2, 3)] + [load(ModelSource(tiny="llama"))]
    assert len(needs(loads, tmp_path, endpoint=hub.endpoint)) == 2


def test_a_file_of_two_models_counts_once(model: bytes, projector: bytes, tmp_path: Path) -> None:
    source = ModelSource(hf_repo=REPO, mmproj="mmproj*")
    files = {"m-Q4_0.gguf": model, "m-Q8_0.gguf": model + b"more", "mmproj-F16.gguf": projector}
    with FakeHub(REPO, files) as hub:
        first, second = needs([load(source), load(source, "Q8_0")], tmp_path, endpoint=hub.endpoint)
    assert (first.files, first.missing_bytes) == (2, len(model) + len(projector))
    assert (second.files, second.missing_bytes) == (2, len(model) + 4)


def test_a_hub_that_does_not_answer_is_asked_once(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refusal = (503, {})
    loads = [load(HUB), load(HUB, "Q8_0"), load(ModelSource(hf_repo="other/repo"))]
    first, second, third = needs(loads, tmp_path, endpoint=hub.endpoint)
    assert len(hub.asked) == 1
    assert first.missing_bytes is None and "is not on this device, and the hub answers HTTP 503" in first.detail
    assert second.detail == third.detail == "the hub did not answer"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (offline,) = needs([load(HUB)], tmp_path, endpoint=hub.endpoint)
    assert not offline.here and offline.missing_bytes is None and "HF_HUB_OFFLINE is set" in offline.detail


def test_what_the_hub_has_not_is_said_in_its_words(hub: FakeHub, tmp_path: Path) -> None:
    (need,) = needs([load(HUB, "Q6_K")], tmp_path, endpoint=hub.endpoint)
    assert need.missing_bytes is None and "no model file has 'Q6_K' in its name" in need.detail


def test_a_tiny_model_has_the_size_that_it_will_have(tmp_path: Path) -> None:
    wanted = load(ModelSource(tiny="qwen3vl"))
    (before,) = needs([wanted], tmp_path)
    assert list(tmp_path.iterdir()) == []
    files = resolve(wanted, tmp_path, print)
    assert files.mmproj is not None
    assert (before.files, before.missing_bytes) == (2, files.path.stat().st_size + files.mmproj.stat().st_size)
    assert needs([wanted], tmp_path) == (HERE,)


def test_a_path(model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    assert needs([load(ModelSource(path=str(path)))], tmp_path) == (lacked(None, NOT_HERE),)
    path.write_bytes(model)
    assert needs([load(ModelSource(path=str(path)))], tmp_path) == (HERE,)
    (need,) = needs([load(ModelSource(path=str(path), mmproj="mmproj*"))], tmp_path)
    assert need.missing_bytes is None and "no files in" in need.detail
    path.write_bytes(model[:1_000_000])
    (need,) = needs([load(ModelSource(path=str(path)))], tmp_path)
    assert need.missing_bytes is None and "truncated?" in need.detail


def test_an_address(hub: FakeHub, model: bytes, tmp_path: Path) -> None:
    wanted = load(ModelSource(url=hub.address("tiny-Q4_0.gguf")))
    assert needs([wanted], tmp_path) == (lacked(len(model)),)
    assert [one.method for one in hub.asked] == ["HEAD"]
    hub.tells_size = False
    assert needs([wanted], tmp_path) == (lacked(len(model)),)  # from the range of the first byte
    hub.knows_ranges = False
    assert needs([wanted], tmp_path) == (lacked(None, "the server does not tell its size"),)
    hub.tells_size = hub.knows_ranges = True
    resolve(wanted, tmp_path, print)
    hub.asked.clear()
    assert needs([wanted], tmp_path) == (HERE,)
    assert hub.asked == []
    (gone,) = needs([load(ModelSource(url=hub.address("gone.gguf")))], tmp_path)
    assert gone.missing_bytes is None and "has no url:http://127.0.0.1" in gone.detail


def test_a_name_that_only_the_engine_knows_is_none_of_our_business(tmp_path: Path) -> None:
    assert needs([load(ModelSource(engine_names=(("ollama", "x"),)))], tmp_path) == (HERE,)


@pytest.mark.parametrize("source", [ModelSource(tiny="none"), ModelSource(path="\0"), ModelSource(url="http://[")])
def test_nothing_is_raised(source: ModelSource, tmp_path: Path) -> None:
    (need,) = needs([load(source)], tmp_path)
    assert not need.here and need.missing_bytes is None and need.detail


def test_free_bytes_also_of_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0
    assert free_bytes(Path("/proc/1/not")) >= 0


@pytest.mark.parametrize("engine", ["ollama", "lmstudio", "openai", "comfyui"])
def test_an_engine_with_models_of_its_own_needs_no_file(engine: str, tmp_path: Path) -> None:
    assert needs([replace(load(ModelSource(path="/nowhere/m.gguf")), engine=engine)], tmp_path) == ()
