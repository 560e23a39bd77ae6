"""Jobs, reports and devices for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agents.contract.device import Device, EngineFound, Gpu, MemoryKind, StateSource
from agents.contract.job import (
    Chat,
    Image,
    Job,
    LoadSettings,
    MachineState,
    NodeInput,
    Runtime,
    Sampling,
    Synthetic,
    Workflow,
)
from agents.contract.measure import (
    Arrival,
    EngineTimings,
    Flag,
    ImageExecution,
    Reading,
    SamplerStep,
    StopReason,
    Trial,
)
from agents.contract.report import Cause, Failed, Loaded, Measured, Outcome, Refused, Report

SYNTHETIC = Synthetic("pp16tg4", prompt_tokens=16, generate_tokens=4, depth=8, sampling=Sampling(seed=7))
CHAT = Chat(
    "website", "Write a page.", 64, system="Be brief.", image=Image("shot.png", "image/png", 1486, 831, "aGFsbG8=")
)
WORKFLOW = Workflow(
    "picture", '{"5":{}}', images=2, seed=7, steps=4, width=512, batch=2, inputs=(NodeInput("seed", "5", "seed"),)
)
LOADED = Loaded(1.5, False, "b1234", engine_runtime="Vulkan0", kv_bytes=2**20, settings=(("-c", "4096"), ("-fa", "on")))


def job(job_id: str = "a1", **changes: Any) -> Job:
    made = Job(
        job_id=job_id,
        attempt=1,
        run_id="run-1",
        cell_id="cell-1",
        device_id="device-1",
        repeat=0,
        load=LoadSettings("embedded", "tiny:llama", "Q8_0", Runtime.CPU, context_tokens=4096, kv_type_k="f16"),
        workload=SYNTHETIC,
        state=MachineState(dedicated_vram_bytes=2**29),
    )
    return replace(made, **changes)


def trial(index: int = 1, *, warmup: bool = False, tokens: int = 4, flags: tuple[Flag, ...] = ()) -> Trial:
    """The first token after 0.5 s, then one each 0.1 s: 10 tokens/s."""
    return Trial(
        index=index,
        warmup=warmup,
        sent_unix_s=1_700_000_000.25 + index,
        arrivals=tuple(Arrival(0.5 + 0.1 * n, read=n, reasoning=n == 0) for n in range(tokens)),
        ended_s=1.0,
        prompt_tokens=16,
        completion_tokens=tokens,
        reasoning_tokens=1,
        stop_reason=StopReason.LENGTH,
        engine=EngineTimings(prompt_tokens=16, prompt_s=0.25, generated_tokens=tokens, decode_tps=10.1),
        flags=flags,
        output_sha256="ab" * 32,
    )


def image_trial(index: int = 1, *, images: int = 2) -> Trial:
    """Two images in 3 s; a step at 1.0, 1.5, 2.0 and 2.5 s: 2 iterations/s."""
    steps = tuple(SamplerStep(1.0 + 0.5 * n, "5", n + 1.0, 4.0) for n in range(4))
    run = ImageExecution(images, image_seed=7, iterations=4, model_load_s=0.0, image_vram_peak_bytes=2**30, steps=steps)
    text = trial(index, tokens=0)
    return replace(
        text,
        ended_s=3.0,
        completion_tokens=None,
        engine=EngineTimings(),
        stop_reason=StopReason.UNKNOWN,
        output_sha256="",
        image=run,
    )


MEASURED = Measured(LOADED, (trial(0, warmup=True), trial(1)))
IMAGED = Measured(replace(LOADED, load_s=None), (image_trial(),))
REFUSED = Refused(Cause.WRONG_STATE, "set it in the firmware")
FAILED = Failed(Cause.ENGINE_CRASHED, "signal 9", LOADED, (trial(0, warmup=True),), log_tail="killed\n")


def report(job: Job, outcome: Outcome = MEASURED, **changes: Any) -> Report:
    made = Report(
        job_id=job.job_id,
        attempt=job.attempt,
        run_id=job.run_id,
        device_id=job.device_id,
        fingerprint="f00d",
        boot_id="boot-1",
        started_unix_s=1_700_000_000.0,
        ended_unix_s=1_700_000_009.5,
        outcome=outcome,
        readings=(Reading(0.0, "cpu", "power", 12.5, "W"), Reading(1.0, "cpu", "power", None, "W")),
    )
    return replace(made, **changes)


DEVICE = Device(
    device_id="device-1",
    name="laptop",
    boot_id="boot-1",
    os="Linux",
    kernel="6.18",
    arch="x86_64",
    cpu="a CPU",
    physical_cores=8,
    logical_cores=16,
    ram_bytes=2**36,
    memory_kind=MemoryKind.CARVE_OUT,
    gpus=(Gpu("a GPU", "amd", "26.1", 2**35),),
    dedicated_vram_bytes=2**35,
    split_source=StateSource.STATED,
    labels=(("room", "3"),),
    engines=(EngineFound("embedded", "b1234", ("cpu", "vulkan"), "here"),),
    fingerprint="f00d",
)
