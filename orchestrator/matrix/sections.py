"""The matrix file at the door: pydantic models, every key named, no key more. PURE

A file comes in as texts, lists and mappings (``tree.py``); each text is read by the parser of the key that it
stands under. The JSON Schema for editors is made from these same models (``schema.py``).
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from agents.contract.job import Sampling, Stop, Timeouts
from orchestrator.matrix.axes import AXES
from orchestrator.matrix.axis_sections import AxesSpec, DefaultsSpec, Door, range_keys
from orchestrator.matrix.matrix import OnBattery, Rounds
from orchestrator.matrix.model_spec import EngineNamesSpec, ModelSpec
from orchestrator.matrix.parsers import (
    ANY_TEXT,
    NAME,
    PROMPT,
    SECONDS,
    SIZE,
    SWITCH,
    TEXT,
    MaybeName,
    Reads,
    Several,
    decimal,
    tokens,
    whole,
)
from orchestrator.matrix.problems import BadValue, not_one_of, quoted

GPU_VENDORS = ("amd", "nvidia", "intel", "apple")
STOPS = tuple(stop.value for stop in Stop)


def _parse_title(text: str) -> str:
    bare = text.translate(str.maketrans("-_.", "aaa"))
    if len(text) > 80 or not bare.isascii() or not bare.isalnum():
        raise BadValue(f"{quoted(text)} is not a name. Allowed: ASCII letters, digits, - _ and ., at most 80")
    return text


def _parse_stop(text: str) -> Stop:
    if text not in STOPS:
        raise not_one_of(text, "a way to stop", STOPS)
    return Stop(text)


def _parse_rounds(text: str) -> Rounds:
    allowed = tuple(each.value for each in Rounds)
    if text not in allowed:
        raise not_one_of(text, "what a round goes through", allowed)
    return Rounds(text)


def _parse_on_battery(text: str) -> OnBattery:
    allowed = tuple(each.value for each in OnBattery)
    if text not in allowed:
        raise not_one_of(text, "what becomes of a trial on battery", allowed)
    return OnBattery(text)


def _parse_vendor(text: str) -> str:
    vendor = text.lower()
    if vendor not in GPU_VENDORS and not vendor.startswith("0x"):
        raise not_one_of(text, "a GPU vendor", GPU_VENDORS, also="or a PCI vendor id such as 0x1002")
    return vendor


TITLE = Reads(_parse_title, {"type": ["string", "number"], "pattern": "^[A-Za-z0-9._-]{1,80}$"})
ON_BATTERY = Reads(_parse_on_battery, {"enum": [each.value for each in OnBattery]})
ROUNDS = Reads(_parse_rounds, {"enum": [each.value for each in Rounds]})
STOP = Reads(_parse_stop, {"enum": list(STOPS)})
VENDOR = Reads(_parse_vendor, ANY_TEXT)
Labels = dict[str, Annotated[str, TEXT]]
Names = Annotated[tuple[str, ...], Several(NAME)]
Vendors = Annotated[tuple[str, ...], Several(VENDOR)]


class DevicesSpec(Door):
    ids: Names = Field(default_factory=tuple, description="Device ids; any of them")
    names: Names = Field(default_factory=tuple, description="Device names, * and ? as in file names; any of them")
    labels: Labels = Field(default_factory=dict, description="Labels that a device must have, all of them")
    min_ram: Annotated[int | None, SIZE] = Field(
        default=None, description="Least RAM as the device's system sees it, without what the firmware gives to the GPU"
    )
    min_vram: Annotated[int | None, SIZE] = Field(
        default=None, description="Least memory of the GPU; on unified memory all of the RAM counts"
    )
    gpu_vendor: Vendors = Field(
        default_factory=tuple, description="amd, nvidia, intel, apple or a PCI vendor id; any of them"
    )


class SamplingSpec(Door):
    seed: Annotated[int, whole(0, 2**32 - 1)] = Field(
        default=0, description="Seed of the sampler and of random prompts"
    )
    temperature: Annotated[float, decimal(0, 10)] = Field(default=0.0, description="0 takes the likeliest token")
    top_k: Annotated[int | None, whole(0, 10**6)] = Field(
        default=None, description="Sample from the k likeliest tokens"
    )
    top_p: Annotated[float | None, decimal(0, 1)] = Field(
        default=None, description="Sample from the likeliest tokens that together reach p"
    )
    min_p: Annotated[float | None, decimal(0, 1)] = Field(
        default=None, description="Least probability, as a part of the likeliest token's"
    )
    repeat_penalty: Annotated[float | None, decimal(0, 10)] = Field(
        default=None, description="Penalty for repeated tokens; 1 is none"
    )

    def sampling(self) -> Sampling:
        return Sampling(self.seed, self.temperature, self.top_k, self.top_p, self.min_p, self.repeat_penalty)


class ChatSpec(SamplingSpec):
    prompt: Annotated[str | None, PROMPT] = Field(default=None, description="The user's message")
    prompt_file: MaybeName = Field(default=None, description="UTF-8 file with the message; relative to the matrix file")
    system: Annotated[str | None, PROMPT] = Field(default=None, description="System message")
    image: MaybeName = Field(default=None, description="PNG, JPEG or WebP with it; relative to the matrix file")
    max_tokens: Annotated[int, tokens(1)] = Field(description="Most tokens to generate; with stop: exact, the number")
    stop: Annotated[Stop, STOP] = Field(
        default=Stop.NATURAL,
        description="natural: at the model's end of text or at max_tokens; exact: after max_tokens, whatever comes",
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.prompt_file is None):
            raise BadValue("a chat takes either prompt or prompt_file")
        return self


class SyntheticSpec(SamplingSpec):
    prompt_tokens: Annotated[int, tokens(0)] = Field(default=0, description="Random prompt tokens, measured")
    generate_tokens: Annotated[int, tokens(0)] = Field(default=0, description="Tokens to generate, exactly")
    depth: Annotated[int, tokens(0)] = Field(default=0, description="Tokens in the KV cache before the measured ones")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.prompt_tokens and not self.generate_tokens:
            raise BadValue("nothing to measure. Allowed: prompt_tokens or generate_tokens above 0, or both")
        return self


def _parse_node_input(text: str) -> tuple[str, str]:
    node, dot, name = text.strip().partition(".")
    if not (node and dot and name):
        raise BadValue(f"{quoted(text)} is not an input of a node. Allowed: NODE.INPUT, such as 5.steps")
    return node, name


_NODE_INPUT = Reads(_parse_node_input, {"type": ["string", "number"], "pattern": r"^[^.]+\..+$"})
NodeInputs = Annotated[tuple[tuple[str, str], ...], Several(_NODE_INPUT)]


class NodeInputsSpec(Door):
    seed: NodeInputs = Field(default_factory=tuple, description="Else every input seed and noise_seed")
    steps: NodeInputs = Field(default_factory=tuple, description="Else every input steps")
    width: NodeInputs = Field(default_factory=tuple, description="Else in every node with width, height, batch_size")
    height: NodeInputs = Field(default_factory=tuple, description="Else in every node with width, height, batch_size")
    batch: NodeInputs = Field(default_factory=tuple, description="Else every batch_size beside a width and a height")
    model: NodeInputs = Field(default_factory=tuple, description="Takes the name of the cell's model; else none does")


class WorkflowSpec(Door):
    workflow: Annotated[str, NAME] = Field(
        description="ComfyUI's graph in its API format (Workflow > Export (API)); relative to the matrix file"
    )
    images: Annotated[int | None, whole(1, 10_000)] = Field(
        default=None, description="Images that a run makes; else the batch"
    )
    seed: Annotated[int, whole(0, 2**32 - 1)] = Field(default=0, description="Seed; counted up from run to run")
    steps: Annotated[int | None, whole(1, 10_000)] = Field(default=None, description="Sampler steps; else the graph's")
    width: Annotated[int | None, whole(1, 100_000)] = Field(default=None, description="Pixels; else the graph's")
    height: Annotated[int | None, whole(1, 100_000)] = Field(default=None, description="Pixels; else the graph's")
    batch: Annotated[int | None, whole(1, 10_000)] = Field(
        default=None, description="Images made at once; else the graph's"
    )
    inputs: NodeInputsSpec = Field(
        default_factory=NodeInputsSpec, description="Which inputs of nodes (NODE.INPUT) take them"
    )


def kind_of_workload(raw: Any) -> str:
    if isinstance(raw, dict) and "workflow" in raw:
        return "<workflow>"
    synthetic = isinstance(raw, dict) and any(key in raw for key in ("prompt_tokens", "generate_tokens", "depth"))
    return "<synthetic>" if synthetic else "<chat>"


WorkloadSpec = Annotated[
    Annotated[ChatSpec, Tag("<chat>")]
    | Annotated[SyntheticSpec, Tag("<synthetic>")]
    | Annotated[WorkflowSpec, Tag("<workflow>")],
    Discriminator(kind_of_workload),
]


class MeasureSpec(Door):
    repeats: Annotated[int, whole(1, 10_000)] = Field(default=3, description="Measured runs of each cell")
    warmups: Annotated[int, whole(0, 1_000)] = Field(default=1, description="Runs before them that are kept apart")
    seed: Annotated[int, whole(0, 2**32 - 1)] = Field(default=1, description="Seed of the order of the runs")
    keep_output: Annotated[bool, SWITCH] = Field(
        default=False, description="Keep the generated text, not only its hash"
    )
    rounds: Annotated[Rounds, ROUNDS] = Field(
        default=Rounds.LOADED,
        description="A round of repeats goes through the cells of one loaded engine (loaded: fewest loads), or through"
        " all cells of a machine state (state: more loads, a drift over hours is spread over all cells)",
    )
    canary: Annotated[bool, SWITCH] = Field(
        default=False,
        description="Run a fixed short cell before, between and after the others: its drift tells that of the device",
    )
    quiet: Annotated[bool, SWITCH] = Field(
        default=True,
        description="Wait, at most 30 s, until nobody else uses CPU or GPU, and flag a trial that others disturbed",
    )
    again: Annotated[int, whole(0, 100)] = Field(
        default=2,
        description="Most further runs of a cell's repeat, each where the one before was flagged for what may pass:"
        " disturbed, throttled, swapped, a clock that jumped",
    )
    on_battery: Annotated[OnBattery, ON_BATTERY] = Field(
        default=OnBattery.FLAG, description="A trial on battery is flagged, or is as good as on mains (allow)"
    )
    cool_down: Annotated[float | None, SECONDS] = Field(
        default=None, description="Longest wait before a run until the device is as cool as when idle; none by default"
    )


_times = Timeouts()


class TimeoutsSpec(Door):
    load: Annotated[float, SECONDS] = Field(default=_times.load_s, description="For loading the model")
    first_token: Annotated[float, SECONDS] = Field(
        default=_times.first_token_s, description="From the request to its first token"
    )
    trial: Annotated[float, SECONDS] = Field(default=_times.trial_s, description="For a whole request")


class MatrixSpec(Door):
    name: Annotated[str | None, TITLE] = Field(default=None, description="Name of the matrix; else the file's name")
    question: Annotated[str | None, TEXT] = Field(
        default=None, description="The question that the matrix answers, in words"
    )
    devices: DevicesSpec = Field(
        default_factory=DevicesSpec, description="Devices to run on; every device where none is named"
    )
    models: dict[str, ModelSpec] = Field(
        default_factory=dict, description="Names for the table, and where the models' files come from"
    )
    workloads: dict[str, WorkloadSpec] = Field(
        default_factory=dict, description="Chats, pictures, random tokens and image workflows, by name"
    )
    defaults: DefaultsSpec = Field(default_factory=DefaultsSpec, description="One value an axis, for all cells")
    axes: AxesSpec = Field(default_factory=AxesSpec, description="Values of each axis; the cells are their product")
    zip: list[AxesSpec] = Field(
        default_factory=list, description="Groups of axes whose lists go together; groups multiply"
    )
    include: list[AxesSpec] = Field(
        default_factory=list, description="Further cells over the defaults; lists in one entry multiply"
    )
    exclude: list[AxesSpec] = Field(
        default_factory=list, description="Cells of the product to leave out: those that match every key of an entry"
    )
    measure: MeasureSpec = Field(default_factory=MeasureSpec, description="How often each cell is measured")
    timeouts: TimeoutsSpec = Field(default_factory=TimeoutsSpec, description="How long a step may take")


_SECTIONS: tuple[tuple[tuple[str, ...], type[BaseModel]], ...] = (
    ((), MatrixSpec),
    (("devices",), DevicesSpec),
    (("models", "*"), ModelSpec),
    (("models", "*", "names"), EngineNamesSpec),
    (("measure",), MeasureSpec),
    (("timeouts",), TimeoutsSpec),
    (("workloads", "*", "<chat>"), ChatSpec),
    (("workloads", "*", "<synthetic>"), SyntheticSpec),
    (("workloads", "*", "<workflow>"), WorkflowSpec),
    (("workloads", "*", "inputs"), NodeInputsSpec),
)


def allowed_keys(steps: tuple[str | int, ...], raw: Any) -> tuple[str, ...]:
    """The keys that a mapping at ``steps`` takes; ``raw`` is that mapping."""
    if steps[:1] == ("workloads",) and len(steps) == 2:
        steps = (*steps, kind_of_workload(raw))
    for place, model in _SECTIONS:
        if len(place) == len(steps) and all(part in ("*", step) for part, step in zip(place, steps, strict=True)):
            return tuple(model.model_fields)
    is_row = len(steps) == 2 and steps[0] in ("zip", "include", "exclude")
    return tuple(axis.name for axis in AXES) if is_row or len(steps) == 1 else range_keys()
