"""The matrix file at the door: pydantic models, every key named, no key more. PURE

A file comes in as texts, lists and mappings (``tree.py``); each text is read by the parser of the key that it
stands under. A section that is wrong is reported and left out, so that the rest is still checked: all errors
come at once. The JSON Schema for editors is made from these same models (``schema.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
    create_model,
    model_validator,
)

from agents.contract.job import Sampling, Stop, Timeouts
from orchestrator.matrix import units
from orchestrator.matrix.axes import ALIASES, AXES, ENGINES, HF, Axis, Value, parse_name
from orchestrator.matrix.problems import BadValue, not_one_of, quoted
from orchestrator.matrix.ranges import range_values

GPU_VENDORS = ("amd", "nvidia", "intel", "apple")


class Door(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def scalar(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """``parse`` for a text; says so where a list, a mapping or nothing stands."""

    def read(raw: Any) -> Any:
        if isinstance(raw, str):
            return parse(raw)
        raise BadValue(f"one value belongs here, but {stands_here(raw)}")

    return read


def stands_here(raw: Any) -> str:
    if raw is None:
        return "nothing stands here"
    return "a list stands here" if isinstance(raw, list) else "a mapping stands here"


def _key(parse: Callable[[str], Any], schema: dict[str, Any]) -> Any:
    return Annotated[Any, PlainValidator(scalar(parse)), WithJsonSchema(schema)]


def _listed(raw: Any) -> Any:
    return raw if isinstance(raw, list) else [raw]


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise BadValue("the list is empty; at least one value belongs here")
    return values


def _several(parse: Callable[[str], Any], schema: dict[str, Any]) -> Any:
    """A tuple from a list or from one value."""
    return Annotated[
        tuple[_key(parse, schema), ...],
        BeforeValidator(_listed),
        AfterValidator(_some),
        WithJsonSchema({"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]}),
    ]


_TEXT_SCHEMA = {"type": "string"}
_SWITCH_SCHEMA = {"type": ["boolean", "string"], "pattern": units.SWITCH_PATTERN}


def _whole(least: int, most: int) -> Any:
    schema = {"type": ["integer", "string"], "minimum": least, "maximum": most, "pattern": units.WHOLE_PATTERN}
    return _key(lambda text: units.parse_whole(text, least, most), schema)


def _decimal(least: float, most: float) -> Any:
    schema = {"type": ["number", "string"], "minimum": least, "maximum": most}
    return _key(lambda text: units.parse_decimal(text, least, most), schema)


def _tokens(least: int) -> Any:
    schema = {"type": ["integer", "string"], "minimum": least, "pattern": units.TOKENS_PATTERN}
    return _key(lambda text: units.parse_tokens(text, least), schema)


def _parse_title(text: str) -> str:
    if len(text) > 80 or not text.isascii() or not text.replace("-", "a").replace("_", "a").replace(".", "a").isalnum():
        raise BadValue(f"{quoted(text)} is not a name. Allowed: ASCII letters, digits, - _ and ., at most 80")
    return text


def _parse_repo(text: str) -> str:
    if text.count("/") != 1 or not HF.fullmatch(f"hf:{text}"):
        raise BadValue(f"{quoted(text)} is not a Hugging Face repository. Allowed: OWNER/REPO")
    return text


def _parse_stop(text: str) -> Stop:
    if text not in (words := [stop.value for stop in Stop]):
        raise not_one_of(text, "a way to stop", words)
    return Stop(text)


def _parse_prompt(text: str) -> str:
    if not text.strip():
        raise BadValue("the text is empty")
    return text


def _parse_vendor(text: str) -> str:
    vendor = text.lower()
    if vendor not in GPU_VENDORS and not vendor.startswith("0x"):
        raise not_one_of(text, "a GPU vendor", GPU_VENDORS, also="or a PCI vendor id such as 0x1002")
    return vendor


Text = _key(lambda text: text, _TEXT_SCHEMA)
Name = _key(parse_name, {"type": "string", "minLength": 1})
Prompt = _key(_parse_prompt, {"type": "string", "minLength": 1})
Switch = _key(units.parse_switch, _SWITCH_SCHEMA)
Size = _key(units.parse_bytes, {"type": ["integer", "string"], "pattern": units.BYTES_PATTERN, "maximum": 0})
Seconds = _key(units.parse_seconds, {"type": "string", "pattern": units.SECONDS_PATTERN, "minLength": 2})
Title = _key(_parse_title, {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,80}$"})
Labels = Annotated[dict[str, Text], WithJsonSchema({"type": "object", "additionalProperties": _TEXT_SCHEMA})]


class DevicesSpec(Door):
    ids: _several(parse_name, _TEXT_SCHEMA) = Field((), description="Device ids; any of them")  # type: ignore[valid-type]
    names: _several(parse_name, _TEXT_SCHEMA) = Field(  # type: ignore[valid-type]
        (), description="Device names, * and ? as in file names; any of them"
    )
    labels: Labels = Field({}, description="Labels that a device must have, all of them")
    min_ram: Size = Field(None, description="Least RAM as the device's system sees it, without what the GPU holds")
    min_vram: Size = Field(None, description="Least memory of the GPU; on unified memory the RAM counts")
    gpu_vendor: _several(_parse_vendor, _TEXT_SCHEMA) = Field(  # type: ignore[valid-type]
        (), description="amd, nvidia, intel, apple or a PCI vendor id; any of them"
    )


_EngineNames = create_model(
    "EngineNames", __base__=Door, **{name: (Name, Field(None, description=f"Name in {name}")) for name in ENGINES}
)


class ModelSpec(Door):
    hf: _key(_parse_repo, _TEXT_SCHEMA) = Field(None, description="Hugging Face repository OWNER/REPO")  # type: ignore[valid-type]
    revision: Name = Field(None, description="Branch, tag or commit of the repository")
    file: Name = Field(None, description="File in the repository, or a glob; {quantisation} stands for the cell's")
    path: Name = Field(None, description="File on the device; {quantisation} stands for the cell's")
    tiny: Name = Field(None, description="Architecture of a tiny model made on the device: llama, qwen3moe ...")
    mmproj: Name = Field(None, description="Vision projector: file in the repository (or a glob), or a path")
    names: _EngineNames | None = Field(None, description="What single engines call the model")  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("hf", "path", "tiny") if getattr(self, key) is not None]
        if len(given) > 1:
            raise BadValue(f"{' and '.join(given)} both say where the model comes from. Allowed: one of hf, path, tiny")
        if not given and not self.engine_names():
            raise BadValue("nothing says where the model comes from. Allowed: hf, path, tiny, or names of engines")
        if "hf" not in given and (self.file or self.revision):
            raise BadValue("file and revision belong to hf, which is not given")
        return self

    def engine_names(self) -> tuple[tuple[str, str], ...]:
        pairs = ((name, getattr(self.names, name, None)) for name in ENGINES)
        return tuple((name, called) for name, called in pairs if called is not None)


class SamplingSpec(Door):
    seed: _whole(0, 2**32 - 1) = Field(0, description="Seed of the sampler, and of random prompts")  # type: ignore[valid-type]
    temperature: _decimal(0, 10) = Field(0.0, description="0 takes the likeliest token")  # type: ignore[valid-type]
    top_k: _whole(0, 10**6) = Field(None, description="Sample from the k likeliest tokens")  # type: ignore[valid-type]
    top_p: _decimal(0, 1) = Field(None, description="Sample from the likeliest tokens that sum up to p")  # type: ignore[valid-type]
    min_p: _decimal(0, 1) = Field(None, description="Least probability, relative to the likeliest")  # type: ignore[valid-type]
    repeat_penalty: _decimal(0, 10) = Field(None, description="Penalty for repeated tokens; 1 is none")  # type: ignore[valid-type]

    def sampling(self) -> Sampling:
        return Sampling(self.seed, self.temperature, self.top_k, self.top_p, self.min_p, self.repeat_penalty)


class ChatSpec(SamplingSpec):
    prompt: Prompt = Field(None, description="The user's message")
    prompt_file: Name = Field(None, description="UTF-8 file with the message; relative to the matrix file")
    system: Prompt = Field(None, description="System message")
    image: Name = Field(None, description="PNG, JPEG or WebP that goes with the prompt; relative to the matrix file")
    max_tokens: _tokens(1) = Field(description="Most tokens to generate; with stop: exact the number")  # type: ignore[valid-type]
    stop: _key(_parse_stop, {"enum": ["natural", "exact"]}) = Field(  # type: ignore[valid-type]
        Stop.NATURAL, description="natural: at the model's end of text or at max_tokens; exact: after max_tokens"
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.prompt_file is None):
            raise BadValue("a chat takes either prompt or prompt_file")
        return self


class SyntheticSpec(SamplingSpec):
    prompt_tokens: _tokens(0) = Field(0, description="Random prompt tokens, measured")  # type: ignore[valid-type]
    generate_tokens: _tokens(0) = Field(0, description="Tokens to generate, exactly")  # type: ignore[valid-type]
    depth: _tokens(0) = Field(0, description="Tokens in the KV cache before what is measured")  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.prompt_tokens and not self.generate_tokens:
            raise BadValue("nothing to measure. Allowed: prompt_tokens or generate_tokens above 0, or both")
        return self


def kind_of_workload(raw: Any) -> str:
    synthetic = isinstance(raw, dict) and any(key in raw for key in ("prompt_tokens", "generate_tokens", "depth"))
    return "<synthetic>" if synthetic else "<chat>"


WorkloadSpec = Annotated[
    Annotated[ChatSpec, Tag("<chat>")] | Annotated[SyntheticSpec, Tag("<synthetic>")], Discriminator(kind_of_workload)
]


class MeasureSpec(Door):
    repeats: _whole(1, 10_000) = Field(3, description="Measured runs of each cell")  # type: ignore[valid-type]
    warmups: _whole(0, 1_000) = Field(1, description="Runs before them that are kept apart")  # type: ignore[valid-type]
    seed: _whole(0, 2**32 - 1) = Field(1, description="Seed of the order of the runs")  # type: ignore[valid-type]
    keep_output: Switch = Field(False, description="Keep the generated text, not only its hash")


class TimeoutsSpec(Door):
    load: Seconds = Field(Timeouts.load_s, description="For loading the model")
    first_token: Seconds = Field(Timeouts.first_token_s, description="From the request to its first token")
    trial: Seconds = Field(Timeouts.trial_s, description="For a whole request")


# ---- the sections made of axes: a key for each axis ----


class _AxisSection(Door):
    @model_validator(mode="before")
    @classmethod
    def _rename_aliases(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        for alias, name in ALIASES.items():
            if alias in raw and name in raw:
                raise BadValue(f"{alias} and {name} are the same axis; one of them belongs here")
        return {ALIASES.get(key, key): value for key, value in raw.items()}

    def given(self, keys: Iterable[str]) -> dict[str, Any]:
        """The axes that were given, in the order of ``keys``: the section's keys as they stand in the file."""
        names = (ALIASES.get(key, key) for key in keys)
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


def _value(axis: Axis) -> Any:
    return _key(axis.parse, axis.schema)


def _kind_of_item(axis: Axis) -> Callable[[Any], str]:
    return lambda raw: "<range>" if axis.ranged and isinstance(raw, dict) else "<one>"


def range_keys() -> tuple[str, ...]:
    return ("from", "to", "step", "factor")


def _range(axis: Axis) -> Any:
    value = _value(axis)
    return create_model(
        f"{axis.name}_range",
        __base__=Door,
        first=(value, Field(alias="from")),
        last=(value, Field(alias="to")),
        step=(value, None),
        factor=(Text, None),
    )


def _item(axis: Axis) -> Any:
    one = Annotated[_value(axis), AfterValidator(lambda value: (value,))]
    if not axis.ranged:
        return one

    def values(found: Any) -> tuple[Value, ...]:
        return range_values(axis, found.first, found.last, found.step, found.factor)

    a_range = Annotated[_range(axis), AfterValidator(values)]
    return Annotated[
        Annotated[one, Tag("<one>")] | Annotated[a_range, Tag("<range>")], Discriminator(_kind_of_item(axis))
    ]


def _range_schema(axis: Axis) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "from": {**axis.schema, "description": "First value"},
            "to": {**axis.schema, "description": "Last value, if a step hits it"},
            "step": {**axis.schema, "description": "Added each time"},
            "factor": {"type": ["number", "string"], "exclusiveMinimum": 1, "description": "Multiplied each time"},
        },
        "required": ["from", "to"],
        "oneOf": [{"required": ["step"]}, {"required": ["factor"]}],
        "additionalProperties": False,
    }


def _values(axis: Axis) -> Any:
    """A scalar, a list, a range, or a list of both -> a tuple of values."""
    shapes = [axis.schema, _range_schema(axis)] if axis.ranged else [axis.schema]
    return Annotated[
        tuple[_item(axis), ...],
        BeforeValidator(_listed),
        AfterValidator(lambda items: _some(tuple(value for item in items for value in item))),
        WithJsonSchema({"anyOf": [*shapes, {"type": "array", "items": {"anyOf": shapes}, "minItems": 1}]}),
    ]


_ONE: dict[str, Any] = {axis.name: (_value(axis), Field(None, description=axis.help)) for axis in AXES}
_MANY: dict[str, Any] = {axis.name: (_values(axis), Field(None, description=axis.help)) for axis in AXES}
DefaultsSpec: Any = create_model("DefaultsSpec", __base__=_AxisSection, **_ONE)
AxesSpec: Any = create_model("AxesSpec", __base__=_AxisSection, **_MANY)


class MatrixSpec(Door):
    name: Title = Field(None, description="Name of the matrix; the file's name where none is given")
    question: Text = Field(None, description="The question that the matrix answers, in words")
    devices: DevicesSpec = Field(DevicesSpec(), description="Devices that the matrix runs on; all where none are named")
    models: dict[str, ModelSpec] = Field({}, description="Names for the table, and where the models' files come from")
    workloads: dict[str, WorkloadSpec] = Field({}, description="Named workloads: a chat, an image, random tokens")
    defaults: DefaultsSpec = Field(DefaultsSpec(), description="One value an axis, for all cells")
    axes: AxesSpec = Field(AxesSpec(), description="Values of each axis; cells are their product")
    zip: list[AxesSpec] = Field([], description="Groups of axes whose lists go together; groups multiply")
    include: list[AxesSpec] = Field([], description="Further cells over the defaults; lists in one entry multiply")
    exclude: list[AxesSpec] = Field([], description="Cells of the product to leave out: all keys of an entry match")
    measure: MeasureSpec = Field(MeasureSpec(), description="How often each cell is measured")
    timeouts: TimeoutsSpec = Field(TimeoutsSpec(), description="How long a step may take")


def allowed_keys(steps: tuple[str | int, ...], raw: Any) -> tuple[str, ...]:
    """The keys that a mapping at ``steps`` takes; ``raw`` is that mapping."""
    match steps:
        case ():
            return tuple(MatrixSpec.model_fields)
        case ("devices",):
            return tuple(DevicesSpec.model_fields)
        case ("models", _):
            return tuple(ModelSpec.model_fields)
        case ("models", _, "names"):
            return ENGINES
        case ("workloads", _):
            kind: type[BaseModel] = SyntheticSpec if kind_of_workload(raw) == "<synthetic>" else ChatSpec
            return tuple(kind.model_fields)
        case ("measure",):
            return tuple(MeasureSpec.model_fields)
        case ("timeouts",):
            return tuple(TimeoutsSpec.model_fields)
        case ("defaults" | "axes",) | ("zip" | "include" | "exclude", _):
            return tuple(axis.name for axis in AXES)
        case _:
            return range_keys()
