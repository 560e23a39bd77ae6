"""Writes a ModelPlan as a GGUF file: the header, then each tensor as it is made. The format: see ``gguf.header``."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from math import prod
from typing import Any, BinaryIO

import numpy as np

from agents.models.gguf.header import DEFAULT_ALIGNMENT
from agents.models.gguf.types import FILE_TYPES, TENSOR_TYPES
from agents.models.tiny.plan import Fill, ModelPlan, TensorPlan, silent_rows
from agents.models.tiny.vocabulary import Value
from agents.models.tiny.weights import highest_weight, pack, random_weights

_GGUF_VERSION = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_TYPE_NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}
_FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()}


def file_bytes(plan: ModelPlan, name: str, quantisation: str, generator: int) -> int:
    """Size in bytes of the file that ``write`` makes."""
    header = len(_header(plan, name, quantisation, generator))
    return header + sum(_padded(_tensor_bytes(tensor, quantisation)) for tensor in plan.tensors)


def write(file: BinaryIO, plan: ModelPlan, name: str, quantisation: str, generator: int) -> str:
    """Writes the whole file; returns its SHA-256, hex. Memory: one chunk of weights, tens of MiB."""
    digest = hashlib.sha256()
    for block in _blocks(plan, name, quantisation, generator):
        digest.update(block)
        file.write(block)
    return digest.hexdigest()


def _blocks(plan: ModelPlan, name: str, quantisation: str, generator: int) -> Iterator[Any]:
    yield _header(plan, name, quantisation, generator)
    for tensor in plan.tensors:
        yield from _tensor(tensor, _type_of(tensor, quantisation), f"{generator}/{name}/{tensor.name}")
        size = _tensor_bytes(tensor, quantisation)
        yield bytes(_padded(size) - size)


def _tensor(tensor: TensorPlan, kind: str, seed: str) -> Iterator[Any]:
    count = prod(tensor.shape)
    if tensor.fill in (Fill.ONES, Fill.ZEROS):
        yield np.full(count, float(tensor.fill is Fill.ONES), dtype="<f4").tobytes()
        return
    silent = silent_rows(tensor.shape[0]) if tensor.fill is Fill.WORDS_ONLY else ()
    row = tensor.shape[-1]
    highest = highest_weight(tensor.fan_in or row)
    done = 0
    for weights in random_weights(seed, count):
        for rows in silent:
            start, stop = (max(0, edge * row - done) for edge in (rows.start, rows.stop))
            weights[start:stop] = 0
        done += len(weights)
        yield pack(weights, highest, kind).data


def _header(plan: ModelPlan, name: str, quantisation: str, generator: int) -> bytes:
    metadata: dict[str, Value] = {
        "general.architecture": plan.architecture,
        "general.name": name,
        "general.description": "Random weights, for benchmarks of engines and devices: it knows no language",
        "general.file_type": _FILE_TYPE_NUMBERS[quantisation],
        "general.quantization_version": 2,
        "orchestrate.generator": generator,
        **plan.metadata,
    }
    header = bytearray(struct.pack("<4sIQQ", b"GGUF", _GGUF_VERSION, len(plan.tensors), len(metadata)))
    for key, value in metadata.items():
        header += _string(key) + _typed(value)
    offset = 0
    for tensor in plan.tensors:
        dimensions = tensor.shape[::-1]
        header += _string(tensor.name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        header += struct.pack("<IQ", _TYPE_NUMBERS[_type_of(tensor, quantisation)], offset)
        offset += _padded(_tensor_bytes(tensor, quantisation))
    return bytes(header) + bytes(_padded(len(header)) - len(header))


def _type_of(tensor: TensorPlan, quantisation: str) -> str:
    return tensor.fixed_type or quantisation


def _tensor_bytes(tensor: TensorPlan, quantisation: str) -> int:
    kind = TENSOR_TYPES[_TYPE_NUMBERS[_type_of(tensor, quantisation)]]
    return prod(tensor.shape) // kind.block_elements * kind.block_bytes


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _typed(value: Value) -> bytes:
    """A value with its type before it; whole numbers are unsigned alone, signed in lists, as llama.cpp wants them."""
    if isinstance(value, list):
        kind = _INT32 if type(value[0]) is int else _kind(value[0])
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(_bare(item, kind) for item in value)
    kind = _kind(value)
    return struct.pack("<I", kind) + _bare(value, kind)


def _kind(value: object) -> int:
    return {bool: _BOOL, int: _UINT32, float: _FLOAT32, str: _STRING}[type(value)]


def _bare(value: int | float | bool | str, kind: int) -> bytes:
    if isinstance(value, str):
        return _string(value)
    return struct.pack({_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?"}[kind], value)
