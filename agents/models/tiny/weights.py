"""Random weights, packed as llama.cpp's tensor types. PURE, the same bytes on every machine

A weight is a 16-bit integer from a bit generator, times one scale a tensor; each type keeps its highest bits, rounded.
So all quantisations of a model hold the same weights but for the rounding, as real ones do. Only integer arithmetic
and single IEEE multiplications happen: numpy keeps the streams of its bit generators across versions (NEP 19), not
those of its distributions, whose logarithms also differ between machines.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Weights = NDArray[np.int16]
    Packed = NDArray[np.uint8]

BLOCK = 32
"""Weights that share a scale in the packed types."""

CHUNK_WEIGHTS = 4 << 20
"""Weights made at once: bounds the memory, also for a model of gigabytes."""

_STEPS = 1 << 15  # the integer that stands for the highest weight


def random_weights(seed: str, count: int) -> Iterator[Weights]:
    """``count`` integers, uniform in -32,768 to 32,767, CHUNK_WEIGHTS at a time. ``count`` is a multiple of four."""
    key = np.frombuffer(hashlib.sha256(seed.encode()).digest(), dtype="<u4")
    source = np.random.SFC64([int(word) for word in key])
    for start in range(0, count, CHUNK_WEIGHTS):
        words = source.random_raw(min(CHUNK_WEIGHTS, count - start) // 4)
        yield words.astype("<u8", copy=False).view("<i2").astype(np.int16, copy=False)


def highest_weight(fan_in: int) -> float:
    """Uniform weights up to this keep the variance of what passes through them: a^2 / 3 = 1 / fan_in."""
    return math.sqrt(3 / fan_in)


def pack(weights: Weights, highest: float, kind: str) -> Packed:
    """``weights`` (a multiple of BLOCK) as tensor type ``kind``, a key of PACKERS. Shape (bytes,)."""
    packed: Packed = PACKERS[kind](weights, highest).reshape(-1)
    return packed


def _floats(weights: Weights, highest: float) -> NDArray[np.float32]:
    return weights.astype(np.float32) * np.float32(highest / _STEPS)


def _f32(weights: Weights, highest: float) -> Packed:
    return _floats(weights, highest).astype("<f4", copy=False).view(np.uint8)


def _f16(weights: Weights, highest: float) -> Packed:
    return _floats(weights, highest).astype("<f2").view(np.uint8)


def _bf16(weights: Weights, highest: float) -> Packed:
    bits = _floats(weights, highest).view(np.uint32)
    nearest_even = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    return nearest_even.astype("<u2").view(np.uint8)


def _levels(weights: Weights, bits: int) -> NDArray[np.int16]:
    """The nearest of 2^bits levels, -2^(bits-1) to 2^(bits-1) - 1, in blocks: shape (blocks, BLOCK)."""
    shift = 16 - bits
    half = 1 << (shift - 1)
    kept = np.minimum(weights, (1 << 15) - 1 - half) + np.int16(half)
    return (kept >> np.int16(shift)).reshape(-1, BLOCK)


def _halves(blocks: int, *values: float) -> Packed:
    """The same float16 numbers at the head of each block: shape (blocks, 2 * len(values))."""
    return np.broadcast_to(np.array(values, dtype="<f2").view(np.uint8), (blocks, 2 * len(values)))


def _nibbles(levels: Any) -> Packed:
    """Low four bits, two a byte: weight i with weight i + 16."""
    low = levels.astype(np.uint8) & np.uint8(15)
    packed: Packed = low[:, : BLOCK // 2] | (low[:, BLOCK // 2 :] << np.uint8(4))
    return packed


def _fifth_bits(levels: Any) -> Packed:
    """Bit 4 of each weight, 32 in four bytes."""
    return np.packbits((levels >> 4).astype(np.uint8) & np.uint8(1), axis=-1, bitorder="little")


def _q8_0(weights: Weights, highest: float) -> Packed:
    levels = np.maximum(_levels(weights, 8), np.int16(-127))  # llama.cpp's own quantiser never writes -128
    return np.concatenate([_halves(len(levels), highest / 128), levels.astype(np.int8).view(np.uint8)], axis=-1)


def _q4_0(weights: Weights, highest: float) -> Packed:
    levels = _levels(weights, 4) + 8
    return np.concatenate([_halves(len(levels), highest / 8), _nibbles(levels)], axis=-1)


def _q4_1(weights: Weights, highest: float) -> Packed:
    levels = _levels(weights, 4) + 8
    step = float(np.float16(highest / 8))  # rounded first: the lowest is then exactly eight of them
    return np.concatenate([_halves(len(levels), step, -8 * step), _nibbles(levels)], axis=-1)


def _q5_0(weights: Weights, highest: float) -> Packed:
    levels = _levels(weights, 5) + 16
    return np.concatenate([_halves(len(levels), highest / 16), _fifth_bits(levels), _nibbles(levels)], axis=-1)


def _q5_1(weights: Weights, highest: float) -> Packed:
    levels = _levels(weights, 5) + 16
    step = float(np.float16(highest / 16))
    head = _halves(len(levels), step, -16 * step)
    return np.concatenate([head, _fifth_bits(levels), _nibbles(levels)], axis=-1)


PACKERS: dict[str, Callable[[Any, float], Any]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "Q5_1": _q5_1,
    "Q5_0": _q5_0,
    "Q4_1": _q4_1,
    "Q4_0": _q4_0,
}
"""Tensor types that can be packed without llama.cpp's own quantiser."""
