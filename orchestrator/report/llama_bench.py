"""Trials of synthetic workloads as llama-bench's JSON, for its ``scripts/compare-llama-bench.py``. PURE

Fields as llama.cpp's ``test::get_fields`` has them in build 11549, and ``use_mmap``, which scripts before ``load_mode``
ask for. What Orchestrate does not know has llama-bench's default, or 0: a null would match nothing in that script.
"""

from __future__ import annotations

import hashlib
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orchestrator.compare import axes
from orchestrator.compare.trials import choose_trials
from orchestrator.errors import UsageError

Row = Mapping[str, Any]
Fields = dict[str, Any]

_BACKENDS = {"cuda": "CUDA", "rocm": "ROCm", "vulkan": "Vulkan", "metal": "MTL", "cpu": "CPU"}
_BUILD = re.compile(r"\bb(?P<number>\d+)[- ]\(?(?P<commit>[0-9a-z]{7,40})\b")
_XLLAMACPP = re.compile(r"\bxllamacpp \d+\.\d+\.(\d+)\b")  # its last number is llama.cpp's build
_BUILD_NAME = re.compile(r"[A-Za-z0-9._-]{1,8}")
_BUILD_DIGITS = 8  # the script cuts all commits to the shortest
_NO_KEYS = ("build_number", "model_size", "model_n_params")  # by which the script does not distinguish tests
_HIDDEN = (*(axis for axis in axes.AXES if axis not in axes.FOUND), "engine_version")

_DEFAULTS: Fields = {
    "build_commit": "",
    "build_number": 0,
    "cpu_info": "",
    "gpu_info": "",
    "backends": "",
    "model_filename": "",
    "model_type": "",
    "model_size": 0,
    "model_n_params": 0,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_threads": 0,
    "cpu_mask": "0x0",
    "cpu_strict": False,
    "poll": 50,
    "type_k": "f16",
    "type_v": "f16",
    "n_gpu_layers": -1,
    "n_cpu_moe": 0,
    "split_mode": "layer",
    "main_gpu": 0,
    "no_kv_offload": False,
    "flash_attn": -1,
    "devices": "auto",
    "tensor_split": "0.00",
    "tensor_buft_overrides": "none",
    "load_mode": "auto",
    "lazy_mode": "auto",
    "use_mmap": True,
    "embeddings": False,
    "no_op_offload": 0,
    "no_host": False,
    "repack": True,
    "fit_target": 0,
    "fit_min_ctx": 0,
    "n_prompt": 0,
    "n_gen": 0,
    "n_depth": 0,
}


@dataclass(frozen=True, slots=True)
class LlamaBenchFile:
    """``left_out``: reason -> trials. ``builds``: build_commit -> the engine it stands for."""

    records: tuple[Fields, ...]
    left_out: Mapping[str, int]
    builds: Mapping[str, str]


def llama_bench_file(
    trials: pa.Table, devices: pa.Table, *, where: Sequence[str] = (), build: str | None = None
) -> LlamaBenchFile:
    """A record a test, with one sample a trial. ``build`` is written as every record's build_commit, filled
    with ``-`` to the length of a commit.

    Raises UsageError where nothing has an equivalent, or where cells that differ would be one test there.
    """
    if build is not None and not _BUILD_NAME.fullmatch(build):
        raise UsageError(f"--build {build!r}: allowed: letters, digits, '.', '_', '-', at most {_BUILD_DIGITS}")
    chosen = {_trial_key(row) for row in choose_trials(trials, (), where).rows}
    rows = [row for row in trials.to_pylist(maps_as_pydicts="strict") if _trial_key(row) in chosen]
    machines = {(each["fingerprint"], each["device_id"]): each for each in devices.to_pylist()}
    left_out: Counter[str] = Counter()
    groups: dict[tuple[Any, ...], list[tuple[Fields, Row]]] = defaultdict(list)
    for row in rows:
        if why := _no_equivalent(row):
            left_out[why] += 1
            continue
        fields = _fields(row, machines.get((row["fingerprint"], row["device_id"])))
        named = fields | {"build_commit": build.ljust(_BUILD_DIGITS, "-")} if build else fields
        groups[tuple(value for field, value in named.items() if field not in _NO_KEYS)].append((named, row))
    if not groups:
        settings = "; ".join(f"{count} {why}" for why, count in left_out.items()) or "there are no trials"
        raise UsageError(f"nothing here has an equivalent in llama-bench: {settings}")
    tests = [(group[0][0], [row for _, row in group]) for group in groups.values()]
    for fields, group in tests:
        _refuse_mixed(fields, group)
    builds = {str(fields["build_commit"]): _engine_words(group[0]) for fields, group in tests}
    return LlamaBenchFile(tuple(fields | _figures(group) for fields, group in tests), left_out, builds)


def _trial_key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("run", "job_id", "attempt", "trial"))


def _no_equivalent(row: Row) -> str:
    if row["status"] != "ok":
        return "without a figure (failed, refused, not measured)"
    if row["workload_kind"] != "synthetic":
        return "of workloads that are not synthetic (chats, images)"
    if row["flags"]:
        return "flagged"
    return "" if _rate(row) else "without a rate of their own"


def _rate(row: Row) -> float | None:
    """Tokens/s as llama-bench counts them: of the prompt, of the generation, or of both over all of the time."""
    n_prompt, n_gen = row["prompt_tokens_asked"] or 0, row["max_tokens"] or 0
    if n_prompt and n_gen:
        return (n_prompt + n_gen) / row["duration_s"] if row["duration_s"] else None
    rate: float | None = row["decode_tps"] if n_gen else row["prompt_tps"]
    return rate


def _figures(rows: Iterable[Row]) -> Fields:
    ordered = sorted(rows, key=lambda row: (row["started_at"] is None, row["started_at"], row["job_id"], row["trial"]))
    rates = [rate for row in ordered if (rate := _rate(row))]
    tokens = (ordered[0]["prompt_tokens_asked"] or 0) + (ordered[0]["max_tokens"] or 0)
    times = [round(1e9 * tokens / rate) for rate in rates]
    started = ordered[0]["started_at"]
    return {
        "test_time": f"{started:%Y-%m-%dT%H:%M:%SZ}" if started else "1970-01-01T00:00:00Z",
        "avg_ns": round(statistics.fmean(times)),
        "stddev_ns": round(statistics.stdev(times)) if len(times) > 1 else 0,
        "avg_ts": statistics.fmean(rates),
        "stddev_ts": statistics.stdev(rates) if len(rates) > 1 else 0.0,
        "samples_ns": times,
        "samples_ts": rates,
    }


def _fields(row: Row, machine: Row | None) -> Fields:
    commit, number = _build(row)
    measured = {
        "build_commit": commit,
        "build_number": number,
        **_machine(row, machine),
        "backends": _BACKENDS.get(row["runtime"] or "", row["runtime"] or ""),
        "model_filename": row["model_file"] or row["model"],
        "model_type": " ".join(
            part for part in (row["model_architecture"] or row["model"], row["quantisation"]) if part
        ),
        "model_size": row["model_bytes"],
        "n_batch": row["batch_tokens"],
        "n_ubatch": row["micro_batch_tokens"],
        "n_threads": row["threads"] or (machine["physical_cores"] if machine else None),
        "type_k": row["kv_type_k"],
        "type_v": row["kv_type_v"],
        "n_gpu_layers": row["gpu_layers"],
        "no_kv_offload": row["kv_offload"] is False,
        "flash_attn": None if row["flash_attention"] is None else int(row["flash_attention"]),
        "load_mode": _load_mode(row),
        "use_mmap": row["mmap"] is not False,
        "n_prompt": row["prompt_tokens_asked"],
        "n_gen": row["max_tokens"],
        "n_depth": row["depth"],
    }
    reported = _reported(row)
    reported_or_known = {name: reported.get(name, measured.get(name)) for name in _DEFAULTS}
    return {name: _DEFAULTS[name] if value is None else value for name, value in reported_or_known.items()}


def _reported(row: Row) -> Fields:
    """What an imported record of llama-bench reported itself, in its fields' types."""
    settings = dict(row["settings"] or {}) if row["origin"] == "imported" else {}
    reported: Fields = {}
    for name, default in _DEFAULTS.items() if "n_prompt" in settings else ():
        text = settings.get(name)
        if text is None:
            continue
        if isinstance(default, str):
            reported[name] = text
        elif text in ("true", "false") or (isinstance(default, bool) and text in ("1", "0")):
            reported[name] = type(default)(text in ("true", "1"))
        elif re.fullmatch(r"-?\d{1,18}", text) and not isinstance(default, bool):
            reported[name] = int(text)
    return reported


def _machine(row: Row, machine: Row | None) -> Fields:
    """llama-bench reports the GPUs that its back ends see: a CPU build sees none."""
    if machine is None:
        return {"cpu_info": row["device"], "gpu_info": ""}
    gpus = [] if row["runtime"] == "cpu" else [each["name"] for each in machine["gpus"] or ()]
    return {"cpu_info": machine["cpu"], "gpu_info": ", ".join(gpus)}


def _load_mode(row: Row) -> str:
    if row["mmap"] is None and row["keep_in_memory"] is None:
        return "auto"
    parts = ["mmap"] if row["mmap"] is not False else []
    return "+".join([*parts, *(["mlock"] if row["keep_in_memory"] else [])]) or "none"


def _build(row: Row) -> tuple[str, int]:
    """Commit and number from the engine's version; where that has no commit, eight digits that stand for it."""
    version = row["engine_version"] or ""
    if found := _BUILD.search(version):
        return found["commit"], int(found["number"])
    number = _XLLAMACPP.search(version)
    stand_in = hashlib.sha256(_engine_words(row).encode()).hexdigest()[:_BUILD_DIGITS]
    return stand_in, int(number[1]) if number else 0


def _engine_words(row: Row) -> str:
    return " ".join(part for part in (row["engine"], row["engine_version"]) if part)


def _refuse_mixed(fields: Fields, rows: Sequence[Row]) -> None:
    """llama-bench has no field for a power limit or a memory split: such cells would be averaged in silence."""
    differ: dict[str, list[Any]] = {}
    for axis in _HIDDEN:
        if axis in rows[0] and len(found := {row[axis] for row in rows}) > 1:
            differ[axis] = sorted(found, key=lambda value: axes.sort_key(axis, value))
    if not differ:
        return
    axis, values = next(iter(differ.items()))
    labels = ", ".join(axes.label(axis, value) for value in values)
    names = ", ".join(axes.short_name(each) for each in differ)
    example = axes.label(axis, values[-1]).replace(" ", "")
    raise UsageError(
        f"llama-bench has no field for {names}: its {fields['n_prompt']}/{fields['n_gen']} test would mix {labels};"
        f" choose by --where, such as --where {axes.short_name(axis)}={example}"
    )
