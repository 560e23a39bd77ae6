"""What comes back from a job. An outcome is data, not an exception: ``Measured | Refused | Failed``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from agents.contract.columns import column
from agents.contract.device import Device, StateSource
from agents.contract.measure import Reading, Trial
from agents.contract.usage import Energy, Usage


class Cause(StrEnum):
    """Why a cell has no figure. The value is what tables hold; ``CAUSES`` says what follows."""

    UNSUPPORTED = "unsupported"
    NO_DEVICE = "no_device"
    WRONG_STATE = "wrong_state"
    MODEL_FILE_MISSING = "model_file_missing"
    MODEL_FILE_INVALID = "model_file_invalid"
    RAM = "ram"
    VRAM = "vram"
    CONTEXT_TOO_LONG = "context_too_long"
    RUNTIME_MISSING = "runtime_missing"
    LOAD_FAILED = "load_failed"
    LOAD_TIMEOUT = "load_timeout"
    ENGINE_CRASHED = "engine_crashed"
    PROMPT_TOO_LONG = "prompt_too_long"
    REQUEST_REFUSED = "request_refused"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    TRIAL_TIMEOUT = "trial_timeout"
    STREAM_BROKEN = "stream_broken"
    STOPPED_EARLY = "stopped_early"
    ENGINE_LOST = "engine_lost"
    DEVICE_LOST = "device_lost"
    DISK_FULL = "disk_full"
    DISK_FAULT = "disk_fault"
    CANCELLED = "cancelled"
    AGENT_FAULT = "agent_fault"


@dataclass(frozen=True, slots=True)
class CausePolicy:
    """What follows from a cause.

    ``description``: what people read. ``retried``: it says nothing of the cell, so the schedule sends the job again, a
    bounded number of times. ``retried_on_request``: what `orchestrate retry` takes where no cause is named.
    ``remembered``: a load that failed so fails again with the same settings; it is not tried for the jobs after it.
    """

    description: str
    retried: bool = False
    retried_on_request: bool = False
    remembered: bool = True


CAUSES: dict[Cause, CausePolicy] = {
    Cause.UNSUPPORTED: CausePolicy("not supported"),
    Cause.NO_DEVICE: CausePolicy("no device"),
    Cause.WRONG_STATE: CausePolicy("device in another state", retried_on_request=True),
    Cause.MODEL_FILE_MISSING: CausePolicy("does not load: no model file", retried_on_request=True),
    Cause.MODEL_FILE_INVALID: CausePolicy("does not load: bad model file"),
    Cause.RAM: CausePolicy("does not load: RAM"),
    Cause.VRAM: CausePolicy("does not load: VRAM"),
    Cause.CONTEXT_TOO_LONG: CausePolicy("does not load: context too long"),
    Cause.RUNTIME_MISSING: CausePolicy("does not load: runtime missing"),
    Cause.LOAD_FAILED: CausePolicy("does not load"),
    Cause.LOAD_TIMEOUT: CausePolicy("does not load: too slow", retried_on_request=True),
    Cause.ENGINE_CRASHED: CausePolicy("engine crashed"),
    Cause.PROMPT_TOO_LONG: CausePolicy("prompt too long"),
    Cause.REQUEST_REFUSED: CausePolicy("request refused"),
    Cause.FIRST_TOKEN_TIMEOUT: CausePolicy("no first token in time", retried_on_request=True),
    Cause.TRIAL_TIMEOUT: CausePolicy("not done in time", retried_on_request=True),
    Cause.STREAM_BROKEN: CausePolicy("stream broken", retried=True, retried_on_request=True, remembered=False),
    Cause.STOPPED_EARLY: CausePolicy("stopped early"),
    Cause.ENGINE_LOST: CausePolicy("engine lost", retried=True, retried_on_request=True, remembered=False),
    Cause.DEVICE_LOST: CausePolicy("device lost", retried=True, retried_on_request=True, remembered=False),
    Cause.DISK_FULL: CausePolicy("disk full", retried_on_request=True, remembered=False),
    Cause.DISK_FAULT: CausePolicy("disk fault", retried=True, retried_on_request=True, remembered=False),
    Cause.CANCELLED: CausePolicy("cancelled", remembered=False),
    Cause.AGENT_FAULT: CausePolicy("agent fault", retried_on_request=True),
}

RETRIED: frozenset[Cause] = frozenset(cause for cause, policy in CAUSES.items() if policy.retried)

DISK_CAUSES: frozenset[Cause] = frozenset({Cause.DISK_FULL, Cause.DISK_FAULT})
"""A device whose disk takes no writes at all waits, and its job with it; else they are as other causes are."""

HUNG = "the job process hung"
"""How the detail of a hang begins: the ledger knows it by that after a restart."""

Attempt = tuple[str, int]
"""(job_id, attempt): what a report, a lease and a row are of."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the engine did when it loaded, from its own words where it has any. None: it does not tell."""

    load_s: float | None = column("Engine start to ready for requests; null where it ran before", unit="s")
    reused: bool = column("The engine was already loaded with these settings by an earlier job")
    engine_version: str = column("Engine's version or build")
    engine_runtime: str | None = column("Back end that the engine says it runs on", default=None)
    model_file: str | None = column("Model file that was loaded", default=None)
    model_bytes: int | None = column("Size of the model file or files", unit="bytes", default=None)
    model_sha256: str | None = column("SHA-256 of the model file, where known", default=None)
    model_architecture: str | None = column("Model architecture, from the file", default=None)
    active_bytes: int | None = column(
        "Weights that one token reads: of experts, those that it uses", unit="bytes", default=None
    )
    layers_offloaded: int | None = column("Layers on the GPU", default=None)
    layers_total: int | None = column("Layers that could be on the GPU", default=None)
    weights_bytes: int | None = column(
        "Model buffers, from the engine's log; a CPU back end's repacked copy counts too", unit="bytes", default=None
    )
    kv_bytes: int | None = column("KV cache buffers, from the engine's log", unit="bytes", default=None)
    compute_bytes: int | None = column("Compute buffers, from the engine's log", unit="bytes", default=None)
    engine_model_bytes: int | None = column(
        "Memory that the engine says the loaded model takes in all", unit="bytes", default=None
    )
    engine_vram_bytes: int | None = column("Part of it that the engine says lies in VRAM", unit="bytes", default=None)
    context_tokens_actual: int | None = column(
        "Context window that the engine says it has", unit="tokens", default=None
    )
    settings: tuple[tuple[str, str], ...] = ()  # exact settings handed to the engine


@dataclass(frozen=True, slots=True)
class Measured:
    """The job ran. ``trials`` holds the warm-ups first, flagged, then the measured trial."""

    loaded: Loaded
    trials: tuple[Trial, ...]
    log_path: str | None = None  # set by the coordinator: where it keeps the engine's log, beside the results
    kind: Literal["measured"] = "measured"


@dataclass(frozen=True, slots=True)
class Refused:
    """Asked for what cannot be done here; nothing was loaded. Never retried."""

    cause: Cause
    detail: str
    kind: Literal["refused"] = "refused"


@dataclass(frozen=True, slots=True)
class Failed:
    """Tried, and failed. ``detail`` holds the engine's own words. Trials that were complete by then are kept."""

    cause: Cause
    detail: str
    loaded: Loaded | None = None
    trials: tuple[Trial, ...] = ()
    log_tail: str = ""
    log_path: str | None = None  # set by the coordinator: where it keeps the engine's log, beside the results
    hung_stage: str = ""  # at what the job process hung, where its agent ended it for that
    kind: Literal["failed"] = "failed"


Outcome = Annotated[Measured | Refused | Failed, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class MachineSeen:
    """The state that the machine was in while the job ran, and who says so. None: nothing tells."""

    dedicated_vram_seen_bytes: int | None = column(
        "Part of the RAM that the firmware gave to the GPU while the job ran", unit="bytes", default=None
    )
    dedicated_vram_source: StateSource | None = column(
        "Who says so: seen (read from the machine) or stated (by the operator)", default=None
    )
    power_limit_seen_w: float | None = column("Power limit while the job ran", unit="W", default=None)
    power_limit_source: StateSource | None = column(
        "Who says so: held (set and read back by the agent), seen or stated", default=None
    )
    power_profile_seen: str | None = column("Named power profile of the machine while the job ran", default=None)
    power_profile_source: StateSource | None = column(
        "Who says so: held (set and read back by the agent) or seen", default=None
    )


@dataclass(frozen=True, slots=True)
class Report:
    """One attempt at a job, ended.

    ``started_unix_s`` and ``ended_unix_s`` are the device's wall clock, labels for the eye alone: it may be set while a
    job runs. ``duration_s`` is the difference of its monotonic clock; None in reports of older versions.
    """

    job_id: str
    attempt: int
    run_id: Annotated[
        str, Field(validation_alias=AliasChoices("run_id", "campaign_id"))
    ]  # spools before 0.2 say campaign
    device_id: str
    fingerprint: str
    boot_id: str
    started_unix_s: float
    ended_unix_s: float
    outcome: Outcome
    log: str = ""  # the engine's log, bounded, where this attempt loaded the engine or failed
    machine: MachineSeen = MachineSeen()
    readings: tuple[Reading, ...] = ()  # telemetry taken while the job ran
    usage: Usage = Usage()
    energy: Energy = Energy()
    duration_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        """How long the attempt took; by the wall clock where an older version reports no more, and then never < 0."""
        return max(self.ended_unix_s - self.started_unix_s, 0.0) if self.duration_s is None else self.duration_s

    @classmethod
    def unmeasured(
        cls,
        attempt: Attempt,
        run_id: str,
        outcome: Refused | Failed,
        now_unix_s: float,
        device: Device | str,
        duration_s: float = 0.0,
    ) -> Report:
        """Of an attempt that ended without a job process to report it; ``device``: its id, where no more is known."""
        known = device if isinstance(device, Device) else None
        return cls(
            job_id=attempt[0],
            attempt=attempt[1],
            run_id=run_id,
            device_id=known.device_id if known else str(device),
            fingerprint=known.fingerprint if known else "",
            boot_id=known.boot_id if known else "",
            started_unix_s=now_unix_s,
            ended_unix_s=now_unix_s,
            outcome=outcome,
            duration_s=duration_s,
        )
