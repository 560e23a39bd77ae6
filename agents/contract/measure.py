"""What was measured: raw arrivals and counts. Rates are derived where they are compared, never stored alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from agents.contract.columns import column


class StopReason(StrEnum):
    """Why a generation ended."""

    END = "end"  # the model's end-of-text token or a stop word
    LENGTH = "length"  # max_tokens
    CONTEXT_FULL = "context_full"  # the context window: fewer tokens than asked
    UNKNOWN = "unknown"  # the engine did not say


class Flag(StrEnum):
    """Why a trial should be doubted. Flagged trials are kept and shown, and left out of verdicts."""

    PROMPT_CACHED = "prompt_cached"
    FEWER_TOKENS = "fewer_tokens"
    ARRIVALS_BUNCHED = "arrivals_bunched"
    CLOCKS_DISAGREE = "clocks_disagree"
    ABOVE_BANDWIDTH = "above_bandwidth"
    OUTPUT_EMPTY = "output_empty"
    OUTPUT_REPEATED = "output_repeated"
    OUTPUT_BROKEN = "output_broken"
    TOKEN_COUNT_UNKNOWN = "token_count_unknown"
    END_UNTOLD = "end_untold"
    IMAGES_CACHED = "images_cached"
    FEWER_IMAGES = "fewer_images"
    MODEL_LOADED = "model_loaded"
    ENGINE_BUSY = "engine_busy"
    THROTTLED = "throttled"
    DISTURBED = "disturbed"
    SWAPPED = "swapped"
    ON_BATTERY = "on_battery"
    CLOCK_JUMPED = "clock_jumped"
    LIMIT_WITHOUT_EFFECT = "limit_without_effect"


FLAG_DESCRIPTIONS: dict[str, str] = {
    Flag.PROMPT_CACHED: "prompt tokens came from a cache",
    Flag.FEWER_TOKENS: "fewer tokens than asked for",
    Flag.ARRIVALS_BUNCHED: "several tokens in one read",
    Flag.CLOCKS_DISAGREE: "client and engine disagree by more than 3 %",
    Flag.ABOVE_BANDWIDTH: "faster than the memory could feed it",
    Flag.OUTPUT_EMPTY: "no text came",
    Flag.OUTPUT_REPEATED: "the same words again and again",
    Flag.OUTPUT_BROKEN: "text with characters that are none",
    Flag.TOKEN_COUNT_UNKNOWN: "the engine told no token count",
    Flag.END_UNTOLD: "the stream ended without a word on why: it may have been cut",
    Flag.IMAGES_CACHED: "nodes came from the engine's cache",
    Flag.FEWER_IMAGES: "fewer images than asked for",
    Flag.MODEL_LOADED: "a model was read in the measured run",
    Flag.ENGINE_BUSY: "the engine had work of others",
    Flag.THROTTLED: "clocks were held down by heat, or by a fault of the power supply",
    Flag.DISTURBED: "other processes used the CPU",
    Flag.SWAPPED: "memory came back from the swap, or went there",
    Flag.ON_BATTERY: "the device was not on mains",
    Flag.CLOCK_JUMPED: "the wall clock was set, or the machine slept",
    Flag.LIMIT_WITHOUT_EFFECT: "more power was drawn than the limit allows",
}
"""What people read."""

PASSING_FLAGS = frozenset({Flag.THROTTLED, Flag.DISTURBED, Flag.SWAPPED, Flag.CLOCK_JUMPED})
"""Of the machine at that moment, not of the cell: another trial may be without. A battery lasts for longer."""


@dataclass(frozen=True, slots=True)
class EngineTimings:
    """The engine's own figures for one request."""

    prompt_tokens: int | None = column(
        "Prompt tokens that the engine computed, cached ones left out", unit="tokens", default=None
    )
    cached_tokens: int | None = column("Prompt tokens that came from a cache", unit="tokens", default=None)
    prompt_s: float | None = column("Engine's own time for the prompt", unit="s", default=None)
    generated_tokens: int | None = column("Tokens that the engine generated", unit="tokens", default=None)
    generate_s: float | None = column("Engine's own time from first to last token", unit="s", default=None)
    ttft_s: float | None = column("Engine's own time to first token, where it tells one", unit="s", default=None)
    decode_tps: float | None = column("Engine's own decode rate", unit="tokens/s", default=None)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One streamed event that carried generated text. ``at_s`` counts from the request's sending.

    ``read`` numbers the socket read that brought it: equal numbers share one time stamp. ``tokens`` is
    how many tokens the event held, None where the engine does not tell.
    """

    at_s: float
    read: int
    tokens: int | None = 1
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class SamplerStep:
    """A sampler's word that ``done`` of its ``of`` steps are done. ``at_s`` counts from the run's sending."""

    at_s: float
    node: str
    done: float
    of: float


@dataclass(frozen=True, slots=True)
class ImageExecution:
    """One run of a graph that makes images; the times of its steps are at the client. None: it was not told."""

    images: int = column("Images that the run made")
    image_seed: int = column("Seed of the run: the workload's, counted up so that nothing comes from a cache")
    iterations: int | None = column("Sampler steps of the run, all its samplers together", default=None)
    image_models: str | None = column("Model files that the graph names", default=None)
    model_load_s: float | None = column(
        "Time in the nodes that read model files; 0 where they came from the cache. Moving to VRAM may come later",
        unit="s",
        default=None,
    )
    image_engine_s: float | None = column(
        "Engine's own time for the run, start to success, by its wall clock", unit="s", default=None
    )
    image_vram_peak_bytes: int | None = column(
        "Most VRAM in use, by all programs, as the engine told once a second", unit="bytes", default=None
    )
    image_torch_vram_peak_bytes: int | None = column(
        "Most VRAM that PyTorch had reserved, as the engine told once a second", unit="bytes", default=None
    )
    image_ram_peak_bytes: int | None = column(
        "Most RAM in use, by all programs, as the engine told once a second", unit="bytes", default=None
    )
    steps: tuple[SamplerStep, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One request, warm-up or measured. Client times come from one monotonic clock on the device."""

    index: int
    warmup: bool
    sent_unix_s: float
    arrivals: tuple[Arrival, ...]
    ended_s: float  # end of the response, from the sending
    prompt_tokens: int | None
    completion_tokens: int | None  # generated, reasoning included
    reasoning_tokens: int | None
    stop_reason: StopReason
    engine: EngineTimings
    flags: tuple[Flag, ...] = ()
    output_sha256: str = ""
    output: str | None = None
    image_tokens: int | None = None  # of the prompt
    sent_s: float | None = None  # sending, from the start of the job on the monotonic clock: as Reading.at_s
    image: ImageExecution | None = None  # of a workflow; counts and times of tokens are then empty


def counted_trial(trials: Sequence[Trial]) -> Trial | None:
    """The measured trial that usage and energy are told of: the first without a doubt that may pass, else the last.

    PURE
    """
    measured = [trial for trial in trials if not trial.warmup]
    good = (trial for trial in measured if not PASSING_FLAGS.intersection(trial.flags))
    return next(good, measured[-1] if measured else None)


@dataclass(frozen=True, slots=True)
class Reading:
    """One telemetry value. ``at_s`` counts from the start of the job on the device's monotonic clock."""

    at_s: float
    source: str
    quantity: str
    value: float | None
    unit: str
