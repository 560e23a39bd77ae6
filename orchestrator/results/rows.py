"""A job and what came of it, as rows. A failed or refused job is a row too. PURE"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate
from typing import Any, cast

import pyarrow as pa

from agents.contract.device import Device
from agents.contract.job import Chat, Job, ModelSource, Stop, Synthetic, Workflow, Workload
from agents.contract.measure import Arrival, Reading, SamplerStep, Trial, counted_trial
from agents.contract.rates import decode_tps, iteration_rate, prompt_tps, seconds_per_image, ttft_s
from agents.contract.report import Failed, Measured, Refused, Report
from agents.contract.web_address import shown
from orchestrator.results import schema

Row = dict[str, Any]

WALL_TIME_OFF_S = 10.0
WALL_TIME_OFF = 0.01
"""The clocks of an attempt may differ by the larger of both, the second as a share: NTP slews by 0.05 % at most."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An attempt to keep: what was asked for, what came of it, and on which device (None: no inventory is known)."""

    job: Job
    report: Report
    device: Device | None


def rows_of(job: Job, report: Report, device: Device | None, orchestrate_version: str = "") -> pa.Table:
    """All of one attempt, in ``attempt_schema()``: a row a trial, and one more where the attempt failed or was refused.

    ``device`` is None where no inventory of it is known; its name is then null.
    """
    return rows_of_many([Kept(job, report, device)], orchestrate_version)


def rows_of_many(attempts: Sequence[Kept], orchestrate_version: str = "") -> pa.Table:
    """As ``rows_of``, of several attempts: a column is made once for all of them, which is what costs."""
    rows: list[Row] = []
    arrivals: list[Sequence[Arrival]] = []
    steps: list[Sequence[SamplerStep]] = []
    readings: list[Sequence[Reading]] = []
    for attempt in attempts:
        before = len(rows)
        rows += _attempt_rows(attempt, orchestrate_version)
        outcome = attempt.report.outcome
        trials: Sequence[Trial] = () if isinstance(outcome, Refused) else outcome.trials
        added = len(rows) - before
        arrivals += [*(trial.arrivals for trial in trials), *[()] * (added - len(trials))]
        steps += [*(trial.image.steps if trial.image else () for trial in trials), *[()] * (added - len(trials))]
        readings += [attempt.report.readings, *[()] * (added - 1)]
    columns: list[Any] = [pa.array([row.get(each.name) for row in rows], each.type) for each in schema.TRIALS]
    columns.append(_nested(arrivals, schema.ARRIVAL))
    columns.append(_nested(steps, schema.STEP))
    columns.append(_nested(readings, schema.READING))
    return pa.Table.from_arrays(columns, schema=schema.attempt_schema())


def _attempt_rows(attempt: Kept, orchestrate_version: str) -> list[Row]:
    outcome = attempt.report.outcome
    trials: Sequence[Trial] = () if isinstance(outcome, Refused) else outcome.trials
    same = _attempt(attempt.job, attempt.report, attempt.device) | {"orchestrate_version": orchestrate_version}
    used = _columns_of(attempt.report.usage) | _columns_of(attempt.report.energy)
    counted = counted_trial(trials)
    rows = [same | {"status": "ok"} | _trial(trial) | (used if trial is counted else {}) for trial in trials]
    if not isinstance(outcome, Measured) or not rows:
        rows.append(same | _ending(outcome) | used)
    return rows


def devices_of(run: str, devices: Iterable[Device]) -> pa.Table:
    """The table ``devices``."""
    rows = [_device(device) | {"run": run} for device in devices]
    return pa.Table.from_pylist(rows, schema=schema.schema("devices"))


def _columns_of(value: Any, prefix: str = "") -> Row:
    return {prefix + name: getattr(value, name) for name in _columns(cast(Hashable, type(value)))}


@cache
def _columns(kind: Hashable) -> tuple[str, ...]:
    return tuple(each.name for each in dataclasses.fields(cast(Any, kind)) if "definition" in each.metadata)


def _time(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def _attempt(job: Job, report: Report, device: Device | None) -> Row:
    """What all rows of the attempt share."""
    outcome = report.outcome
    loaded = None if isinstance(outcome, Refused) else outcome.loaded
    return {
        "run": job.run_id,
        "job_id": job.job_id,
        "attempt": report.attempt,
        "warmup": False,
        "cell_id": job.cell_id,
        "repeat": job.repeat,
        "canary": job.canary,
        "log_path": None if isinstance(outcome, Refused) else outcome.log_path,
        "origin": "measured",
        "device_id": report.device_id or job.device_id,
        "device": device.name if device else None,
        "fingerprint": report.fingerprint or None,
        "boot_id": report.boot_id or None,
        "started_at": _time(report.started_unix_s),
        "ended_at": _time(report.ended_unix_s),
        "attempt_duration_s": report.duration_s,
        "wall_time_wrong": wall_time_is_wrong(report),
        "model_source": _source(job.load.source),
        "load_timeout_s": job.timeouts.load_s,
        "first_token_timeout_s": job.timeouts.first_token_s,
        "trial_timeout_s": job.timeouts.trial_s,
        **_workload(job.workload),
        **_columns_of(job.load),
        **_columns_of(job.state),
        **_columns_of(report.machine),
        **({} if loaded is None else _columns_of(loaded) | {"settings": loaded.settings}),
    }


def wall_time_is_wrong(report: Report) -> bool:
    """It ended before it began, or took another time on the wall clock than on the monotonic one."""
    span_s = report.ended_unix_s - report.started_unix_s
    if span_s < 0 or report.duration_s is None:
        return span_s < 0
    return abs(span_s - report.duration_s) > max(WALL_TIME_OFF_S, WALL_TIME_OFF * report.duration_s)


def _source(source: ModelSource) -> str | None:
    if source.path is not None:
        return f"path:{source.path}"
    if source.hf_repo is not None:
        revision = f"@{source.hf_revision}" if source.hf_revision else ""
        return f"hf:{source.hf_repo}{revision}" + (f"/{source.hf_file}" if source.hf_file else "")
    if source.url is not None:
        return f"url:{shown(source.url)}"
    return f"tiny:{source.tiny}" if source.tiny is not None else None


def _workload(workload: Workload) -> Row:
    if isinstance(workload, Workflow):
        return _workflow(workload)
    sampling = {each.name: getattr(workload.sampling, each.name) for each in dataclasses.fields(workload.sampling)}
    row = {"workload": workload.name, "workload_kind": workload.kind, **sampling}
    if isinstance(workload, Synthetic):
        return row | {
            "prompt_tokens_asked": workload.prompt_tokens,
            "max_tokens": workload.generate_tokens,
            "depth": workload.depth,
            "stop": Stop.EXACT,
        }
    row |= {"max_tokens": workload.max_tokens, "stop": workload.stop, "prompt_sha256": _prompt_sha256(workload)}
    if (image := workload.image) is not None:
        row |= {"image": image.name, "image_width_px": image.width, "image_height_px": image.height}
    return row


def _workflow(workflow: Workflow) -> Row:
    return {
        "workload": workflow.name,
        "workload_kind": workflow.kind,
        "workflow_sha256": hashlib.sha256(workflow.graph.encode("utf-8", "surrogatepass")).hexdigest(),
        "images_asked": workflow.images,
        "steps_asked": workflow.steps,
        "batch_asked": workflow.batch,
        "image_width_px": workflow.width,
        "image_height_px": workflow.height,
        "seed": workflow.seed,
    }


def _prompt_sha256(chat: Chat) -> str:
    """Of the parts with their lengths before them, so that text cannot move from one part into the next."""
    digest = hashlib.sha256()
    for part in (chat.system or "", chat.prompt, chat.image.data_base64 if chat.image else ""):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _trial(trial: Trial) -> Row:
    return {
        "trial": trial.index,
        "warmup": trial.warmup,
        "sent_at": _time(trial.sent_unix_s),
        "sent_s": trial.sent_s,
        "ttft_s": ttft_s(trial),
        "prompt_tps": prompt_tps(trial),
        "decode_tps": decode_tps(trial),
        "seconds_per_image": seconds_per_image(trial),
        "iteration_rate": iteration_rate(trial),
        "prompt_tokens": trial.prompt_tokens,
        "completion_tokens": trial.completion_tokens,
        "reasoning_tokens": trial.reasoning_tokens,
        "image_tokens": trial.image_tokens,
        "stop_reason": trial.stop_reason if trial.image is None else None,
        "duration_s": trial.ended_s,
        "flags": list(trial.flags),
        "output_sha256": trial.output_sha256 or None,
        "output": trial.output,
        **_columns_of(trial.engine, prefix="engine_"),
        **({} if trial.image is None else _columns_of(trial.image)),
    }


def _ending(outcome: Measured | Failed | Refused) -> Row:
    """The row of an attempt that brought no figure."""
    if isinstance(outcome, Measured):
        return {"status": "failed", "cause": "stopped_early", "detail": "the job ended without a trial"}
    row: Row = {"status": outcome.kind, "cause": outcome.cause, "detail": outcome.detail}
    return row | ({"log_tail": outcome.log_tail or None} if isinstance(outcome, Failed) else {})


def _nested(
    items: Sequence[Sequence[Arrival] | Sequence[SamplerStep] | Sequence[Reading]], columns: Sequence[schema.Column]
) -> pa.Array[Any]:
    """A ``list<struct>`` column from one sequence a row, built column by column: a dict a token would be slow."""
    offsets = [0, *accumulate(len(each) for each in items)]
    flat = [item for each in items for item in each]
    arrays: list[Any] = [pa.array([getattr(item, each.name) for item in flat], each.type) for each in columns]
    struct = pa.StructArray.from_arrays(arrays, fields=[each.field() for each in columns])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), struct)


def _device(device: Device) -> Row:
    gpu = device.gpus[0] if device.gpus else None
    names = {each.name for each in schema.DEVICES} & {each.name for each in dataclasses.fields(device)}
    return {name: getattr(device, name) for name in names} | {
        "device": device.name,
        "gpu": gpu.name if gpu else None,
        "gpu_vram_bytes": gpu.vram_bytes if gpu else None,
        "gpus": [dataclasses.asdict(each) for each in device.gpus],
        "engines": [dataclasses.asdict(each) for each in device.engines],
        "labels": device.labels,
    }
