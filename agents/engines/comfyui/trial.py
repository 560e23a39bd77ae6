"""A run of a graph -> a trial with its figures and its flags. PURE"""

from __future__ import annotations

from dataclasses import dataclass

from agents.contract.job import Workflow
from agents.contract.measure import EngineTimings, Flag, ImageExecution, SamplerStep, StopReason, Trial
from agents.contract.rates import DISAGREEMENT
from agents.engines.comfyui.events import GraphExecution, iterations, node_seconds, steps_of
from agents.engines.comfyui.graph import Graph, loaders_of, models_of, samplers_of, seed_of, seeded_of
from agents.engines.comfyui.memory import Memory

FLOOR_S = 0.05  # the engine's stamps leave out the socket, and the check of the graph before it runs


@dataclass(frozen=True, slots=True)
class SentAt:
    """When the prompt was sent, on the monotonic and on the wall clock."""

    at_ns: int
    unix_s: float


def trial_of(run: GraphExecution, workflow: Workflow, graph: Graph, nonce: int, sent: SentAt, most: Memory) -> Trial:
    """The trial of a run that ended well. The caller sets ``index`` and ``warmup``."""
    ended_ns = run.ended_ns if run.ended_ns is not None else sent.at_ns
    steps = steps_of(run, samplers_of(graph))
    loaders = loaders_of(graph)
    image = ImageExecution(
        images=run.images,
        image_seed=seed_of(workflow, nonce),
        iterations=iterations(steps) if steps else None,
        image_models=", ".join(models_of(graph)) or None,
        model_load_s=node_seconds(run, loaders) if loaders else None,
        image_engine_s=run.engine_s,
        image_vram_peak_bytes=most.vram_bytes,
        image_torch_vram_peak_bytes=most.torch_bytes,
        image_ram_peak_bytes=most.ram_bytes,
        steps=tuple(SamplerStep((each.at_ns - sent.at_ns) / 1e9, each.node, each.done, each.of) for each in steps),
    )
    return Trial(
        index=0,
        warmup=False,
        sent_unix_s=sent.unix_s,
        arrivals=(),
        ended_s=(ended_ns - sent.at_ns) / 1e9,
        prompt_tokens=None,
        completion_tokens=None,
        reasoning_tokens=None,
        stop_reason=StopReason.UNKNOWN,
        engine=EngineTimings(),
        flags=_flags(run, workflow, sent),
        sent_s=sent.at_ns / 1e9,
        image=image,
    )


def _flags(run: GraphExecution, workflow: Workflow, sent: SentAt) -> tuple[Flag, ...]:
    flags = []
    if seeded_of(workflow) & run.cached:
        flags.append(Flag.IMAGES_CACHED)
    if run.images < workflow.images:
        flags.append(Flag.FEWER_IMAGES)
    if run.others:
        flags.append(Flag.ENGINE_BUSY)
    if run.engine_s is not None and run.ended_ns is not None:
        client_s = (run.ended_ns - sent.at_ns) / 1e9
        if abs(client_s - run.engine_s) > max(DISAGREEMENT * run.engine_s, FLOOR_S):
            flags.append(Flag.CLOCKS_DISAGREE)
    return tuple(flags)
