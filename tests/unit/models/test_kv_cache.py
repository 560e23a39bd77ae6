"""Expected bytes: the KV buffer sizes that llama.cpp b11549 printed (the real engine: test_embedded_engine.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.contract.job import LoadSettings
from agents.contract.report import Cause
from agents.engines.llama.params import refuse_more_than_memory
from agents.errors import LoadFailed
from agents.models.gguf.check import GgufFacts
from agents.models.gguf.kv_cache import KvShape, kv_bytes, kv_shape
from agents.models.store.files import ModelFiles

MIB = 1024 * 1024


def keys(architecture: str = "llama", **changes: Any) -> dict[str, Any]:
    """Keys of a GGUF: Qwen3-VL-32B's text part, but for ``changes`` (None takes a key away)."""
    own = {
        "block_count": 64,
        "embedding_length": 5120,
        "attention.head_count": 64,
        "attention.head_count_kv": 8,
        "attention.key_length": 128,
        "attention.value_length": 128,
    } | {name.replace("__", "."): value for name, value in changes.items()}
    known = {f"{architecture}.{name}": value for name, value in own.items() if value is not None}
    return {"general.architecture": architecture, **known}


def test_plain_attention() -> None:
    shape = kv_shape(keys("qwen3vl"))
    assert shape == KvShape(64, 1024, 1024)
    assert kv_bytes(shape, 1024) == 1024 * 262_144  # published: 262,144 bytes a token at f16


def test_head_sizes_that_are_not_told_follow_from_the_width() -> None:
    assert kv_shape(keys(attention__key_length=None, attention__value_length=None)) == KvShape(64, 640, 640)


def test_latent_attention_stores_k_alone() -> None:
    """GLM-4.7-Flash: 512 + 64 values a token and layer."""
    mla = keys(
        "deepseek2",
        block_count=47,
        attention__head_count=20,
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=256,
        attention__value_length_mla=256,
    )
    shape = kv_shape(mla)
    assert shape == KvShape(47, 576, 0)
    assert kv_bytes(shape, 16384) == 846 * MIB
    assert kv_bytes(shape, 16384, "f16", "q4_0") == 846 * MIB


@pytest.mark.parametrize(
    "given",
    [
        keys("mamba2"),
        keys("gemma3"),
        keys("clip"),
        keys("llama", ssm__state_size=16),
        keys("qwen2", attention__sliding_window=4096),
        keys("deepseek2", attention__indexer__top_k=64),
        keys("qwen3moe", nextn_predict_layers=1),
        keys(block_count=None),
        keys(attention__head_count=None),
        keys(attention__head_count_kv=None),  # an array, one for each layer
        keys(attention__head_count=0),
        keys(block_count="many"),
        {},
    ],
)
def test_what_is_not_known_is_not_predicted(given: dict[str, Any]) -> None:
    assert kv_shape(given) is None


@pytest.mark.parametrize(
    ("context", "kind", "mib"),
    [
        (1000, "f16", 2.0),  # rounded up to 1024 cells
        (1000, None, 2.0),
        (4096, "f16", 8.0),
        (4096, "f32", 16.0),
        (4096, "bf16", 8.0),
        (4096, "q8_0", 4.25),
        (4096, "q5_1", 3.0),
        (4096, "q5_0", 2.75),
        (4096, "q4_1", 2.5),
        (4096, "q4_0", 2.25),
        (4096, "iq4_nl", 2.25),
        (1, "f16", 0.5),  # 256 cells at least
    ],
)
def test_types_and_rounding(context: int, kind: str | None, mib: float) -> None:
    assert kv_bytes(KvShape(4, 128, 128), context, kind, kind) == mib * MIB


def test_k_and_v_each_have_their_type() -> None:
    assert kv_bytes(KvShape(4, 128, 128), 4096, "q8_0", "f16") == (2.125 + 4) * MIB


def test_an_unknown_type_is_not_predicted() -> None:
    assert kv_bytes(KvShape(4, 128, 128), 4096, "q3_z") is None


SMALL = KvShape(4, 128, 128)


def files(shape: KvShape | None = SMALL, context_train: int | None = 131_072) -> ModelFiles:
    facts = GgufFacts(
        parts=(),
        architecture="llama",
        name=None,
        file_type=None,
        quantisation="F16",
        n_layers=4,
        context_train=context_train,
        n_vocab=2048,
        parameters=1,
        tensor_bytes=100 * MIB,
        file_bytes=101 * MIB,
        kv_shape=shape,
    )
    return ModelFiles(Path("m.gguf"), facts=facts)


def settings(**changes: Any) -> LoadSettings:
    return LoadSettings("embedded", "m", **changes)


def test_a_context_that_no_memory_holds_is_refused_in_words() -> None:
    with pytest.raises(LoadFailed) as caught:
        refuse_more_than_memory(settings(context_tokens=1_000_000_000), files(), 25_000_000_000)
    assert caught.value.cause is Cause.RAM
    assert caught.value.detail.startswith(
        "the KV cache for 1,000,000,000 tokens needs 1.9 TiB (and the weights 100 MiB); this machine has 23.3 GiB"
    )


@pytest.mark.parametrize(
    ("asked", "given", "have_mib", "refused"),
    [
        (settings(context_tokens=4096), files(), 8, False),  # exactly
        (settings(context_tokens=4097), files(), 8, True),
        (settings(context_tokens=4096, kv_type_k="q8_0", kv_type_v="q8_0"), files(), 4.25, False),
        (settings(context_tokens=4096, mmap=False), files(), 107, True),  # 8 and 100
        (settings(context_tokens=4096, mmap=False), files(), 108, False),
        (settings(context_tokens=4096, keep_in_memory=True), files(), 107, True),
        (settings(context_tokens=4096, mmap=True), files(), 107, False),  # the weights stay on the disk
        (settings(), files(), 255, True),  # the model's own context
        (settings(), files(), 256, False),
        (settings(), files(context_train=None), 0, False),
        (settings(context_tokens=4096), files(shape=None), 0, False),
        (settings(context_tokens=4096), ModelFiles(Path("m.gguf")), 0, False),
    ],
)
def test_only_what_certainly_does_not_fit_is_refused(
    asked: LoadSettings, given: ModelFiles, have_mib: float, refused: bool
) -> None:
    try:
        refuse_more_than_memory(asked, given, int(have_mib * MIB))
    except LoadFailed as error:
        assert refused and error.cause is Cause.RAM
    else:
        assert not refused
