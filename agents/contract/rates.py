"""The figures that people compare, from raw arrivals: one definition for tables, live view and checks. PURE"""

from __future__ import annotations

from itertools import pairwise

from agents.contract.measure import Trial

DISAGREEMENT = 0.03  # client against engine: a row past this is flagged


def ttft_s(trial: Trial) -> float | None:
    """Time to first token, s: request sent -> first generated token received by the client, reasoning included."""
    return trial.arrivals[0].at_s if trial.arrivals else None


def decode_tps(trial: Trial) -> float | None:
    """Decode rate, tokens/s: (n - 1) / (last token - first token), from the client's arrivals.

    n counts by the engine's usage, reasoning included; where the first event held k tokens, k stands for the 1.
    None with fewer than two events, or without a token count.
    """
    if len(trial.arrivals) < 2 or trial.completion_tokens is None:
        return None
    first, last = trial.arrivals[0], trial.arrivals[-1]
    tokens_after_first = trial.completion_tokens - (first.tokens or 1)
    seconds = last.at_s - first.at_s
    return tokens_after_first / seconds if seconds > 0 and tokens_after_first > 0 else None


def prompt_tps(trial: Trial) -> float | None:
    """Prompt rate, tokens/s: prompt tokens computed / the engine's own prompt time. None where it tells none, and of a
    single token, such as the one that starts ``tg128``: that is no batch, and its rate a decode rate."""
    tokens, seconds = trial.engine.prompt_tokens, trial.engine.prompt_s
    return tokens / seconds if tokens and tokens > 1 and seconds else None


def seconds_per_image(trial: Trial) -> float | None:
    """s/image: run sent -> its success received, over the images that it made. None where it made none."""
    image = trial.image
    return trial.ended_s / image.images if image is not None and image.images else None


def iteration_rate(trial: Trial) -> float | None:
    """Sampler steps a second: steps done between the first and the last step of each sampler / the time between.

    Like ``decode_tps``, it leaves the first step out, with what was prepared for it. None with fewer than two steps.
    """
    steps = trial.image.steps if trial.image is not None else ()
    spans = [(b.done - a.done, b.at_s - a.at_s) for a, b in pairwise(steps) if a.node == b.node and b.done > a.done]
    done, seconds = sum(span[0] for span in spans), sum(span[1] for span in spans)
    return done / seconds if seconds > 0 else None
