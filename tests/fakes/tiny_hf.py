"""A random model of two layers in Hugging Face's layout, with a tokenizer of one token a byte: 0.3 MB."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 64, 128, 2, 4, 2
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"


def make_tiny_hf(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {"<eos>": 0, **{letter: place + 1 for place, letter in enumerate(_letters())}}
    _write(folder / "tokenizer.json", _tokenizer(vocab))
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "chat_template": TEMPLATE},
    )
    _write(folder / "config.json", _config(len(vocab)))
    _save(folder / "model.safetensors", _weights(len(vocab)))
    return folder


def _letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) for byte in seen] + [chr(256 + place) for place in range(len(hidden))]


def _tokenizer(vocab: dict[str, int]) -> dict[str, Any]:
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": 0, "content": "<eos>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [end | flags],
        "pre_tokenizer": bytes_,
        "decoder": bytes_,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }


def _config(n_vocab: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HIDDEN // HEADS,
        "rms_norm_eps": 1e-5,
        "vocab_size": n_vocab,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "eos_token_id": 0,
        "hidden_act": "silu",
    }


def _weights(n_vocab: int) -> dict[str, Any]:
    random = np.random.default_rng(0)

    def made(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.05).astype(np.float32)

    ones, kv = np.ones(HIDDEN, np.float32), HIDDEN // HEADS * KV_HEADS
    weights = {
        "model.embed_tokens.weight": made(n_vocab, HIDDEN),
        "model.norm.weight": ones,
        "lm_head.weight": made(n_vocab, HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.self_attn.q_proj.weight": made(HIDDEN, HIDDEN),
            f"{at}.self_attn.k_proj.weight": made(kv, HIDDEN),
            f"{at}.self_attn.v_proj.weight": made(kv, HIDDEN),
            f"{at}.self_attn.o_proj.weight": made(HIDDEN, HIDDEN),
            f"{at}.mlp.gate_proj.weight": made(INNER, HIDDEN),
            f"{at}.mlp.up_proj.weight": made(INNER, HIDDEN),
            f"{at}.mlp.down_proj.weight": made(HIDDEN, INNER),
            f"{at}.input_layernorm.weight": ones,
            f"{at}.post_attention_layernorm.weight": ones,
        }
    return weights


def _save(path: Path, weights: dict[str, Any]) -> None:
    """The safetensors format: eight bytes of length, a JSON header, the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, weight in weights.items():
        header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [start, start + weight.nbytes]}
        start += weight.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(w.tobytes() for w in weights.values()))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
