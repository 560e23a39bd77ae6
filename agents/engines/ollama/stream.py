"""Lines of Ollama's ``/api/chat`` and ``/api/generate`` streams -> chunks. PURE

NDJSON; fields as in docs/api.md and docs/api/usage.mdx of Ollama 0.33, durations in ns. A token that ends the text has
no line of its own: it is counted by ``eval_count``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agents.contract.measure import EngineTimings, StopReason
from agents.engines.stream.chunks import Chunk, ChunkBuilder, Final
from agents.engines.stream.shapes import Count, Figure, WholeText, WireObject
from agents.engines.stream.sse import StreamEvent

RELOAD_S = 1.0  # a loaded model is found within milliseconds


class StreamMessage(WireObject):
    content: WholeText | None = None
    thinking: WholeText | None = None


class StreamLine(WireObject):
    message: StreamMessage | None = None
    response: WholeText | None = None  # /api/generate
    thinking: WholeText | None = None  # /api/generate
    done: bool | None = None
    done_reason: str | None = None
    load_duration: Figure = None
    prompt_eval_count: Count = None
    prompt_eval_duration: Figure = None
    eval_count: Count = None
    eval_duration: Figure = None

    def texts(self) -> list[tuple[str, bool]]:
        """(text, is it reasoning), at least one, perhaps empty."""
        message = self.message or StreamMessage()
        found = [((message.thinking or "") + (self.thinking or ""), True)]
        found += [((message.content or "") + (self.response or ""), False)]
        return [each for each in found if each[0]] or [("", False)]


def ollama_chunks(events: Iterable[StreamEvent], max_tokens: int | None = None) -> tuple[Chunk, ...]:
    """``max_tokens``: the request's, by which a full context is known from a reached limit.

    A model that was loaded anew within the request makes the last chunk an error: its figures are of something else.
    """
    builder = ChunkBuilder()
    last: tuple[StreamEvent, StreamLine] | None = None
    for event in events:
        line = builder.parse(event, StreamLine)
        if line is None:
            break
        for text, reasoning in line.texts():
            builder.add(event, text, reasoning=reasoning, total=None)
        if line.done:
            last = event, line
            builder.finish(event, _final(line, max_tokens))
    chunks = builder.build()
    if last is None or chunks[-1].error is not None or (last[1].load_duration or 0) < RELOAD_S * 1e9:
        return chunks
    load_s = (last[1].load_duration or 0) / 1e9
    error = f"Ollama loaded the model anew within the request ({load_s:.1f} s): it was not loaded any more"
    return (*chunks[:-1], replace(chunks[-1], final=None, error=error))


def _final(line: StreamLine, max_tokens: int | None) -> Final:
    return Final(
        stop_reason=_stop(line, max_tokens),
        prompt_tokens=line.prompt_eval_count,
        completion_tokens=line.eval_count,
        engine=EngineTimings(
            prompt_tokens=line.prompt_eval_count,
            prompt_s=_seconds(line.prompt_eval_duration),
            generated_tokens=line.eval_count,
            generate_s=_seconds(line.eval_duration),
            decode_tps=_rate(line.eval_count, line.eval_duration),
        ),
    )


def _stop(line: StreamLine, max_tokens: int | None) -> StopReason:
    if line.done_reason == "stop":
        return StopReason.END
    if line.done_reason != "length":
        return StopReason.UNKNOWN
    short = max_tokens is not None and line.eval_count is not None and line.eval_count < max_tokens
    return StopReason.CONTEXT_FULL if short else StopReason.LENGTH


def _seconds(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e9


def _rate(tokens: int | None, ns: float | None) -> float | None:
    """The duration begins with the first token, so it spans one interval less than there are tokens."""
    return (tokens - 1) / (ns / 1e9) if tokens and tokens > 1 and ns else None
