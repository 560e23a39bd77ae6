"""What a device is asked to do: one cell of the matrix, once, complete, so that it travels alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from agents.contract.columns import column


class Runtime(StrEnum):
    """The compute back end that an engine uses. An engine's own name for it is the adapter's business."""

    VULKAN = "vulkan"
    ROCM = "rocm"
    CUDA = "cuda"
    METAL = "metal"
    CPU = "cpu"


class Stop(StrEnum):
    """When a generation ends."""

    NATURAL = "natural"  # at the model's own end of text, or at max_tokens
    EXACT = "exact"  # after exactly max_tokens: the end-of-text token is ignored


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. None leaves a value to the engine."""

    seed: int = 0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """An image that goes with a prompt; ``data_base64`` is the file as it stood on the coordinator's disk."""

    name: str
    media_type: str
    width: int
    height: int
    data_base64: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Chat:
    """A user message (and an image) through the model's chat template."""

    name: str
    prompt: str
    max_tokens: int
    stop: Stop = Stop.NATURAL
    system: str | None = None
    image: Image | None = None
    sampling: Sampling = Sampling()
    kind: Literal["chat"] = "chat"


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Random token ids, as llama-bench has: ``pp512`` (prompt), ``tg128`` (generate), ``@d4096`` (depth).

    ``depth`` tokens stand in the KV cache before what is measured begins. With ``prompt_tokens`` 0 they are
    simply the prompt of the one request. With ``prompt_tokens`` > 0 an unmeasured request puts them there and the
    measured one reuses them: the only place where a prompt cache is used, and its size is checked.
    """

    name: str
    prompt_tokens: int = 0
    generate_tokens: int = 0
    depth: int = 0
    sampling: Sampling = Sampling()
    kind: Literal["synthetic"] = "synthetic"


@dataclass(frozen=True, slots=True)
class NodeInput:
    """An input of a node of a graph that is set for each run; ``sets`` is one of NODE_INPUTS."""

    sets: str
    node: str
    input: str


NODE_INPUTS = ("seed", "steps", "width", "height", "batch", "model")


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph that makes images, in ComfyUI's API format; ``graph`` is its JSON text.

    ``images`` is how many a run makes. Of seed, steps, width, height and batch, None leaves what the graph has; the
    seed is counted up from run to run. An input for ``model`` gets the name of the cell's model.
    """

    name: str
    graph: str = field(repr=False)
    images: int = 1
    seed: int = 0
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    batch: int | None = None
    inputs: tuple[NodeInput, ...] = ()
    kind: Literal["workflow"] = "workflow"


Workload = Annotated[Chat | Synthetic | Workflow, Field(discriminator="kind")]


TINY_NAMES = ("llama", "qwen3moe", "deepseek2", "qwen3vl", "llama-0.6b")
"""Models with random weights that every device makes for itself: ``tiny:NAME``."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files come from: at most one of ``path``, ``hf_repo``, ``url``, ``tiny``; none: the engine knows
    the name.

    ``hf_file`` and ``mmproj`` are file names or globs; without ``hf_file`` the quantisation picks the file.
    ``sha256`` is that of the file at ``url`` (of a split model: of its first part), 64 small hex digits. With ``url``,
    ``mmproj`` is an address too, or the name of a file beside it. An address can hold a login or a token: no repr.
    ``engine_names`` holds what single engines call the model: (("ollama", "qwen3-vl:32b"), ...).
    """

    path: str | None = None
    hf_repo: str | None = None
    hf_revision: str | None = None
    hf_file: str | None = None
    tiny: str | None = None
    mmproj: str | None = field(default=None, repr=False)
    engine_names: tuple[tuple[str, str], ...] = ()
    url: str | None = field(default=None, repr=False)
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """All that is fixed when an engine loads a model: two jobs with equal LoadSettings can share one loaded engine.

    None means: not asked for; the engine's default holds and is recorded where the engine tells it.
    """

    engine: str = column("Engine adapter that ran the model")
    model: str = column("Model as the matrix names it: a path, hf:OWNER/REPO, tiny:ARCH, or the engine's own name")
    quantisation: str | None = column("Weight quantisation asked for", default=None)
    runtime: Runtime | None = column("Compute back end asked for", default=None)
    context_tokens: int | None = column("Context window asked for", unit="tokens", default=None)
    kv_type_k: str | None = column("Type of the K cache", default=None)
    kv_type_v: str | None = column("Type of the V cache", default=None)
    flash_attention: bool | None = column("Flash attention on or off", default=None)
    gpu_layers: int | None = column("Layers put on the GPU; -1 means all", default=None)
    threads: int | None = column("CPU threads for prompt and decode", default=None)
    batch_tokens: int | None = column("Logical batch: most tokens handed over at once", unit="tokens", default=None)
    micro_batch_tokens: int | None = column("Physical batch: most tokens computed at once", unit="tokens", default=None)
    mmap: bool | None = column("Weights mapped from the file instead of read into memory", default=None)
    keep_in_memory: bool | None = column("Weights locked in RAM", default=None)
    kv_offload: bool | None = column("KV cache kept on the GPU", default=None)
    source: ModelSource = ModelSource()


@dataclass(frozen=True, slots=True)
class MachineState:
    """The state that the device must be in; a change may need a person, or a reboot. None: as it stands."""

    dedicated_vram_bytes: int | None = column(
        "Part of the RAM that the firmware gives to the GPU, asked for", unit="bytes", default=None
    )
    power_limit_w: float | None = column("Power limit asked for", unit="W", default=None)
    power_profile: str | None = column("Named power profile of the machine asked for", default=None)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds allowed for loading, for the first token (from the request's sending), and for a whole trial."""

    load_s: float = 600.0
    first_token_s: float = 600.0
    trial_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a trial should find; it is waited for within bounds, and a trial that has not found it is flagged."""

    quiet: bool = True  # nobody else uses CPU or GPU
    battery_allowed: bool = False  # else the machine must be on mains
    cool_down_s: float = 0.0  # longest wait for the temperature of an idle machine; 0: none
    again: int = 2  # most further trials of a job, while the last one was flagged for what may have passed


@dataclass(frozen=True, slots=True)
class Job:
    """One cell on one device, once. ``attempt`` counts the times it was sent, from 1.

    ``job_id`` is a hash of run, cell, device and repeat, so that it is the same after a restart.
    """

    job_id: str
    attempt: int
    run_id: str
    cell_id: str
    device_id: str
    repeat: int
    load: LoadSettings
    workload: Workload
    state: MachineState = MachineState()
    warmups: int = 1
    timeouts: Timeouts = Timeouts()
    keep_output: bool = False
    canary: bool = False  # the fixed cell whose drift tells that of the device
    conditions: Conditions = Conditions()
