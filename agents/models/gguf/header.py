"""The header of a GGUF file: its key-value pairs and its list of tensors, with hard bounds.

Why not ``gguf.GGUFReader``: it makes a numpy view of every token and merge of the vocabulary (11 s on the header of a
52-GiB model with 154,880 tokens and 321,649 merges, against 0.05 s here), and on garbage it raises whatever numpy
does, or loops over as many elements as a broken length says. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

MAX_HEADER_BYTES = 128 << 20  # the header of a 256,000-token model takes about 12 MiB
MAX_TENSORS = 100_000  # DeepSeek-V3 has 1,809
MAX_KEYS = 10_000
MAX_KEY_BYTES = 65_535  # the format's own bound
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME less the closing zero
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_KEPT_STRING_BYTES = 4_096  # longer values (chat templates) are passed over

DEFAULT_ALIGNMENT = 32

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_READ_STEP_BYTES = 1 << 20

Scalar = int | float | bool | str


class NotGguf(Exception):
    """Why a file is not a GGUF that can be read, as the rest of a sentence that begins with the file's name."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    name: str
    dimensions: tuple[int, ...]
    type_number: int
    offset: int  # bytes from ``GgufHeader.data_offset``

    @property
    def elements(self) -> int:
        return prod(self.dimensions)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    version: int
    scalars: dict[str, Scalar]  # numbers, flags and short strings
    array_lengths: dict[str, int]
    tensors: tuple[TensorEntry, ...]
    alignment: int
    data_offset: int  # where the tensors' bytes begin in the file


def read_header(file: BinaryIO, file_bytes: int) -> GgufHeader:
    """Reads the header from the start of ``file``, not the weights. Raises NotGguf, or the file's OSError."""
    cursor = _Cursor(file, file_bytes)
    version = _version(cursor)
    tensor_count, key_count = cursor.number("<Q"), cursor.number("<Q")
    if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
        raise NotGguf(f"says that it has {tensor_count:,} tensors and {key_count:,} keys: damaged?")
    scalars, array_lengths = _keys(cursor, key_count)
    alignment = _alignment(scalars)
    tensors = tuple(_tensor(cursor) for _ in range(tensor_count))
    cursor.require(0)
    data_offset = -(-cursor.position // alignment) * alignment
    return GgufHeader(version, scalars, array_lengths, tensors, alignment, data_offset)


def _version(cursor: _Cursor) -> int:
    start = cursor.start(48)
    if not start:
        raise NotGguf("is empty")
    if not start.startswith(_MAGIC):
        raise NotGguf(_what_else(start))
    cursor.skip(len(_MAGIC))
    version = cursor.number("<I")
    if version & 0xFFFF == 0:
        raise NotGguf("is a big-endian GGUF, made for another kind of machine")
    if version == 1:
        raise NotGguf("is a GGUF of version 1, which llama.cpp no longer reads: convert the model again")
    if version > 3:
        raise NotGguf(f"is a GGUF of version {version}: newer than this program knows (2 and 3), or damaged")
    return version


def _what_else(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model itself: fetch the file with `git lfs pull`"
    if start.startswith((b"ggjt", b"tjgg", b"lmgg", b"fmgg")):
        return "is a model of llama.cpp's time before GGUF: convert the model again"
    return f"is not a GGUF file: it begins with {start[:8].decode('latin-1')!a}"


def _keys(cursor: _Cursor, count: int) -> tuple[dict[str, Scalar], dict[str, int]]:
    scalars: dict[str, Scalar] = {}
    array_lengths: dict[str, int] = {}
    for _ in range(count):
        key = cursor.string(MAX_KEY_BYTES, "a key")
        if key in scalars or key in array_lengths:
            raise NotGguf(f"holds the key {key!a} twice: damaged?")
        kind = cursor.number("<I")
        if kind == _ARRAY:
            array_lengths[key] = _skip_array(cursor, key)
        elif kind == _STRING:
            value = cursor.string_or_skip(MAX_KEPT_STRING_BYTES)
            if value is not None:
                scalars[key] = value
        elif kind in _SCALARS:
            scalars[key] = cursor.scalar(_SCALARS[kind])
        else:
            raise NotGguf(f"holds the key {key!a} with the unknown type {kind}: damaged?")
    return scalars, array_lengths


def _skip_array(cursor: _Cursor, key: str) -> int:
    kind, count = cursor.number("<I"), cursor.number("<Q")
    if kind == _STRING:
        cursor.skip_strings(count)
    elif kind in _SCALARS:
        cursor.skip(count * struct.calcsize(_SCALARS[kind]))
    else:
        raise NotGguf(f"holds the key {key!a}, an array of the unknown type {kind}: damaged?")
    return count


def _alignment(scalars: dict[str, Scalar]) -> int:
    alignment = scalars.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise NotGguf(f"asks for the alignment {alignment!r}, which is not a power of two: damaged?")
    return alignment


def _tensor(cursor: _Cursor) -> TensorEntry:
    name = cursor.string(MAX_TENSOR_NAME_BYTES, "a tensor's name")
    dimension_count = cursor.number("<I")
    if dimension_count > MAX_DIMENSIONS:
        raise NotGguf(f"says that tensor {name!a} has {dimension_count:,} dimensions: damaged?")
    dimensions = tuple(cursor.number("<Q") for _ in range(dimension_count))
    if prod(dimensions) >= 1 << 63 or any(size >= 1 << 63 for size in dimensions):
        raise NotGguf(f"says that tensor {name!a} has the shape {dimensions}: damaged?")
    return TensorEntry(name, dimensions, cursor.number("<I"), cursor.number("<Q"))


class _Cursor:
    """Walks through the header; holds what it has read of the file, MAX_HEADER_BYTES at most."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self._file = file
        self._file_bytes = file_bytes
        self._held = bytearray()
        self.position = 0

    def start(self, count: int) -> bytes:
        self._hold(min(count, self._file_bytes))
        return bytes(self._held[:count])

    def require(self, count: int) -> None:
        """Makes sure that ``count`` bytes from the position are held."""
        self._hold(self.position + count)

    def _hold(self, end: int) -> None:
        if end <= len(self._held):
            return
        if end > self._file_bytes:
            raise NotGguf(f"ends inside its own head, at byte {self._file_bytes:,}: truncated?")
        if end > MAX_HEADER_BYTES:
            raise NotGguf(f"has a head of more than {MAX_HEADER_BYTES >> 20} MiB: damaged?")
        step = max(_READ_STEP_BYTES, len(self._held), end - len(self._held))
        self._held += self._file.read(min(step, MAX_HEADER_BYTES - len(self._held)))
        if end > len(self._held):
            raise NotGguf("became shorter while it was read")

    def skip(self, count: int) -> None:
        self.require(count)
        self.position += count

    def scalar(self, layout: str) -> int | float | bool:
        size = struct.calcsize(layout)
        self.require(size)
        value: int | float | bool = struct.unpack_from(layout, self._held, self.position)[0]
        self.position += size
        return value

    def number(self, layout: str) -> int:
        return int(self.scalar(layout))

    def string(self, limit_bytes: int, what: str) -> str:
        length = self.number("<Q")
        if length > limit_bytes:
            raise NotGguf(f"says that {what} is {length:,} bytes long: damaged?")
        self.require(length)
        raw = bytes(self._held[self.position : self.position + length])
        self.position += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise NotGguf(f"holds {what} that is not UTF-8: damaged?") from None

    def string_or_skip(self, limit_bytes: int) -> str | None:
        """A value for people: undecodable bytes are replaced, one that is too long is passed over."""
        length = self.number("<Q")
        self.require(length)
        raw = bytes(self._held[self.position : self.position + length]) if length <= limit_bytes else None
        self.position += length
        return None if raw is None else raw.decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        """Passes over ``count`` strings: the one loop that runs hundreds of thousands of times in a real file."""
        if count * 8 > self._file_bytes:
            raise NotGguf(f"says that it holds a list of {count:,} strings: damaged?")
        position, held_bytes = self.position, len(self._held)
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if position + 8 > held_bytes:
                self._hold(position + 8)
                held_bytes = len(self._held)
            position += 8 + unpack(self._held, position)[0]
        self.position = position
        self.require(0)
