"""The sections of the matrix file: pydantic models, every key named, no key more; and their JSON Schema. PURE

A file comes in as texts, lists and mappings (``yaml_tree.py``); each text is read by the parser of the key that it
stands under. The JSON Schema (draft 2020-12, for editors) is made from these same models. An editor sees YAML 1.2
types, so a value is described as number, boolean or text as it may be written. What only the program can check (units
that come out whole, names, files, lengths) is not in it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, Field, Tag

from agents.contract.job import Timeouts
from orchestrator.matrix.axes import ALIASES, AXES
from orchestrator.matrix.axis_sections import AxesSpec, DefaultsSpec, range_keys
from orchestrator.matrix.matrix import OnBattery, Rounds
from orchestrator.matrix.models import EngineNamesSpec, ModelSpec
from orchestrator.matrix.parsers import (
    ANY_TEXT,
    NAME,
    SECONDS,
    SIZE,
    SWITCH,
    TEXT,
    Parsed,
    ParsedList,
    Section,
    whole,
)
from orchestrator.matrix.problems import BadValue, not_one_of, quoted
from orchestrator.matrix.workflows import NodeInputsSpec, WorkflowSpec
from orchestrator.matrix.workloads import ChatSpec, SyntheticSpec

GPU_VENDORS = ("amd", "nvidia", "intel", "apple")


def _parse_title(text: str) -> str:
    bare = text.translate(str.maketrans("-_.", "aaa"))
    if len(text) > 80 or not bare.isascii() or not bare.isalnum():
        raise BadValue(f"{quoted(text)} is not a name. Allowed: ASCII letters, digits, - _ and ., at most 80")
    return text


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


TITLE = Parsed(_parse_title, {"type": ["string", "number"], "pattern": "^[A-Za-z0-9._-]{1,80}$"})
ON_BATTERY = Parsed(_parse_on_battery, {"enum": [each.value for each in OnBattery]})
ROUNDS = Parsed(_parse_rounds, {"enum": [each.value for each in Rounds]})
VENDOR = Parsed(_parse_vendor, ANY_TEXT)
Labels = dict[str, Annotated[str, TEXT]]
Names = Annotated[tuple[str, ...], ParsedList(NAME)]
Vendors = Annotated[tuple[str, ...], ParsedList(VENDOR)]


class DevicesSpec(Section):
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
    away_after: Annotated[float | None, SECONDS] = Field(
        default=None,
        description="A device that is away for so long is skipped: its jobs become rows with the cause device_lost."
        " Without it the run waits until its operator skips it: `orchestrate skip DEVICE`",
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


class MeasureSpec(Section):
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


class TimeoutsSpec(Section):
    load: Annotated[float, SECONDS] = Field(default=_times.load_s, description="For loading the model")
    first_token: Annotated[float, SECONDS] = Field(
        default=_times.first_token_s, description="From the request to its first token"
    )
    trial: Annotated[float, SECONDS] = Field(default=_times.trial_s, description="For a whole request")


class MatrixSpec(Section):
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


def json_schema() -> dict[str, Any]:
    schema = MatrixSpec.model_json_schema(by_alias=True)
    _plain_defaults(schema)
    for section in ("DefaultsSpec", "AxesSpec"):
        properties = schema["$defs"][section]["properties"]
        for alias, name in ALIASES.items():
            properties[alias] = {**properties[name], "description": f"The same as {name}"}
    schema["patternProperties"] = {"^x-": {"description": "A place for anchors; not read"}}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Orchestrate matrix",
        "description": "A benchmark matrix: what to measure on which devices. K of tokens is 1,024; MiB and GiB,"
        " M and G are powers of 1,024; MB and GB of 1,000.",
    }
    return {**schema, **head}


def _plain_defaults(schema: Any) -> None:
    """Takes out what only says None or repeats a model: an editor would offer it as text."""
    if isinstance(schema, dict):
        schema.pop("title", None) if isinstance(schema.get("title"), str) else None
        if "default" in schema and not isinstance(schema["default"], (int, float, str)):
            del schema["default"]
        for part in schema.values():
            _plain_defaults(part)
    elif isinstance(schema, list):
        for part in schema:
            _plain_defaults(part)
