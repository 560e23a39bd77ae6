"""What a cell asks of an LM Studio load: as REST fields, as the SDK's configuration, and read back. PURE

REST v1 ``models/load`` takes four axes; the rest goes through LM Studio's Python SDK (``lmstudio`` 1.5:
``LlmLoadModelConfig``). What was requested is compared with the configuration that the server reports after the load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.contract.job import LoadSettings
from agents.contract.report import Cause
from agents.errors import LoadFailed, Unsupported

REST_FIELDS = {
    "context_tokens": "context_length",
    "batch_tokens": "eval_batch_size",
    "flash_attention": "flash_attention",
    "kv_offload": "offload_kv_cache_to_gpu",
}
SDK_FIELDS = {
    "context_tokens": "contextLength",
    "batch_tokens": "evalBatchSize",
    "flash_attention": "flashAttention",
    "kv_offload": "offloadKVCacheToGpu",
    "kv_type_k": "llamaKCacheQuantizationType",
    "kv_type_v": "llamaVCacheQuantizationType",
    "mmap": "tryMmap",
    "keep_in_memory": "keepModelInMemory",
    "gpu_layers": "gpu",
}
ONLY_SDK = tuple(axis for axis in SDK_FIELDS if axis not in REST_FIELDS)
KV_TYPES = ("f32", "f16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_SHARES = {-1: "max", 0: "off"}
_AS_NUMBERS = {"max": 1, "off": 0}


def refuse_values(settings: LoadSettings, max_context_tokens: int | None) -> None:
    """Raises Unsupported for a value that LM Studio does not have."""
    for kind in (settings.kv_type_k, settings.kv_type_v):
        if kind is not None and kind not in KV_TYPES:
            raise Unsupported(f"KV type {kind}: LM Studio has {', '.join(KV_TYPES)}")
    if settings.gpu_layers is not None and settings.gpu_layers not in _SHARES:
        raise Unsupported(f"gpu_layers {settings.gpu_layers}: LM Studio takes all (-1) or none (0), not a number")
    requested = settings.context_tokens
    if requested is not None and max_context_tokens is not None and requested > max_context_tokens:
        detail = f"context of {requested} tokens: LM Studio says that {settings.model} holds {max_context_tokens}"
        raise Unsupported(detail, Cause.CONTEXT_TOO_LONG)


def rest_fields(settings: LoadSettings) -> dict[str, Any]:
    """REST fields of the load, for the axes that the cell sets."""
    return _named(settings, REST_FIELDS)


def sdk_config(settings: LoadSettings) -> dict[str, Any]:
    """The SDK's configuration of the load (``LlmLoadModelConfigDict``), for the axes that the cell sets."""
    config = _named(settings, SDK_FIELDS)
    if settings.gpu_layers is not None:
        config["gpu"] = {"ratio": _SHARES[settings.gpu_layers]}
    return config


def _named(settings: LoadSettings, names: Mapping[str, str]) -> dict[str, Any]:
    requested = {name: getattr(settings, axis) for axis, name in names.items()}
    return {name: value for name, value in requested.items() if value is not None}


def refuse_config_mismatch(requested: Mapping[str, Any], reported: Mapping[str, Any], *, complete: bool) -> None:
    """Raises LoadFailed where the server's configuration is not what was requested. ``complete``: a field
    that it leaves out did not apply (REST v1 documents so); else it counts as equal."""
    others = [
        f"{name} {_plain(reported.get(name))} instead of {_plain(value)}"
        for name, value in requested.items()
        if (name in reported or complete) and not _same(value, reported.get(name))
    ]
    if not others:
        return
    clamped = any("context" in each for each in others)
    raise LoadFailed(
        Cause.CONTEXT_TOO_LONG if clamped else Cause.LOAD_FAILED,
        f"LM Studio loaded the model with {', '.join(others)}",
    )


def _plain(value: Any) -> Any:
    if value is None:
        return "not set"
    return value.get("ratio") if isinstance(value, Mapping) else value


def _same(requested: Any, reported: Any) -> bool:
    requested, reported = (_plain(value) for value in (requested, reported))
    return bool(_AS_NUMBERS.get(str(requested), requested) == _AS_NUMBERS.get(str(reported), reported))
