"""From LoadSettings to files, by each kind of source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agents.contract.job import LoadSettings, ModelSource
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.progress import ByteProgress
from agents.models.resolve import ModelFiles, resolve
from agents.models.tiny.make import make_tiny
from agents.units import format_size


def settings(source: ModelSource, quantisation: str | None = None) -> LoadSettings:
    return LoadSettings(engine="llama-embedded", model="as named", quantisation=quantisation, source=source)


def resolved(source: ModelSource, store: Path, quantisation: str | None = None) -> tuple[ModelFiles, list[str]]:
    messages: list[str] = []
    return resolve(settings(source, quantisation), store, messages.append), messages


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and its projector."""
    directory = tmp_path_factory.mktemp("models")
    made = make_tiny("qwen3vl", "Q4_0", tmp_path_factory.mktemp("tiny"))
    assert made.mmproj is not None
    made.path.rename(directory / "vl-Q4_0.gguf")
    made.mmproj.rename(directory / "mmproj-vl-F16.gguf")
    return directory


def test_a_tiny_model_is_made(tmp_path: Path) -> None:
    files, messages = resolved(ModelSource(tiny="llama"), tmp_path, "Q8_0")
    assert files.path == tmp_path / "tiny" / "tiny-llama-Q8_0.g1.gguf"
    assert files.facts is not None and files.facts.quantisation == "Q8_0"
    assert messages == ["making tiny-llama-Q8_0.g1.gguf, 4.3 MiB"]


def test_a_path_absolute_relative_and_of_the_home(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    monkeypatch.setenv("HOME", str(models))
    expected = models / "vl-Q4_0.gguf"
    for path in (str(expected), "vl-Q4_0.gguf", "~/vl-Q4_0.gguf"):
        files, messages = resolved(ModelSource(path=path), tmp_path, "q4_0")
        assert files.path == expected and files.mmproj is None and messages == []
        assert files.facts is not None and files.facts.architecture == "qwen3vl"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mmproj", ["mmproj-vl-F16.gguf", "MMPROJ*", "./mmproj-vl-F16.gguf"])
def test_the_projector_of_a_path(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmproj: str) -> None:
    monkeypatch.chdir(models)
    files, _ = resolved(ModelSource(path=str(models / "vl-Q4_0.gguf"), mmproj=mmproj), tmp_path)
    assert files.mmproj is not None and files.mmproj.samefile(models / "mmproj-vl-F16.gguf")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (ModelSource(path="none.gguf"), "no such model file: .*none.gguf"),
        (ModelSource(path="~nobody-of-this-name/m.gguf"), "no such model file: ~nobody"),
        (ModelSource(path="vl-Q4_0.gguf", mmproj="*"), "2 files in .* match the vision projector '\\*'"),
        (ModelSource(path="vl-Q4_0.gguf", mmproj="clip*"), "no files in .*; there are mmproj-vl-F16.gguf, vl-Q4_0"),
        (ModelSource(path="vl-Q4_0.gguf", mmproj="gone/mmproj.gguf"), "no such model file: .*gone/mmproj.gguf"),
        (ModelSource(tiny="none"), "there is no tiny:none"),
        (ModelSource(), "llama-embedded loads files, and 'as named' names none: .* hf:OWNER/REPO, or tiny:ARCH"),
        (ModelSource(engine_names=(("ollama", "x"),)), "names none"),
    ],
)
def test_what_is_not_there(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: ModelSource, words: str
) -> None:
    monkeypatch.chdir(models)
    with pytest.raises(LoadFailed, match=words) as caught:
        resolved(source, tmp_path)
    assert caught.value.cause is Cause.MODEL_FILE_MISSING


def test_a_projector_is_no_model_and_a_model_no_projector(models: Path, tmp_path: Path) -> None:
    model, projector = str(models / "vl-Q4_0.gguf"), str(models / "mmproj-vl-F16.gguf")
    for source, words in (
        (ModelSource(path=projector), "is a vision projector, not a model"),
        (ModelSource(path=model, mmproj=model), "is a qwen3vl model, not a vision projector"),
    ):
        with pytest.raises(LoadFailed, match=words) as caught:
            resolved(source, tmp_path)
        assert caught.value.cause is Cause.MODEL_FILE_INVALID


def test_a_file_of_another_quantisation_than_asked_is_said(models: Path, tmp_path: Path) -> None:
    source = ModelSource(path=str(models / "vl-Q4_0.gguf"))
    _, messages = resolved(source, tmp_path, "UD-Q4_K_XL")
    assert messages == ["vl-Q4_0.gguf calls itself Q4_0; UD-Q4_K_XL is asked for"]
    with pytest.raises(LoadFailed, match=r"vl-Q4_0\.gguf calls itself Q4_0; Q6_K is asked for") as caught:
        resolved(source, tmp_path, "Q6_K")
    assert caught.value.cause is Cause.MODEL_FILE_INVALID


def test_importing_the_door_is_light() -> None:
    code = "import sys, agents.models.resolve; print({'numpy', 'huggingface_hub', 'gguf'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"


def test_progress_is_notified_once_a_second_and_at_the_end() -> None:
    times = iter([0.0, 0.5, 0.99, 1.0, 1.5, 1.6])
    messages: list[str] = []
    progress = ByteProgress(messages.append, "fetching", 10 << 30, seconds=lambda: next(times))
    for gib in (1, 2, 3, 4, 5, 10):
        progress.update(gib << 30)
    assert messages == [f"fetching: {gib} GiB of 10 GiB" for gib in (1, 4, 10)]


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (358_416_512, "341.8 MiB"), (19_434_000_000, "18.1 GiB")],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert format_size(size) == words
