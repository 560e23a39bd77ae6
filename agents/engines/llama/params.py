"""LoadSettings -> the parameters of llama.cpp as ``xllamacpp.CommonParams`` names them. PURE"""

from __future__ import annotations

from typing import Any

from agents.contract.job import LoadSettings, Runtime
from agents.contract.report import Cause
from agents.errors import LoadFailed, Unsupported
from agents.models.gguf.kv_cache import kv_bytes
from agents.models.store.files import ModelFiles
from agents.units import format_size

KV_TYPES = {
    name: f"GGML_TYPE_{name.upper()}"
    for name in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
}
FLASH_ATTENTION = {True: "LLAMA_FLASH_ATTN_TYPE_ENABLED", False: "LLAMA_FLASH_ATTN_TYPE_DISABLED"}


def engine_params(settings: LoadSettings, files: ModelFiles) -> dict[str, Any]:
    """``xllamacpp.CommonParams`` for these settings. What a cell does not set is llama.cpp's choice, except what
    would change a measurement: fitting to memory, prompt caches, parallel slots."""
    params: dict[str, Any] = {
        "model.path": str(files.path),
        "hostnames": ["127.0.0.1"],
        "port": 0,
        "fit_params": False,
        "cache_prompt": False,
        "cache_ram_mib": 0,
        "n_parallel": 1,
        "verbosity": 4,  # the least that prints the memory lines
        "sse_ping_interval": -1,
        "ui": False,
    }
    on_cpu = settings.runtime is Runtime.CPU
    requested = {
        "mmproj.path": str(files.mmproj) if files.mmproj else None,
        "n_ctx": settings.context_tokens,
        "cache_type_k": KV_TYPES.get(settings.kv_type_k or ""),
        "cache_type_v": KV_TYPES.get(settings.kv_type_v or ""),
        "n_gpu_layers": 0 if on_cpu else settings.gpu_layers,
        # Without layers on it, a GPU would still compute long prompts and images.
        "no_op_offload": True if on_cpu else None,
        "mmproj_use_gpu": False if on_cpu else None,
        "cpuparams.n_threads": settings.threads,
        "cpuparams_batch.n_threads": settings.threads,
        "n_batch": settings.batch_tokens,
        "n_ubatch": settings.micro_batch_tokens,
        "flash_attn_type": None if settings.flash_attention is None else FLASH_ATTENTION[settings.flash_attention],
        "load_mode": _load_mode(settings.mmap, settings.keep_in_memory),
        "no_kv_offload": None if settings.kv_offload is None else not settings.kv_offload,
    }
    return params | {name: value for name, value in requested.items() if value is not None}


def refuse_unknown_kv_types(settings: LoadSettings) -> None:
    """Raises Unsupported."""
    for kind in (settings.kv_type_k, settings.kv_type_v):
        if kind is not None and kind not in KV_TYPES:
            raise Unsupported(f"KV type {kind}: llama.cpp has {', '.join(KV_TYPES)}")


def refuse_more_than_memory(settings: LoadSettings, files: ModelFiles, have_bytes: int) -> None:
    """Raises LoadFailed (RAM) where KV cache and weights are larger than all memory: llama.cpp would fill it for a
    minute before it gives up. Weights that are mapped from their file need no memory of their own."""
    facts = files.facts
    context = settings.context_tokens or (facts.context_train if facts else None)
    if facts is None or facts.kv_shape is None or not context:
        return
    kv = kv_bytes(facts.kv_shape, context, settings.kv_type_k, settings.kv_type_v)
    held = facts.tensor_bytes if settings.mmap is False or settings.keep_in_memory else 0
    if kv is not None and kv + held > have_bytes:
        raise LoadFailed(
            Cause.RAM,
            f"the KV cache for {context:,} tokens needs {format_size(kv)} (and the weights"
            f" {format_size(facts.tensor_bytes)}); this machine has {format_size(have_bytes)} of memory in all:"
            " RAM, swap, and what its GPUs have",
        )


def _load_mode(mmap: bool | None, keep_in_memory: bool | None) -> str | None:
    if mmap is None and keep_in_memory is None:
        return None
    mode = {(True, True): "MMAP_MLOCK", (True, False): "MMAP", (False, True): "MLOCK", (False, False): "NONE"}
    return "LLAMA_LOAD_MODE_" + mode[(mmap is not False, bool(keep_in_memory))]
