"""The result tables: every column with its type, unit and definition. PURE

Columns of the contract's dataclasses come from their field metadata, so a new setting is a column by itself.
``trials`` has one row for each request (warm-ups too), and one for each attempt that failed or was refused.
A file of one attempt holds ``trials`` with the nested columns ``tokens``, ``steps``, ``readings``; ``load`` flattens.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from agents.contract.job import LoadSettings, MachineState
from agents.contract.measure import EngineTimings, ImageExecution
from agents.contract.report import Loaded, MachineSeen
from agents.contract.usage import Energy, Usage
from orchestrator.errors import UsageError
from orchestrator.matrix.problems import nearest, quoted

SCHEMA_VERSION = 1
"""Counts up when a column changes its meaning, name or type; a column that is only added needs no new number."""

VERSION_KEY = b"orchestrate.schema_version"
TABLE_KEY = b"orchestrate.table"
TABLES = ("trials", "tokens", "steps", "readings", "devices")

_TIME = pa.timestamp("us", tz="UTC")
_PAIRS = pa.map_(pa.string(), pa.string())


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: pa.DataType
    definition: str
    unit: str = ""

    def field(self) -> pa.Field[Any]:
        return pa.field(self.name, self.type, metadata={"unit": self.unit, "definition": self.definition})


def _plain(annotation: Any) -> Any:
    """``int | None`` -> ``int``."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not type(None))
    return annotation


def _arrow_type(annotation: Any) -> pa.DataType:
    kind = _plain(annotation)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return pa.string()
    types_of: dict[Any, pa.DataType] = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return types_of[kind]


def contract_columns(kind: type, prefix: str = "") -> tuple[Column, ...]:
    """The fields of a contract dataclass that were declared with ``column(...)``, in their order."""
    hints = get_type_hints(kind)
    return tuple(
        Column(prefix + each.name, _arrow_type(hints[each.name]), each.metadata["definition"], each.metadata["unit"])
        for each in dataclasses.fields(kind)
        if "definition" in each.metadata
    )


KEYS = (
    Column("run", pa.string(), "Run that the job belongs to"),
    Column("job_id", pa.string(), "One cell on one device, once; the same after a restart"),
    Column("attempt", pa.int64(), "Which sending of the job, from 1; the highest counts"),
    Column("trial", pa.int64(), "Index of the request in the attempt, from 0; null where the row is a failure"),
    Column("warmup", pa.bool_(), "The request was a warm-up: kept, never compared"),
)

OUTCOME = (
    Column("cell_id", pa.string(), "Hash of the cell's values, free of device and repeat"),
    Column("repeat", pa.int64(), "Which repetition of the cell, from 0; of the canary, from 10,000"),
    Column("canary", pa.bool_(), "The fixed short cell that shows the drift of the device; in no comparison"),
    Column("status", pa.string(), "ok, failed, refused; in published figures also estimate_only and not_measured"),
    Column("cause", pa.string(), "Why there is no figure: a value of agents.contract.report.Cause"),
    Column("detail", pa.string(), "What happened, in the engine's or the agent's own words"),
    Column("log_tail", pa.string(), "Last lines of the engine's log, where the attempt failed"),
    Column("log_path", pa.string(), "Engine's log, relative to the run's folder"),
    Column("origin", pa.string(), "measured (by Orchestrate), published (by someone else), imported"),
    Column("note", pa.string(), "A person's remark on a published or imported figure"),
    Column("device_id", pa.string(), "UUID of the device, the same across reboots and addresses"),
    Column("device", pa.string(), "Name of the device"),
    Column("fingerprint", pa.string(), "Hash of all that can change a figure on the device; joins the table devices"),
    Column("boot_id", pa.string(), "Which boot of the device"),
    Column("started_at", _TIME, "Start of the attempt on the device's wall clock, for ordering by eye only", "UTC"),
    Column("ended_at", _TIME, "End of the attempt on the device's wall clock", "UTC"),
    Column("attempt_duration_s", pa.float64(), "Length of the attempt on the device's monotonic clock", "s"),
    Column(
        "wall_time_wrong",
        pa.bool_(),
        "Start and end cannot be: the wall clock was set, or the machine slept, during the attempt. Its durations hold",
    ),
    Column("orchestrate_version", pa.string(), "Version of Orchestrate that wrote the row"),
)

WORKLOAD = (
    Column("workload", pa.string(), "Name of the workload in the matrix"),
    Column("workload_kind", pa.string(), "chat, synthetic or workflow"),
    Column("prompt_tokens_asked", pa.int64(), "Length of a synthetic prompt, asked for", "tokens"),
    Column("max_tokens", pa.int64(), "Most tokens to generate; with stop = exact, exactly so many", "tokens"),
    Column("depth", pa.int64(), "Tokens in the KV cache before what is measured begins, asked for", "tokens"),
    Column("stop", pa.string(), "When a generation ends: natural (end of text or max_tokens) or exact"),
    Column("prompt_sha256", pa.string(), "SHA-256 of the chat prompt, system prompt and image, to tell equal ones"),
    Column("image", pa.string(), "Name of the image that goes with the prompt"),
    Column(
        "image_width_px",
        pa.int64(),
        "Width of the image with the prompt, or of those that a workflow makes, asked for",
        "px",
    ),
    Column("image_height_px", pa.int64(), "Height of it", "px"),
    Column("workflow_sha256", pa.string(), "SHA-256 of a workflow's graph, to tell equal ones"),
    Column("images_asked", pa.int64(), "Images that a run of the workflow is to make"),
    Column("steps_asked", pa.int64(), "Sampler steps asked for; null leaves what the graph has"),
    Column("batch_asked", pa.int64(), "Images made at once, asked for; null leaves what the graph has"),
    Column("seed", pa.int64(), "Seed of the sampling"),
    Column("temperature", pa.float64(), "Sampling temperature; 0 takes the likeliest token"),
    Column("top_k", pa.int64(), "Sampling: so many likeliest tokens; null leaves it to the engine"),
    Column("top_p", pa.float64(), "Sampling: least share of probability; null leaves it to the engine"),
    Column("min_p", pa.float64(), "Sampling: least probability beside the likeliest; null leaves it to the engine"),
    Column("repeat_penalty", pa.float64(), "Sampling: penalty on repetition; null leaves it to the engine"),
    Column("load_timeout_s", pa.float64(), "Time allowed for loading", "s"),
    Column("first_token_timeout_s", pa.float64(), "Time allowed for the first token, from the sending", "s"),
    Column("trial_timeout_s", pa.float64(), "Time allowed for the whole trial", "s"),
)

SETTINGS = (
    *contract_columns(LoadSettings),
    Column("model_source", pa.string(), "Where the model's files come from: path:, hf:REPO@REVISION/FILE, url:, tiny:"),
    *contract_columns(MachineState),
    *contract_columns(MachineSeen),
)

LOADED = (
    *contract_columns(Loaded),
    Column("settings", _PAIRS, "Exact settings handed to the engine"),
)

MEASURED = (
    Column("sent_at", _TIME, "Sending of the request on the device's wall clock", "UTC"),
    Column("sent_s", pa.float64(), "Sending of the request, from the start of the job: the clock of `readings`", "s"),
    Column("ttft_s", pa.float64(), "Time to first token: request sent to first generated token, reasoning too", "s"),
    Column(
        "prompt_tps",
        pa.float64(),
        "Prompt rate: prompt tokens computed / the engine's own time for the prompt; null where it reports none",
        "tokens/s",
    ),
    Column("decode_tps", pa.float64(), "Decode rate: (n - 1) / (last token - first token) at the client", "tokens/s"),
    Column(
        "seconds_per_image", pa.float64(), "Workflow sent to its success received / the images that it made", "s/image"
    ),
    Column(
        "iteration_rate",
        pa.float64(),
        "Sampler steps a second: (n - 1) / (last step - first step) at the client, over all samplers",
        "iterations/s",
    ),
    Column("prompt_tokens", pa.int64(), "Prompt tokens by the engine's usage", "tokens"),
    Column("completion_tokens", pa.int64(), "Tokens generated, reasoning included", "tokens"),
    Column("reasoning_tokens", pa.int64(), "Generated tokens that were reasoning", "tokens"),
    Column("image_tokens", pa.int64(), "Prompt tokens of the image, where the text's are reported too", "tokens"),
    Column("stop_reason", pa.string(), "Why a generation of text ended: end, length, context_full, unknown"),
    Column("duration_s", pa.float64(), "Request sent to end of the response", "s"),
    Column("flags", pa.list_(pa.string()), "Why the trial should be doubted: values of agents.contract.measure.Flag"),
    Column("output_sha256", pa.string(), "SHA-256 of the generated text"),
    Column("output", pa.string(), "Generated text, where the matrix asks to keep it"),
    *contract_columns(EngineTimings, prefix="engine_"),
    *contract_columns(ImageExecution),
    Column("memory_used_bytes", pa.int64(), "Memory in use while the model was loaded, as published", "bytes"),
    Column("memory_estimate_bytes", pa.int64(), "Engine's own estimate before loading, as published", "bytes"),
)

USED = (*contract_columns(Usage), *contract_columns(Energy))
"""On the row of the measured trial, and on that of an attempt without one."""

TRIALS = (*KEYS, *OUTCOME, *WORKLOAD, *SETTINGS, *LOADED, *MEASURED, *USED)

ARRIVAL = (
    Column("at_s", pa.float64(), "Arrival at the client, from the request's sending", "s"),
    Column("read", pa.int64(), "Socket read that brought the event; equal numbers share one time stamp"),
    Column("tokens", pa.int64(), "Tokens in the event; null where the engine does not report it", "tokens"),
    Column("reasoning", pa.bool_(), "The event carried reasoning"),
)
TOKENS = (*KEYS, Column("event", pa.int64(), "Index of the streamed event in the trial, from 0"), *ARRIVAL)

STEP = (
    Column("at_s", pa.float64(), "Arrival of the step's message at the client, from the run's sending", "s"),
    Column("node", pa.string(), "Node of the graph: a sampler"),
    Column("done", pa.float64(), "Steps that it has done"),
    Column("of", pa.float64(), "Of so many"),
)
STEPS = (*KEYS, Column("event", pa.int64(), "Index of the message in the trial, from 0"), *STEP)

READING = (
    Column("at_s", pa.float64(), "Time on the device's monotonic clock, from the start of the job", "s"),
    Column("source", pa.string(), "Telemetry source"),
    Column("quantity", pa.string(), "What was read"),
    Column("value", pa.float64(), "The value, in `unit`"),
    Column("unit", pa.string(), "Unit of the value"),
)
READINGS = (*KEYS[:3], Column("device_id", pa.string(), "UUID of the device"), *READING)

_GPU = pa.struct(
    [
        *(("name", pa.string()), ("vendor", pa.string()), ("driver", pa.string())),
        *(("vram_bytes", pa.int64()), ("firmware", pa.string())),
    ]
)
_ENGINE = pa.struct(
    [("name", pa.string()), ("version", pa.string()), ("runtimes", pa.list_(pa.string())), ("where", pa.string())]
)
DEVICES = (
    Column("run", pa.string(), "Run that the device took part in"),
    Column("fingerprint", pa.string(), "Hash of hardware, memory, kernel, driver and engine versions"),
    Column("device_id", pa.string(), "UUID of the device, the same across reboots and addresses"),
    Column("device", pa.string(), "Name of the device"),
    Column("os", pa.string(), "Operating system"),
    Column("kernel", pa.string(), "Kernel version"),
    Column("arch", pa.string(), "Processor architecture"),
    Column("cpu", pa.string(), "Processor"),
    Column("physical_cores", pa.int64(), "Physical cores"),
    Column("logical_cores", pa.int64(), "Logical cores"),
    Column("product", pa.string(), "Maker and product, as the firmware says"),
    Column("bios", pa.string(), "Firmware's version and date"),
    Column("ram_modules", pa.string(), "Kind and speed of the memory modules, where they can be read"),
    Column("npus", pa.list_(pa.string()), "Neural processors that the kernel shows"),
    Column("ram_bytes", pa.int64(), "RAM that the operating system sees", "bytes"),
    Column("memory_kind", pa.string(), "How the GPU gets its memory: discrete, carve-out, unified, none"),
    Column("dedicated_vram_bytes", pa.int64(), "Part of the RAM that the firmware gives to the GPU, as seen", "bytes"),
    Column("split_source", pa.string(), "Who says so: seen or stated"),
    Column("power_limit_w", pa.float64(), "Power limit, where one is known", "W"),
    Column("power_source", pa.string(), "Who says so: seen or stated"),
    Column("power_profile", pa.string(), "Named power profile of the machine, where one is seen"),
    Column(
        "memory_bandwidth_bytes_per_s",
        pa.float64(),
        "Peak bandwidth of the fastest memory: stated by the owner, or the maker's figure",
        "bytes/s",
    ),
    Column("gpu", pa.string(), "Name of the first GPU"),
    Column("gpu_vram_bytes", pa.int64(), "Memory of the first GPU", "bytes"),
    Column("gpus", pa.list_(_GPU), "All GPUs: name, vendor, driver, vram_bytes, firmware"),
    Column("labels", _PAIRS, "Labels given by the owner"),
    Column("engines", pa.list_(_ENGINE), "Engines found: name, version, runtimes, where"),
    Column("python", pa.string(), "Python that the agent runs on"),
    Column("agent_version", pa.string(), "Version of the agent"),
)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "trials": TRIALS,
    "tokens": TOKENS,
    "steps": STEPS,
    "readings": READINGS,
    "devices": DEVICES,
}
NESTED = (
    Column("tokens", pa.list_(pa.struct([each.field() for each in ARRIVAL])), "Streamed events of the trial"),
    Column("steps", pa.list_(pa.struct([each.field() for each in STEP])), "Sampler steps of a workflow's run"),
    Column("readings", pa.list_(pa.struct([each.field() for each in READING])), "Telemetry; on an attempt's first row"),
)


def _schema(columns: Iterable[Column], table: str) -> pa.Schema:
    metadata: dict[bytes | str, bytes | str] = {VERSION_KEY: str(SCHEMA_VERSION).encode(), TABLE_KEY: table.encode()}
    return pa.schema([each.field() for each in columns], metadata=metadata)


@cache
def schema(table: str = "trials") -> pa.Schema:
    """Schema of a flat table. Raises UsageError for a name that is none of ``TABLES``."""
    if table not in COLUMNS:
        raise UsageError(f"unknown table {quoted(table)}{nearest(table, TABLES) or '.'} Allowed: {', '.join(TABLES)}")
    return _schema(COLUMNS[table], table)


@cache
def attempt_schema() -> pa.Schema:
    """Schema of the file of one attempt: ``trials`` with ``tokens``, ``steps`` and ``readings`` nested."""
    return _schema((*TRIALS, *NESTED), "attempt")


def conform(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    """``table`` with exactly the columns of ``wanted``: a missing one is null, one that is not known is left out.

    An older file lacks what was added since; a newer one holds what this version has no definition for: it
    stays in the file. Raises pa.ArrowInvalid or pa.ArrowNotImplementedError where a type cannot be read as ours.
    """
    if table.schema.equals(wanted):
        return pa.Table.from_arrays(table.columns, schema=wanted)  # with our definitions, not those of its day
    columns: list[Any] = []
    for field in wanted:
        if field.name not in table.schema.names:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            found = table.column(field.name)
            columns.append(found if found.type.equals(field.type) else found.cast(field.type))
    return pa.Table.from_arrays(columns, schema=wanted)
