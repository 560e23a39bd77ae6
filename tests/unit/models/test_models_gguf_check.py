"""Only LoadFailed may come out of a file that is no whole GGUF, soon, and in little memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.gguf.check import check_gguf
from agents.models.gguf.header import read_header
from agents.models.gguf.types import FILE_TYPES, TENSOR_TYPES
from agents.models.tiny.architectures import Transformer, llama
from agents.models.tiny.make import make_tiny
from agents.models.tiny.writer import write

SMALLEST = Transformer(layers=1, width=32, heads=1, kv_heads=1, head_size=32, ffn_width=32, vocabulary=270)


@cache
def whole() -> bytes:
    """A real GGUF of about 40 KB, the smallest that the generator can make."""
    file = BytesIO()
    write(file, llama(SMALLEST), "smallest", "Q4_0", 1)
    return file.getvalue()


@cache
def head_bytes() -> int:
    with BytesIO(whole()) as file:
        return read_header(file, len(whole())).data_offset


def failure(path: Path) -> LoadFailed:
    with pytest.raises(LoadFailed) as caught:
        check_gguf(path)
    return caught.value


def written(directory: Path, data: bytes, name: str = "m.gguf") -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def test_facts(tmp_path: Path) -> None:
    facts = check_gguf(written(tmp_path, whole()))
    assert (facts.architecture, facts.name, facts.quantisation, facts.file_type) == ("llama", "smallest", "Q4_0", 2)
    assert (facts.n_layers, facts.context_train, facts.n_vocab) == (1, 131_072, 270)
    assert facts.parameters == 2 * 270 * 32 + 7 * 32 * 32 + 3 * 32
    assert facts.tensor_bytes == (2 * 270 * 32 + 7 * 32 * 32) // 32 * 18 + 3 * 32 * 4
    assert facts.file_bytes == len(whole())


def test_facts_agree_with_the_gguf_package(tmp_path: Path) -> None:
    path = make_tiny("deepseek2", "Q8_0", tmp_path).path
    facts, reader = check_gguf(path), gguf.GGUFReader(path)
    assert facts.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert facts.tensor_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)


@pytest.mark.parametrize("name", ["llama", "qwen3moe", "deepseek2"])
def test_a_token_reads_all_weights_but_of_the_experts_those_that_it_uses(name: str, tmp_path: Path) -> None:
    path = make_tiny(name, "Q8_0", tmp_path).path
    reader = gguf.GGUFReader(path)
    sizes = {str(tensor.name): int(tensor.n_bytes) for tensor in reader.tensors}

    def key(word: str) -> int | None:
        field = reader.get_field(f"{name}.{word}")
        return None if field is None else int(field.contents())

    count, used = key("expert_count"), key("expert_used_count")
    experts = sum(size for each, size in sizes.items() if "exps" in each and count)
    rows = sizes["token_embd.weight"] if "output.weight" in sizes else 0
    wanted = sum(sizes.values()) - experts - rows + (experts * used // count if count and used else 0)
    assert check_gguf(path).active_bytes == wanted
    assert (count is not None) == (name != "llama")
    if count:
        assert experts > 0 and used is not None and used < count


def test_types_agree_with_the_gguf_package() -> None:
    theirs = {int(k): (k.name, *gguf.GGML_QUANT_SIZES[k]) for k in gguf.GGMLQuantizationType}
    assert {number: tuple(kind) for number, kind in TENSOR_TYPES.items()} == theirs
    names = {
        int(k): k.name.removeprefix("ALL_").removeprefix("MOSTLY_")
        for k in gguf.LlamaFileType
        if k is not gguf.LlamaFileType.GUESSED
    }
    assert names == FILE_TYPES


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is not a GGUF file: it begins with '<!DOCTYP'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"PK\x03\x04rest", r"begins with 'PK\\x03\\x04rest'"),
        (b"tjggrest", "before GGUF"),
        (b"GG", "is not a GGUF file"),
        (b"GGUF", "ends inside its own head, at byte 4"),
        (b"GGUF" + struct.pack("<I", 1), "version 1, which llama.cpp no longer reads"),
        (b"GGUF" + struct.pack("<I", 9), "version 9: newer than this program knows"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "a key is .* bytes long"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 1 << 60), "list of .* strings"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 1 << 60), "ends inside its own head"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "array of the unknown type 9"),
        (b"GGUF" + struct.pack("<IQQQ1sIQ", 3, 0, 1, 1, b"k", 8, 1 << 62), "ends inside its own head"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "holds no weights"),
    ],
)
def test_what_is_no_gguf(tmp_path: Path, data: bytes, words: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(LoadFailed, match=words) as caught:
        check_gguf(path)
    assert caught.value.cause is Cause.MODEL_FILE_INVALID
    assert caught.value.detail.startswith(str(path))


def test_what_is_no_file(tmp_path: Path) -> None:
    directory = failure(tmp_path)
    assert directory.cause is Cause.MODEL_FILE_INVALID and "is a directory" in directory.detail
    missing = failure(tmp_path / "none.gguf")
    assert missing.cause is Cause.MODEL_FILE_MISSING and missing.detail == f"no such model file: {tmp_path}/none.gguf"
    assert failure(written(tmp_path, b"") / "below.gguf").cause is Cause.MODEL_FILE_MISSING
    (tmp_path / "link.gguf").symlink_to(tmp_path / "gone.gguf")
    link = failure(tmp_path / "link.gguf")
    assert link.cause is Cause.MODEL_FILE_MISSING and "gone.gguf, which" in link.detail
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not an ordinary file" in failure(tmp_path / "pipe.gguf").detail  # and does not wait for a writer
    assert failure(Path("a\0b.gguf")).cause is Cause.MODEL_FILE_INVALID


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the right to read everything, where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = written(tmp_path, whole())
    path.chmod(0)
    with as_nobody():
        failed = failure(path)
    assert failed.cause is Cause.MODEL_FILE_INVALID
    assert failed.detail == f"{path} cannot be read: permission denied"


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    path = make_tiny("llama", "Q8_0", tmp_path).path
    os.truncate(path, path.stat().st_size // 2)
    assert failure(path).detail == f"{path} is 2.2 MiB but its tensors need 4.3 MiB: truncated?"
    whole_path = written(tmp_path, whole()[:-1], "less-one.gguf")
    assert f"is {len(whole()) - 1:,} bytes but its tensors need {len(whole()):,}" in failure(whole_path).detail


def test_cut_anywhere_it_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, whole())
    for length in reversed([*range(head_bytes() + 1), head_bytes() + 1, len(whole()) - 1]):
        os.truncate(path, length)
        assert failure(path).cause is Cause.MODEL_FILE_INVALID


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_give_nothing_but_load_failed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, gguf_like: bool
) -> None:
    path = written(tmp_path_factory.getbasetemp(), (b"GGUF\x03\0\0\0" if gguf_like else b"") + data, "random.gguf")
    with pytest.raises(LoadFailed):
        check_gguf(path)


@settings(deadline=None)
@given(st.data())
def test_damage_in_the_head_gives_facts_or_load_failed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(whole())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, head_bytes() - 8))
        size = data.draw(st.sampled_from((1, 4, 8)))
        raw[at : at + size] = data.draw(st.binary(min_size=size, max_size=size))
    path = written(tmp_path_factory.getbasetemp(), bytes(raw), "damaged.gguf")
    try:
        assert check_gguf(path).file_bytes == len(raw)
    except LoadFailed as failed:
        assert failed.cause is Cause.MODEL_FILE_INVALID


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A sparse file whose last tensor is of a type newer than this program: 4 TiB, checked from its head."""
    head = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, 1, 1))
    key = b"general.architecture"
    head += struct.pack(f"<Q{len(key)}sIQ5s", len(key), key, 8, 5, b"llama")
    head += struct.pack("<Q1sIQIQ", 1, b"w", 1, 1 << 44, 999, 0)
    path = written(tmp_path, bytes(head))
    os.truncate(path, 1 << 42)
    facts = check_gguf(path)
    assert facts.quantisation == "type 999"
    assert facts.parameters == 1 << 44
    assert facts.file_bytes == 1 << 42


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    return [written(tmp_path, whole(), f"m-0000{part}-of-00003.gguf") for part in (1, 2, 3)]


def test_the_parts_of_a_split_model_are_summed(split: list[Path]) -> None:
    facts = check_gguf(split[0])
    assert facts.parts == tuple(split)
    assert facts.file_bytes == 3 * len(whole())


def test_parts_that_are_missing_or_cut_are_named(split: list[Path]) -> None:
    second = failure(split[1])
    assert second.cause is Cause.MODEL_FILE_INVALID and "name the first, m-00001-of-00003.gguf" in second.detail
    os.truncate(split[2], 5_000)
    assert str(split[2]) in failure(split[0]).detail
    split[2].unlink()
    missing = failure(split[0])
    assert missing.cause is Cause.MODEL_FILE_MISSING
    assert "lacks 1 of the 3 parts of the model: m-00003-of-00003.gguf" in missing.detail
    assert failure(split[0].with_name("m-00007-of-00003.gguf")).cause is Cause.MODEL_FILE_INVALID
    assert failure(split[0].with_name("m-00001-of-99999.gguf")).cause is Cause.MODEL_FILE_INVALID
