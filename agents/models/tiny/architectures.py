"""Which tensors and keys the tiny models have: real architectures of llama.cpp, small. PURE

Shapes are written as (out, in), the way matrices are multiplied; GGUF stores them the other way round.
Names and keys: llama.cpp ``src/llama-arch.cpp``; for the vision projector ``tools/mtmd/clip-impl.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from agents.models.tiny.plan import Fill, ModelPlan, TensorPlan
from agents.models.tiny.vocabulary import Value, tokenizer_metadata

CONTEXT_TRAIN = 131_072
_RMS_EPSILON = 1e-5
_ROPE_BASE = 1e6
_EXPERT_SIGMOID = 2  # llama.cpp's LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID


@dataclass(frozen=True, slots=True)
class Transformer:
    """Sizes that all the language models share."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    ffn_width: int = 768
    vocabulary: int = 2048


@dataclass(frozen=True, slots=True)
class Experts:
    """Sizes of a mixture-of-experts layer."""

    count: int = 8
    used: int = 2
    ffn_width: int = 256


def llama(sizes: Transformer) -> ModelPlan:
    """Dense, grouped-query attention."""
    own: dict[str, Value] = {**_head_sizes(sizes), "rope.dimension_count": sizes.head_size}
    return _language_model("llama", sizes, own, lambda at, _: chain(_attention(at, sizes), _dense_ffn(at, sizes)))


def qwen3moe(sizes: Transformer, experts: Experts) -> ModelPlan:
    """Mixture of experts, with norms on the queries and keys."""
    own = {**_head_sizes(sizes), **_expert_keys(experts)}

    def block(at: str, _: int) -> Iterator[TensorPlan]:
        return chain(_attention(at, sizes, qk_norm=True), _experts(at, sizes, experts))

    return _language_model("qwen3moe", sizes, own, block)


def qwen3vl(sizes: Transformer, deepstack_layers: int) -> ModelPlan:
    """Dense, for a vision projector: the rotary position has sections for time, height and width."""
    own: dict[str, Value] = {
        **_head_sizes(sizes),
        "rope.dimension_sections": [12, 10, 10, 0],
        "n_deepstack_layers": deepstack_layers,
    }

    def block(at: str, _: int) -> Iterator[TensorPlan]:
        return chain(_attention(at, sizes, qk_norm=True), _dense_ffn(at, sizes))

    return _language_model("qwen3vl", sizes, own, block)


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Sizes of multi-head latent attention (MLA): the cache holds ``kv_rank + rope_size`` values a token."""

    q_rank: int = 128
    kv_rank: int = 512
    nope_size: int = 64
    rope_size: int = 64
    value_size: int = 64


def deepseek2(sizes: Transformer, experts: Experts, latent: LatentAttention) -> ModelPlan:
    """Multi-head latent attention and experts; the first layer is dense, one expert is shared by all tokens."""
    own: dict[str, Value] = {
        "rope.dimension_count": latent.rope_size,
        "leading_dense_block_count": 1,
        "attention.q_lora_rank": latent.q_rank,
        "attention.kv_lora_rank": latent.kv_rank,
        "attention.key_length": latent.kv_rank + latent.rope_size,
        "attention.value_length": latent.kv_rank,
        "attention.key_length_mla": latent.nope_size + latent.rope_size,
        "attention.value_length_mla": latent.value_size,
        **_expert_keys(experts),
        "expert_shared_count": 1,
        "expert_weights_scale": 1.8,
        "expert_weights_norm": True,
        "expert_gating_func": _EXPERT_SIGMOID,
    }

    def block(at: str, layer: int) -> Iterator[TensorPlan]:
        yield from _latent_attention(at, sizes, latent)
        if layer == 0:
            yield from _dense_ffn(at, sizes)
        else:
            yield TensorPlan(f"{at}.exp_probs_b.bias", (experts.count,), Fill.ZEROS, "F32")
            yield from _experts(at, sizes, experts)
            yield from _dense_ffn(at, sizes, width=experts.ffn_width, suffix="_shexp")

    return _language_model("deepseek2", sizes, own, block)


@dataclass(frozen=True, slots=True)
class Vision:
    """Sizes of the image encoder: ``image_size`` and ``patch_size`` in pixels, ``merge`` patches a side to a token."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    ffn_width: int = 256
    image_size: int = 256
    patch_size: int = 16
    merge: int = 2


def qwen3vl_projector(vision: Vision, text_width: int) -> ModelPlan:
    """The mmproj file of ``qwen3vl``: an image encoder, its projection, and one deep-stack branch after layer 0."""
    merged = vision.width * vision.merge**2
    metadata: dict[str, Value] = {
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "qwen3vl_merger",
        "clip.use_gelu": True,
        "clip.vision.image_size": vision.image_size,
        "clip.vision.patch_size": vision.patch_size,
        "clip.vision.embedding_length": vision.width,
        "clip.vision.feed_forward_length": vision.ffn_width,
        "clip.vision.block_count": vision.layers,
        "clip.vision.projection_dim": text_width,
        "clip.vision.spatial_merge_size": vision.merge,
        "clip.vision.attention.head_count": vision.heads,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
        "clip.vision.is_deepstack_layers": [layer == 0 for layer in range(vision.layers)],
    }
    return ModelPlan("clip", metadata, tuple(_projector_tensors(vision, text_width, merged)))


def _language_model(
    architecture: str,
    sizes: Transformer,
    own_keys: dict[str, Value],
    block: Callable[[str, int], Iterator[TensorPlan]],
) -> ModelPlan:
    keys: dict[str, Value] = {
        "block_count": sizes.layers,
        "context_length": CONTEXT_TRAIN,
        "embedding_length": sizes.width,
        "feed_forward_length": sizes.ffn_width,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.layer_norm_rms_epsilon": _RMS_EPSILON,
        "rope.freq_base": _ROPE_BASE,
        "vocab_size": sizes.vocabulary,
        **own_keys,
    }
    metadata = {f"{architecture}.{key}": value for key, value in keys.items()}
    tensors = (
        TensorPlan("token_embd.weight", (sizes.vocabulary, sizes.width)),
        _norm("output_norm", sizes.width),
        TensorPlan("output.weight", (sizes.vocabulary, sizes.width), Fill.WORDS_ONLY),
        *chain.from_iterable(block(f"blk.{layer}", layer) for layer in range(sizes.layers)),
    )
    return ModelPlan(architecture, metadata | tokenizer_metadata(sizes.vocabulary), tensors)


def _head_sizes(sizes: Transformer) -> dict[str, Value]:
    return {"attention.key_length": sizes.head_size, "attention.value_length": sizes.head_size}


def _expert_keys(experts: Experts) -> dict[str, Value]:
    return {
        "expert_count": experts.count,
        "expert_used_count": experts.used,
        "expert_feed_forward_length": experts.ffn_width,
    }


def _norm(name: str, width: int) -> TensorPlan:
    return TensorPlan(f"{name}.weight", (width,), Fill.ONES, "F32")


def _bias(name: str, width: int) -> TensorPlan:
    return TensorPlan(f"{name}.bias", (width,), Fill.ZEROS, "F32")


def _attention(at: str, sizes: Transformer, *, qk_norm: bool = False) -> Iterator[TensorPlan]:
    queries, keys = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size
    yield _norm(f"{at}.attn_norm", sizes.width)
    yield TensorPlan(f"{at}.attn_q.weight", (queries, sizes.width))
    yield TensorPlan(f"{at}.attn_k.weight", (keys, sizes.width))
    yield TensorPlan(f"{at}.attn_v.weight", (keys, sizes.width))
    yield TensorPlan(f"{at}.attn_output.weight", (sizes.width, queries))
    if qk_norm:
        yield _norm(f"{at}.attn_q_norm", sizes.head_size)
        yield _norm(f"{at}.attn_k_norm", sizes.head_size)
    yield _norm(f"{at}.ffn_norm", sizes.width)


def _latent_attention(at: str, sizes: Transformer, latent: LatentAttention) -> Iterator[TensorPlan]:
    heads, cached = sizes.heads, latent.kv_rank + latent.rope_size
    yield _norm(f"{at}.attn_norm", sizes.width)
    yield _norm(f"{at}.attn_q_a_norm", latent.q_rank)
    yield _norm(f"{at}.attn_kv_a_norm", latent.kv_rank)
    yield TensorPlan(f"{at}.attn_q_a.weight", (latent.q_rank, sizes.width))
    yield TensorPlan(f"{at}.attn_q_b.weight", (heads * (latent.nope_size + latent.rope_size), latent.q_rank))
    yield TensorPlan(f"{at}.attn_kv_a_mqa.weight", (cached, sizes.width))
    yield TensorPlan(f"{at}.attn_k_b.weight", (heads, latent.kv_rank, latent.nope_size))
    yield TensorPlan(f"{at}.attn_v_b.weight", (heads, latent.value_size, latent.kv_rank))
    yield TensorPlan(f"{at}.attn_output.weight", (sizes.width, heads * latent.value_size))
    yield _norm(f"{at}.ffn_norm", sizes.width)


def _dense_ffn(at: str, sizes: Transformer, *, width: int | None = None, suffix: str = "") -> Iterator[TensorPlan]:
    inner = width or sizes.ffn_width
    yield TensorPlan(f"{at}.ffn_gate{suffix}.weight", (inner, sizes.width))
    yield TensorPlan(f"{at}.ffn_up{suffix}.weight", (inner, sizes.width))
    yield TensorPlan(f"{at}.ffn_down{suffix}.weight", (sizes.width, inner))


def _experts(at: str, sizes: Transformer, experts: Experts) -> Iterator[TensorPlan]:
    yield TensorPlan(f"{at}.ffn_gate_inp.weight", (experts.count, sizes.width), fixed_type="F32")
    yield TensorPlan(f"{at}.ffn_gate_exps.weight", (experts.count, experts.ffn_width, sizes.width))
    yield TensorPlan(f"{at}.ffn_up_exps.weight", (experts.count, experts.ffn_width, sizes.width))
    yield TensorPlan(f"{at}.ffn_down_exps.weight", (experts.count, sizes.width, experts.ffn_width))


def _linear(name: str, outputs: int, inputs: int) -> tuple[TensorPlan, TensorPlan]:
    return TensorPlan(f"{name}.weight", (outputs, inputs)), _bias(name, outputs)


def _layer_norm(name: str, width: int) -> tuple[TensorPlan, TensorPlan]:
    return _norm(name, width), _bias(name, width)


def _projector_tensors(vision: Vision, text_width: int, merged: int) -> Iterator[TensorPlan]:
    patch = (vision.width, 3, vision.patch_size, vision.patch_size)
    pixels = 3 * vision.patch_size**2
    for name in ("v.patch_embd.weight", "v.patch_embd.weight.1"):  # a video has two frames a step
        yield TensorPlan(name, patch, fan_in=pixels)
    yield _bias("v.patch_embd", vision.width)
    positions = (vision.image_size // vision.patch_size) ** 2
    yield TensorPlan("v.position_embd.weight", (positions, vision.width), fixed_type="F32")
    yield from _layer_norm("v.post_ln", vision.width)
    for layer in range(vision.layers):
        at = f"v.blk.{layer}"
        yield from _layer_norm(f"{at}.ln1", vision.width)
        yield from _linear(f"{at}.attn_qkv", 3 * vision.width, vision.width)
        yield from _linear(f"{at}.attn_out", vision.width, vision.width)
        yield from _layer_norm(f"{at}.ln2", vision.width)
        yield from _linear(f"{at}.ffn_up", vision.ffn_width, vision.width)
        yield from _linear(f"{at}.ffn_down", vision.width, vision.ffn_width)
    yield from _linear("mm.0", merged, merged)
    yield from _linear("mm.2", text_width, merged)
    yield from _layer_norm("v.deepstack.0.norm", merged)
    yield from _linear("v.deepstack.0.fc1", merged, merged)
    yield from _linear("v.deepstack.0.fc2", text_width, merged)
