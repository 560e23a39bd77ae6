"""The generator: the same bytes everywhere, made once, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from agents.contract.job import TINY_NAMES
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.gguf.types import TENSOR_TYPES
from agents.models.store.disk import need_room
from agents.models.tiny import make as tiny
from agents.models.tiny import weights as tiny_weights
from agents.models.tiny.make import QUANTISATIONS, TINY_MODELS, make_tiny
from agents.models.tiny.vocabulary import SPECIAL_TOKENS, tokenizer_metadata
from agents.models.tiny.writer import file_bytes

SMALL = ("llama", "qwen3moe", "deepseek2", "qwen3vl")

# First 16 digits of the SHA-256. A change here is a new GENERATOR number: figures measured on other devices were
# measured on other weights.
GOLDEN: dict[tuple[str, str], str] = {
    ("llama", "F16"): "b0792a1d43af2c38",
    ("llama", "Q8_0"): "9d35297144f1b05f",
    ("llama", "Q4_0"): "f0b3276f458f64fd",
    ("qwen3moe", "F16"): "09646912602a5e2f",
    ("qwen3moe", "Q8_0"): "146052b229420235",
    ("qwen3moe", "Q4_0"): "722b83ca96fd07be",
    ("deepseek2", "F16"): "6e610587eb86fa34",
    ("deepseek2", "Q8_0"): "d66ec22fcffe0279",
    ("deepseek2", "Q4_0"): "e993bba0453b28f5",
    ("qwen3vl", "F16"): "8777c27087e62f3f",
    ("qwen3vl", "Q8_0"): "46625440618b2c80",
    ("qwen3vl", "Q4_0"): "2dbcf909a931babf",
    ("llama", "F32"): "1a40a2ae55ea85dc",
    ("llama", "BF16"): "196814c45d4f8378",
    ("llama", "Q5_1"): "d8806c730c0ac94b",
    ("llama", "Q5_0"): "ce948be9cfe01eed",
    ("llama", "Q4_1"): "9a5bc577375e0cc9",
}


@pytest.mark.parametrize(("name", "quantisation"), GOLDEN)
def test_every_machine_makes_the_same_bytes(tmp_path: Path, name: str, quantisation: str) -> None:
    files = make_tiny(name, quantisation, tmp_path)
    digest = hashlib.sha256(files.path.read_bytes()).hexdigest()
    assert digest[:16] == GOLDEN[name, quantisation]
    assert files.sha256 == digest


def test_the_projector_is_the_same_everywhere_too(tmp_path: Path) -> None:
    files = make_tiny("qwen3vl", None, tmp_path)
    assert files.mmproj is not None
    assert hashlib.sha256(files.mmproj.read_bytes()).hexdigest()[:16] == "9dc6c5008ca62be5"


def test_the_size_of_a_chunk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_tiny("llama", "Q5_1", tmp_path / "a")
    monkeypatch.setattr(tiny_weights, "CHUNK_WEIGHTS", 32 * 1000)
    assert make_tiny("llama", "Q5_1", tmp_path / "b").sha256 == whole.sha256


def dequantised(path: Path) -> dict[str, Any]:
    """Tensors as float32, read by the gguf package: a second opinion on every byte that the writer wrote."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(-1)
        for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize(
    ("quantisation", "step"),
    [
        ("F16", 2**-11),
        ("BF16", 2**-8),
        ("Q8_0", 1 / 128),
        ("Q5_1", 1 / 16),
        ("Q5_0", 1 / 16),
        ("Q4_1", 1 / 8),
        ("Q4_0", 1 / 8),
    ],
)
def test_all_quantisations_hold_the_same_weights_but_for_rounding(
    tmp_path: Path, quantisation: str, step: float
) -> None:
    """``step`` is the distance of two levels, as a part of the highest weight; the highest level may be cut off."""
    exact = dequantised(make_tiny("llama", "F32", tmp_path).path)
    rounded = dequantised(make_tiny("llama", quantisation, tmp_path).path)
    assert rounded.keys() == exact.keys()
    for name, weights in exact.items():
        highest = float(np.abs(weights).max())
        error = np.abs(rounded[name] - weights)
        assert float(error.max()) <= highest * step * 1.01, name
        assert float(np.median(error)) <= highest * step * 0.51, name
        assert abs(float(np.mean(rounded[name] - weights))) <= highest * step * 0.05, name


@pytest.mark.parametrize("name", SMALL)
def test_shapes_types_and_keys(tmp_path: Path, name: str) -> None:
    files = make_tiny(name, "Q4_0", tmp_path)
    assert files.facts is not None and files.facts.architecture == name
    assert files.facts.quantisation == "Q4_0"
    reader = gguf.GGUFReader(files.path)
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds == {"F32", "Q4_0"}
    assert all(tensor.tensor_type.name == "F32" for tensor in reader.tensors if len(tensor.shape) == 1)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(set(tokens)) == 2048
    assert tokens[-6:] == list(SPECIAL_TOKENS)
    output = next(tensor for tensor in reader.tensors if tensor.name == "output.weight")
    rows = gguf.quants.dequantize(output.data, output.tensor_type)
    assert not rows[:256].any() and not rows[-6:].any()
    assert rows[256:-6].any(axis=1).all()


def test_names_with_and_without_their_prefix_and_the_defaults(tmp_path: Path) -> None:
    assert make_tiny("tiny:Llama", "q4_0", tmp_path) == make_tiny("llama", "Q4_0", tmp_path)
    assert "F16" in make_tiny("llama", None, tmp_path).path.name
    assert next(model for model in TINY_MODELS if model.name == "llama-0.6b").quantisation == "Q4_0"


def test_the_large_one_is_as_large_as_said() -> None:
    plan = next(model for model in TINY_MODELS if model.name == "llama-0.6b").plan()
    assert file_bytes(plan, "tiny-llama-0.6b", "Q4_0", 1) == 358_416_512
    packed = {kind.name for kind in TENSOR_TYPES.values()} & set(QUANTISATIONS)
    assert packed == set(QUANTISATIONS)


@pytest.mark.parametrize(
    ("name", "quantisation", "words"),
    [
        ("llama", "Q4_K_M", "cannot be made as Q4_K_M: .* need llama.cpp's own quantiser; allowed are F32, F16"),
        ("llama", "IQ4_XS", "need llama.cpp's own quantiser"),
        ("mamba", None, "there is no tiny:mamba; there are tiny:llama, .*tiny:llama-0.6b"),
    ],
)
def test_what_cannot_be_made(tmp_path: Path, name: str, quantisation: str | None, words: str) -> None:
    with pytest.raises(LoadFailed, match=words) as caught:
        make_tiny(name, quantisation, tmp_path)
    assert caught.value.cause is Cause.MODEL_FILE_MISSING


def test_made_once_and_made_again_only_where_it_is_broken(tmp_path: Path) -> None:
    messages: list[str] = []
    first = make_tiny("qwen3vl", "Q8_0", tmp_path, messages.append)
    assert messages == ["making tiny-qwen3vl-Q8_0.g1.gguf, 4.3 MiB", "making tiny-qwen3vl-mmproj-F16.g1.gguf, 2.5 MiB"]
    assert make_tiny("qwen3vl", "Q8_0", tmp_path, messages.append) == first
    assert len(messages) == 2
    os.truncate(first.path, 1_000_000)
    assert make_tiny("qwen3vl", "Q8_0", tmp_path, messages.append) == first
    assert messages[2:] == ["making tiny-qwen3vl-Q8_0.g1.gguf, 4.3 MiB"]


def test_a_new_generator_leaves_old_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_tiny("llama", "Q4_0", tmp_path)
    monkeypatch.setattr(tiny, "GENERATOR", 99)
    new = make_tiny("llama", "Q4_0", tmp_path)
    assert new.path.name == "tiny-llama-Q4_0.g99.gguf"
    assert new.sha256 != old.sha256
    assert old.path.exists()


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from agents.models.tiny.make import make_tiny; "
        "print(make_tiny('llama', 'F32', pathlib.Path(sys.argv[1]), print).sha256)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert answers[0][-1] == answers[1][-1]
    assert sum(line.startswith("making") for lines in answers for line in lines) == 1
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["tiny-llama-F32.g1.gguf"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".tiny-llama-Q4_0.g1.gguf.4194305.tmp"  # above the greatest process id of Linux
    left.write_bytes(b"half a model")
    make_tiny("llama", "Q4_0", tmp_path)
    assert not left.exists()


def test_a_full_disk_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    """A real limit of the kernel on the size of a file, in a child process."""
    code = (
        "import sys, pathlib, resource, signal\n"
        "from agents.errors import LoadFailed\n"
        "from agents.models.tiny.make import make_tiny\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try:\n"
        "    make_tiny('llama', 'Q4_0', pathlib.Path(sys.argv[1]))\n"
        "except LoadFailed as failed:\n"
        "    print(failed.cause, failed.detail)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("disk_full cannot make ")
    assert list(tmp_path.glob("[!.]*")) == []


def test_room_on_the_disk_is_asked_first(tmp_path: Path) -> None:
    need_room(tmp_path / "new", 1, "a small file")
    with pytest.raises(LoadFailed, match=r"a large file needs 1024 TiB .* free") as caught:
        need_room(tmp_path, 1 << 50, "a large file")
    assert caught.value.cause is Cause.DISK_FULL


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LoadFailed, match=r"cannot make .*: Not a directory") as caught:
        make_tiny("llama", None, tmp_path / "file" / "store")
    assert caught.value.cause is Cause.LOAD_FAILED


def test_the_vocabulary_covers_every_byte() -> None:
    tokens = tokenizer_metadata(300)["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert len(set(tokens[:256])) == 256
    assert (tokens[ord("A")], tokens[0], tokens[ord(" ")], tokens[0xFF]) == ("A", "\u0100", "\u0120", "\u00ff")
    with pytest.raises(ValueError, match="cannot be made"):
        tokenizer_metadata(200)


def test_the_matrix_knows_the_names_of_all_tiny_models() -> None:
    assert tuple(model.name for model in TINY_MODELS) == TINY_NAMES
