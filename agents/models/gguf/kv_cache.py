"""How many bytes a model's KV cache takes in llama.cpp, known before anything is loaded. PURE

KV bytes = layers x (K + V values a token and layer, each in its own type) x cells, cells = the context rounded up to
256 (``GGML_PAD(n_ctx, 256)``): exact against the log of b11549 for plain attention and for multi-head latent attention
(MLA). For other kinds of memory (state-space layers, sliding windows, ...) nothing is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.models.gguf.header import Scalar
from agents.models.gguf.types import TENSOR_TYPES

CELLS_STEP = 256
DEFAULT_KV_TYPE = "f16"

PREDICTED = frozenset(
    {
        "command-r",
        "deepseek",
        "deepseek2",
        "gemma",
        "glm4",
        "granite",
        "granitemoe",
        "internlm2",
        "llama",
        "mistral3",
        "olmo2",
        "olmoe",
        "qwen2",
        "qwen2moe",
        "qwen2vl",
        "qwen3",
        "qwen3moe",
        "qwen3vl",
        "qwen3vlmoe",
        "stablelm",
        "starcoder2",
    }
)
"""Architectures whose every layer keeps K and V of the whole context, or MLA's latent (llama.cpp b11549)."""

_OTHER_MEMORY = (
    "ssm.",
    "wkv.",
    "shortconv.",
    "full_attention_interval",
    "nextn_predict_layers",
    "attention.indexer.",
    "attention.sliding_window",
    "attention.chunk",
    "attention.shared_kv_layers",
    "attention.causal",
)


@dataclass(frozen=True, slots=True)
class KvShape:
    """Values that one token leaves in the cache of each layer. ``v_values`` is 0 for MLA, which stores K alone."""

    layers: int
    k_values: int
    v_values: int


def kv_shape(scalars: Mapping[str, Scalar]) -> KvShape | None:
    """From a GGUF's keys. None: not an architecture to predict, or a key that differs between layers or is missing."""
    architecture = scalars.get("general.architecture")
    if architecture not in PREDICTED:
        return None
    own = {key.removeprefix(f"{architecture}."): value for key, value in scalars.items()}
    if any(key.startswith(_OTHER_MEMORY) for key in own):
        return None

    def count(key: str, default: int = 0) -> int:
        value = own.get(key, default)
        return value if type(value) is int and value > 0 else 0

    layers, heads = count("block_count"), count("attention.head_count")
    kv_heads = count("attention.head_count_kv")  # an array, one for each layer, has no scalar: not predicted
    if not layers or not heads or not kv_heads:
        return None
    head_size = count("embedding_length") // heads
    k_size, v_size = count("attention.key_length", head_size), count("attention.value_length", head_size)
    if not k_size or not v_size:
        return None
    if count("attention.key_length_mla") and count("attention.value_length_mla"):
        v_size = 0
    return KvShape(layers, kv_heads * k_size, kv_heads * v_size)


def kv_bytes(shape: KvShape, context_tokens: int, type_k: str | None = None, type_v: str | None = None) -> int | None:
    """Bytes of the cache for one sequence. Types as llama.cpp names them ("f16", "q8_0"); None for an unknown one."""
    cells = -(-context_tokens // CELLS_STEP) * CELLS_STEP
    k_row = _row_bytes(shape.k_values, type_k or DEFAULT_KV_TYPE)
    v_row = _row_bytes(shape.v_values, type_v or DEFAULT_KV_TYPE)
    return None if k_row is None or v_row is None else shape.layers * cells * (k_row + v_row)


def _row_bytes(values: int, name: str) -> int | None:
    for kind in TENSOR_TYPES.values():
        if kind.name.lower() == name.lower():
            return -(-values // kind.block_elements) * kind.block_bytes
    return None
