"""Checks that a file is a whole GGUF before an engine sees it: llama.cpp aborts on a bad one and gives no reason."""

from __future__ import annotations

import re
import stat
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.gguf.header import GgufHeader, NotGguf, TensorEntry, read_header
from agents.models.gguf.kv_cache import KvShape, kv_shape
from agents.models.gguf.types import FILE_TYPES, TENSOR_TYPES
from agents.units import format_size

SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
"""How llama.cpp names the parts of a split model; it loads them all from the first one's name."""

PROJECTOR_ARCHITECTURE = "clip"

_MAX_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a model file states of itself. For a split model: sums over its parts, names from its first."""

    parts: tuple[Path, ...]
    architecture: str
    name: str | None
    file_type: int | None  # general.file_type
    quantisation: str  # file_type in words; where the file does not state it, the type that most weight bytes have
    n_layers: int | None
    context_train: int | None  # tokens
    n_vocab: int | None
    parameters: int
    tensor_bytes: int
    file_bytes: int
    active_bytes: int | None = None  # weights that one token reads: of experts, those that it uses
    kv_shape: KvShape | None = None  # None where the size of its cache cannot be predicted


@dataclass(frozen=True, slots=True)
class _ModelPart:
    path: Path
    header: GgufHeader
    tensor_sizes: tuple[int, ...]  # bytes, in the order of header.tensors
    file_bytes: int


def check_gguf(path: Path) -> GgufFacts:
    """Facts of a GGUF whose every tensor lies inside its file. Reads the header alone, also of a file of 40 GB.

    Raises LoadFailed: MODEL_FILE_MISSING where the file or a part of it is not there, MODEL_FILE_INVALID for the rest.
    """
    parts = tuple(_checked_part(part) for part in _parts_of(path))
    tensors = [tensor for part in parts for tensor in part.header.tensors]
    if not tensors:
        raise LoadFailed(Cause.MODEL_FILE_INVALID, f"{path} holds no weights, a vocabulary at most")
    scalars, arrays = parts[0].header.scalars, parts[0].header.array_lengths
    architecture = scalars.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise LoadFailed(Cause.MODEL_FILE_INVALID, f"{path} does not name its architecture (general.architecture)")

    def count(key: str) -> int | None:
        value = scalars.get(key)
        return value if type(value) is int else None

    name = scalars.get("general.name")
    file_type = count("general.file_type")
    return GgufFacts(
        parts=tuple(part.path for part in parts),
        architecture=architecture,
        name=name if isinstance(name, str) else None,
        file_type=file_type,
        quantisation=FILE_TYPES.get(-1 if file_type is None else file_type) or _most_common_type(parts),
        n_layers=count(f"{architecture}.block_count"),
        context_train=count(f"{architecture}.context_length"),
        n_vocab=arrays.get("tokenizer.ggml.tokens", count(f"{architecture}.vocab_size")),
        parameters=sum(tensor.elements for tensor in tensors),
        tensor_bytes=sum(sum(part.tensor_sizes) for part in parts),
        file_bytes=sum(part.file_bytes for part in parts),
        active_bytes=_active_bytes(
            parts, count(f"{architecture}.expert_count"), count(f"{architecture}.expert_used_count")
        ),
        kv_shape=kv_shape(scalars),
    )


def _active_bytes(parts: tuple[_ModelPart, ...], experts: int | None, used: int | None) -> int | None:
    """Bytes that decoding one token reads: all weights, of the experts' the share that is used, of the embeddings a row
    (nothing worth counting) unless they are the output layer too. None where a mixture does not state how many it uses.

    Names as in gguf-py's constants: ``token_embd``, ``output``, ``ffn_*_exps``.
    """
    sizes = [
        (tensor.name, size)
        for part in parts
        for tensor, size in zip(part.header.tensors, part.tensor_sizes, strict=True)
    ]
    of_experts = sum(size for name, size in sizes if "_exps." in name)
    if of_experts and not (experts and used):
        return None
    looked_up = sum(size for name, size in sizes if name == "token_embd.weight")
    has_output = any(name == "output.weight" for name, _ in sizes)
    whole = sum(size for _, size in sizes) - of_experts - (looked_up if has_output else 0)
    return whole + (of_experts * used // experts if experts and used else 0)


def check_model(path: Path) -> GgufFacts:
    """``check_gguf`` of a file that should be a language model."""
    facts = check_gguf(path)
    if facts.architecture == PROJECTOR_ARCHITECTURE:
        raise LoadFailed(Cause.MODEL_FILE_INVALID, f"{path} is a vision projector, not a model")
    return facts


def check_projector(path: Path) -> GgufFacts:
    """``check_gguf`` of a file that should be a vision projector (mmproj)."""
    facts = check_gguf(path)
    if facts.architecture != PROJECTOR_ARCHITECTURE:
        raise LoadFailed(Cause.MODEL_FILE_INVALID, f"{path} is a {facts.architecture} model, not a vision projector")
    return facts


def _parts_of(path: Path) -> tuple[Path, ...]:
    split = SPLIT_NAME.fullmatch(path.name)
    if split is None:
        return (path,)
    number, count = int(split["part"]), int(split["count"])
    if not 1 <= number <= count <= _MAX_PARTS:
        raise LoadFailed(Cause.MODEL_FILE_INVALID, f"{path} calls itself part {number} of {count}")
    parts = tuple(path.with_name(f"{split['stem']}-{i:05}-of-{count:05}{path.suffix}") for i in range(1, count + 1))
    if number != 1:
        raise LoadFailed(
            Cause.MODEL_FILE_INVALID, f"{path} is part {number} of {count}: name the first, {parts[0].name}"
        )
    missing = [part.name for part in parts if not _is_there(part)]
    if missing:
        raise LoadFailed(
            Cause.MODEL_FILE_MISSING,
            f"{path.parent} lacks {len(missing)} of the {count} parts of the model: {', '.join(missing[:5])}",
        )
    return parts


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _checked_part(path: Path) -> _ModelPart:
    try:
        mode = path.stat()
        if stat.S_ISDIR(mode.st_mode):
            raise NotGguf("is a directory: name the .gguf file in it")
        if not stat.S_ISREG(mode.st_mode):
            raise NotGguf("is not an ordinary file")
        with path.open("rb") as file:
            header = read_header(file, mode.st_size)
        sizes = _tensor_sizes(header, mode.st_size)
    except (FileNotFoundError, NotADirectoryError):
        link = f", which {path} points to" if path.is_symlink() else ""
        missing = path.resolve() if link else path
        raise LoadFailed(Cause.MODEL_FILE_MISSING, f"no such model file: {missing}{link}") from None
    except NotGguf as why:
        raise LoadFailed(Cause.MODEL_FILE_INVALID, f"{path} {why}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LoadFailed(Cause.MODEL_FILE_INVALID, f"{path} cannot be read: {words.lower()}") from error
    return _ModelPart(path, header, sizes, mode.st_size)


def _tensor_sizes(header: GgufHeader, file_bytes: int) -> tuple[int, ...]:
    """Bytes of each tensor; raises NotGguf unless they follow one another, aligned, to an end within the file.

    A tensor of a type that is newer than this program takes what room there is up to the next one.
    """
    room = max(0, file_bytes - header.data_offset)
    if not header.tensors:
        return ()
    starts = [tensor.offset for tensor in header.tensors]
    if starts[0] != 0 or any(later < earlier for earlier, later in pairwise(starts)):
        raise NotGguf("has its tensors out of order: damaged?")
    known = [_size_by_type(tensor) for tensor in header.tensors]
    ends = [*starts[1:], max(starts[-1], room)]
    sizes = tuple(end - start if size is None else size for size, start, end in zip(known, starts, ends, strict=True))
    for tensor, size, following in zip(header.tensors, known, header.tensors[1:], strict=False):
        padded = None if size is None else -(-size // header.alignment) * header.alignment
        if padded is not None and tensor.offset + padded != following.offset:
            raise NotGguf(f"has a gap or an overlap after tensor {tensor.name!a}: damaged?")
    need = header.data_offset + starts[-1] + sizes[-1]
    if need > file_bytes:
        raise NotGguf(_too_short(file_bytes, need))
    return sizes


def _too_short(file_bytes: int, need_bytes: int) -> str:
    has, needs = format_size(file_bytes), format_size(need_bytes)
    if has == needs:
        has, needs = f"{file_bytes:,} bytes", f"{need_bytes:,}"
    return f"is {has} but its tensors need {needs}: truncated?"


def _size_by_type(tensor: TensorEntry) -> int | None:
    kind = TENSOR_TYPES.get(tensor.type_number)
    if kind is None:
        return None
    row = tensor.dimensions[0] if tensor.dimensions else 1
    if row % kind.block_elements:
        raise NotGguf(
            f"has {row} weights in a row of tensor {tensor.name!a}, but {kind.name} packs {kind.block_elements}"
        )
    return tensor.elements // kind.block_elements * kind.block_bytes


def _most_common_type(parts: tuple[_ModelPart, ...]) -> str:
    weight_bytes: Counter[int] = Counter()
    for part in parts:
        for tensor, size in zip(part.header.tensors, part.tensor_sizes, strict=True):
            weight_bytes[tensor.type_number] += size
    number = weight_bytes.most_common(1)[0][0]
    return TENSOR_TYPES[number].name if number in TENSOR_TYPES else f"type {number}"
