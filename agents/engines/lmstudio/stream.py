"""Events of LM Studio's chat streams -> chunks. PURE

REST v1 (LM Studio 0.4.0 and later): named events, ``chat.end`` with the figures. REST v0: OpenAI's dialect; ``stats``
as its answers without a stream have them, where they come. Fields: LM Studio's developer documents, April 2026.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from pydantic import ValidationError

from agents.contract.measure import EngineTimings, StopReason
from agents.engines.stream.chunks import Chunk, ChunkBuilder, Final, openai_chat_chunks
from agents.engines.stream.shapes import Count, Figure, WholeText, WireObject
from agents.engines.stream.sse import StreamEvent

RELOADED = "LM Studio loaded the model anew for this request: the instance that was loaded for the job is gone"


class V1Stats(WireObject):
    """REST v1, seconds. ``input_tokens`` counts cached ones too; how many those are is not reported."""

    input_tokens: Count = None
    total_output_tokens: Count = None
    reasoning_output_tokens: Count = None
    tokens_per_second: Figure = None
    time_to_first_token_seconds: Figure = None


class V1Result(WireObject):
    stats: V1Stats | None = None


class V1Event(WireObject):
    type: str | None = None
    content: WholeText | None = None
    result: V1Result | None = None


class V0Stats(WireObject):
    """REST v0, seconds."""

    tokens_per_second: Figure = None
    time_to_first_token: Figure = None
    generation_time: Figure = None
    stop_reason: str | None = None


class V0Event(WireObject):
    stats: V0Stats | None = None


def v1_chunks(events: Iterable[StreamEvent], *, max_tokens: int, context_tokens: int | None) -> tuple[Chunk, ...]:
    """Chunks of a REST v1 stream. A delta is not a token: only ``chat.end`` counts tokens. Why the model stopped is not
    reported, so it is worked out from the counts."""
    builder = ChunkBuilder()
    for event in events:
        part = builder.parse(event, V1Event)
        if part is None:
            break
        kind = part.type or event.kind
        if kind.startswith("model_load"):
            return (*builder.build(), Chunk(event.at_ns, event.read, error=RELOADED))
        if kind in ("message.delta", "reasoning.delta"):
            builder.add(event, part.content or "", reasoning=kind == "reasoning.delta", total=None)
        if kind == "chat.end":
            stats = part.result.stats if part.result and part.result.stats else V1Stats()
            builder.finish(event, _final(stats, max_tokens, context_tokens))
    return builder.build()


def _final(stats: V1Stats, max_tokens: int, context_tokens: int | None) -> Final:
    return Final(
        stop_reason=_why(stats.input_tokens, stats.total_output_tokens, max_tokens, context_tokens),
        prompt_tokens=stats.input_tokens,
        completion_tokens=stats.total_output_tokens,
        reasoning_tokens=stats.reasoning_output_tokens,
        engine=EngineTimings(
            generated_tokens=stats.total_output_tokens,
            ttft_s=stats.time_to_first_token_seconds,
            decode_tps=stats.tokens_per_second or None,
        ),
    )


def _why(prompt: int | None, generated: int | None, max_tokens: int, context_tokens: int | None) -> StopReason:
    if generated is None:
        return StopReason.UNKNOWN
    if generated >= max_tokens:
        return StopReason.LENGTH
    if prompt is not None and context_tokens is not None and prompt + generated >= context_tokens:
        return StopReason.CONTEXT_FULL
    return StopReason.END


_V0_REASONS = {
    "eosFound": StopReason.END,
    "stopStringFound": StopReason.END,
    "toolCalls": StopReason.END,
    "maxPredictedTokensReached": StopReason.LENGTH,
    "contextLengthReached": StopReason.CONTEXT_FULL,
}


def v0_chunks(events: Iterable[StreamEvent]) -> tuple[Chunk, ...]:
    """Chunks of a REST v0 stream, as OpenAI's, with LM Studio's figures in the last chunk where an event brings
    them."""
    kept = tuple(events)
    chunks = openai_chat_chunks(kept)
    stats = next((found for event in reversed(kept) if (found := _v0_stats(event.data))), None)
    if stats is None or not chunks or chunks[-1].final is None:
        return chunks
    final = chunks[-1].final
    with_figures = replace(
        final,
        stop_reason=_V0_REASONS.get(stats.stop_reason or "", final.stop_reason),
        engine=replace(
            final.engine,
            generated_tokens=final.completion_tokens,
            generate_s=stats.generation_time,
            ttft_s=stats.time_to_first_token,
            decode_tps=stats.tokens_per_second or None,
        ),
    )
    return (*chunks[:-1], replace(chunks[-1], final=with_figures))


def _v0_stats(data: str) -> V0Stats | None:
    if '"stats"' not in data:
        return None
    try:
        return V0Event.model_validate(json.loads(data, parse_constant=lambda _: None)).stats
    except (ValidationError, ValueError, RecursionError):
        return None
