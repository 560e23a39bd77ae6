"""llama-bench's records as rows of ``trials``: one job a record, one trial a repetition. PURE

Fields: ``tools/llama-bench/llama-bench.cpp`` of llama.cpp (``test::get_fields``). They come and go with its versions
(``use_mmap`` became ``load_mode``), so what is not known here is kept in ``settings`` and never refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from orchestrator.matrix.problems import quoted
from orchestrator.results.foreign.records import Record

Row = dict[str, Any]

ENGINE = "llama-bench"
FIGURES = ("test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts")
KNOWN_BY = ("n_prompt", "n_gen", "avg_ts")
"""What every record of llama-bench has had in all its versions."""

MEAN_NOTE = "a mean: the file does not hold the single repetitions"
_FAR = 0.001  # samples_ts come with six digits
_RUNTIMES = {"cuda": "cuda", "rocm": "rocm", "hip": "rocm", "vulkan": "vulkan", "metal": "metal", "mtl": "metal"}
_BESIDE = ("blas", "rpc", "cpu")
_WEIGHTS = re.compile(
    r"(?<![A-Z0-9_])(BF16|F16|F32|MXFP4|NVFP4|TQ\d_\d|I?Q\d[A-Z0-9_]*)(?: - (Small|Medium|Large))?", re.IGNORECASE
)
_PART = re.compile(r"-\d{5}-of-\d{5}$")


def is_llama_bench(names: Iterable[str]) -> bool:
    return set(KNOWN_BY) <= set(names)


def workload_name(n_prompt: int, n_gen: int, n_depth: int) -> str:
    """``pp512``, ``tg128``, ``pp512+tg128``, ``tg128@d4096``: as in a matrix."""
    name = "+".join(part for part in (f"pp{n_prompt}" if n_prompt else "", f"tg{n_gen}" if n_gen else "") if part)
    return f"{name}@d{n_depth}" if n_depth else name


def rows_of_record(record: Record, device: str | None) -> list[Row]:
    """A row a repetition; ``device`` None: what the record says of its GPU or CPU. Raises UsageError."""
    n_prompt, n_gen, n_depth = (_int(record, name, 0) or 0 for name in ("n_prompt", "n_gen", "n_depth"))
    if not n_prompt + n_gen:
        raise record.refused("n_prompt, n_gen", "both are 0: nothing was measured")
    same = {
        "status": "ok",
        "engine": ENGINE,
        "device": device or _device(record),
        "workload": workload_name(n_prompt, n_gen, n_depth),
        "workload_kind": "synthetic",
        "prompt_tokens_asked": n_prompt,
        "max_tokens": n_gen,
        "depth": n_depth,
        "stop": "exact",
        "started_at": _time(record),
        "settings": _settings(record),
        **_model(record),
        **_load(record),
    }
    if not (record.fields.get("samples_ns") or record.fields.get("samples_ts")):
        same["note"] = MEAN_NOTE
    return [same | _figures(n_prompt, n_gen, *sample) for sample in _samples(record, n_prompt + n_gen)]


def _figures(n_prompt: int, n_gen: int, seconds: float, rate: float) -> Row:
    """A rate of prompt and generation together is neither rate of ours: only its duration is kept."""
    row: Row = {"duration_s": seconds, "flags": []}
    if n_gen:
        row |= {"completion_tokens": n_gen, "stop_reason": "length"}
    if n_prompt:
        row |= {"prompt_tokens": n_prompt}
    if not n_gen:
        row |= {"prompt_tps": rate, "engine_prompt_tokens": n_prompt, "engine_prompt_s": seconds}
    elif not n_prompt:
        row |= {"decode_tps": rate, "engine_generated_tokens": n_gen, "engine_generate_s": seconds}
    return row


def _samples(record: Record, tokens: int) -> list[tuple[float, float]]:
    """Seconds and tokens/s of each repetition; of the mean alone where the file has no single ones."""
    times, rates = _numbers(record, "samples_ns"), _numbers(record, "samples_ts")
    if times and rates and len(times) != len(rates):
        raise record.refused("samples_ts", f"{len(rates)} values; samples_ns has {len(times)}")
    if times:
        found = [(ns / 1e9, 1e9 * tokens / ns) for ns in times]
        for (_, rate), reported in zip(found, rates, strict=False):
            if abs(reported - rate) > _FAR * rate:
                why = f"{reported:g} is not {tokens} tokens by their time in samples_ns, {rate:g} tokens/s"
                raise record.refused("samples_ts", why)
        return found
    if rates:
        return [(tokens / rate, rate) for rate in rates]
    mean = _float(record, "avg_ts")
    if mean is None:
        raise record.refused("avg_ts", "is missing, and so are samples_ns and samples_ts: there is no figure")
    ns = _float(record, "avg_ns")
    return [(ns / 1e9 if ns else tokens / mean, mean)]


def _model(record: Record) -> Row:
    path, described = _text(record, "model_filename"), _text(record, "model_type")
    file = PurePosixPath((path or "").replace("\\", "/")).name
    stem = _PART.sub("", file.removesuffix(".gguf"))
    weights = quantisation(described or "") or quantisation(stem)
    # without its quantisation: the same model at two of them is one model
    short = re.sub(rf"[-._]{re.escape(weights)}$", "", stem, flags=re.IGNORECASE) if weights else stem
    if not (stem or described):
        raise record.refused("model_filename", "is missing, and so is model_type: which model?")
    return {
        "model": short or stem or described,
        "quantisation": weights,
        "model_file": file or None,
        "model_bytes": _int(record, "model_size", 0),
        "model_architecture": (described or "").split(" ")[0] or None,
    }


def quantisation(text: str) -> str | None:
    """``Q4_K_M`` of ``qwen2 7B Q4_K - Medium``, or of a file's name."""
    found = list(_WEIGHTS.finditer(text))
    if not found:
        return None
    name, size = found[-1][1].upper(), found[-1][2]
    return f"{name}_{size[0].upper()}" if size and name != "Q2_K" else name


def _load(record: Record) -> Row:
    backends = _text(record, "backends")
    number, commit = _int(record, "build_number", 0), _text(record, "build_commit")
    version = f"b{number} ({commit})" if number and commit else commit or (f"b{number}" if number else None)
    no_offload = _switch(record, "no_kv_offload")
    return {
        "runtime": _runtime(backends),
        "engine_runtime": backends,
        "engine_version": version,
        "kv_type_k": _text(record, "type_k"),
        "kv_type_v": _text(record, "type_v"),
        "flash_attention": _switch(record, "flash_attn"),
        "gpu_layers": _int(record, "n_gpu_layers"),
        "threads": _int(record, "n_threads", 0),
        "batch_tokens": _int(record, "n_batch", 0),
        "micro_batch_tokens": _int(record, "n_ubatch", 0),
        "kv_offload": None if no_offload is None else not no_offload,
        **_load_mode(record),
    }


def _load_mode(record: Record) -> Row:
    """``auto`` says nothing; ``dio`` reads past the page cache, which is no mapping."""
    mode = _text(record, "load_mode")
    if mode is None:
        return {"mmap": _switch(record, "use_mmap")}
    parts = mode.casefold().split("+")
    return {} if "auto" in parts else {"mmap": "mmap" in parts, "keep_in_memory": "mlock" in parts}


def _runtime(backends: str | None) -> str | None:
    """Of several back ends (``Metal,BLAS``) the one that is no helper of the CPU; None where several remain."""
    names = [name.strip().casefold() for name in (backends or "").split(",") if name.strip()]
    gpus = [name for name in names if name not in _BESIDE]
    if len(gpus) == 1:
        return _RUNTIMES.get(gpus[0], gpus[0])
    return "cpu" if names and not gpus else None


def _device(record: Record) -> str:
    device = _text(record, "gpu_info") or _text(record, "cpu_info")
    if not device:
        raise record.refused("gpu_info, cpu_info", "neither tells the device; give --device NAME")
    return device


def _time(record: Record) -> datetime | None:
    text = _text(record, "test_time")
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        why = f"{quoted(text)} is not a time. Allowed: ISO 8601, such as 2025-04-24T11:57:09Z"
        raise record.refused("test_time", why) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _settings(record: Record) -> list[tuple[str, str]]:
    """All that the record says beside its figures, so that an export gives it back."""
    plain = {name: value for name, value in record.fields.items() if name not in FIGURES and value is not None}
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in plain.items()]


def _text(record: Record, name: str) -> str | None:
    value = record.fields.get(name)
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    raise record.refused(name, f"{quoted(str(value))} is not allowed here. Allowed: a text")


def _float(record: Record, name: str) -> float | None:
    value = record.fields.get(name)
    return None if value is None or value == "" else _positive(record, name, value)


def _numbers(record: Record, name: str) -> list[float]:
    values = record.fields.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise record.refused(name, "is not allowed here. Allowed: a list of numbers above 0")
    return [_positive(record, f"{name}[{place}]", value) for place, value in enumerate(values)]


def _positive(record: Record, name: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise record.refused(name, f"{quoted(str(value))} is not allowed here. Allowed: a number above 0")
    return number


def _int(record: Record, name: str, least: int = -(2**31)) -> int | None:
    value = record.fields.get(name)
    if value is None or value == "":
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value.strip()):
        value, whole = int(value), True
    if not whole or not least <= value < 2**63:
        allowed = "a whole number" + (f" from {least}" if least >= 0 else "")
        raise record.refused(name, f"{quoted(str(value))} is not allowed here. Allowed: {allowed}")
    return int(value)


_SWITCH = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False, "-1": None, "auto": None}


def _switch(record: Record, name: str) -> bool | None:
    """``-1`` and ``auto``: the engine chose, and does not report what."""
    value = record.fields.get(name)
    if value is None or value == "":
        return None
    text = str(value).strip().casefold()
    if text not in _SWITCH:
        raise record.refused(name, f"{quoted(text)} is not allowed here. Allowed: {', '.join(_SWITCH)}")
    return _SWITCH[text]
