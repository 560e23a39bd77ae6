"""Events of an engine's stream -> chunks: what was generated, when it came, and the engine's own figures of it. PURE

The problem: an event is not a token. It may hold several (speculative decoding), a part of one (servers that send
letters), or none (a role, the end of text), and few engines count the tokens of each event. So a chunk keeps what the
engine counted, and None where it counted nothing; nothing is estimated here.

Nothing that a server sends makes these functions raise: what cannot be read becomes the last chunk, with ``error``.
Fields as llama-server b11549 sends them (recorded), and as the OpenAI API reference and its dialects have them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import ValidationError

from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.engines.stream.shapes import ChatEvent, CompletionEvent, Timings, TokenCounts, WireObject
from agents.engines.stream.sse import Response, StreamEvent
from agents.errors import RequestFailed

_ERROR_TEXT_MAX = 2_000
_BUSY = (429, 502, 503, 504)  # the same request may succeed later
_FAILED = ("error", "abort")  # values of finish_reason, SGLang's and others'
_KNOWN = frozenset(("choices", "usage", "timings", "type", "content", "response", "done", "stop", "stats", "model"))
"""An object that reports an error has none of these names."""


@dataclass(frozen=True, slots=True)
class Final:
    """What the engine reports of the whole request; None: it does not. ``prompt_tokens``: cached ones included.

    ``ended``: the engine marked the end; else the stream may have been cut after what came last.
    """

    stop_reason: StopReason
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    engine: EngineTimings = EngineTimings()
    ended: bool = True


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event's generated text. ``tokens``: how many it held, None where the engine does not count them.

    ``final`` and ``error`` stand on the last chunk alone, ``error`` is the engine's message where it sent one. A
    chunk without text and with tokens is a token that has no text, such as the end of text.
    """

    at_ns: int
    read: int  # index of the receive that brought the event's last byte
    text: str = ""
    reasoning: bool = False
    tokens: int | None = None
    final: Final | None = None
    error: str | None = None

    @property
    def generated(self) -> bool:
        """Did the event bring at least one token?"""
        return bool(self.text or self.tokens)


def llama_completion_chunks(events: Iterable[StreamEvent]) -> tuple[Chunk, ...]:
    """Chunks of llama-server's ``/completion`` with ``stream``.

    The last event (``stop``) counts all tokens, so a token without text (the end of text) comes with it.
    """
    builder = ChunkBuilder()
    for event in events:
        part = builder.parse(event, CompletionEvent)
        if part is None:
            break
        own = len(part.tokens) if part.tokens else None
        builder.add(event, part.content or "", reasoning=False, total=part.tokens_predicted, own=own)
        if part.stop:
            builder.finish(event, _llama_final(part))
    return builder.build()


def openai_chat_chunks(events: Iterable[StreamEvent]) -> tuple[Chunk, ...]:
    """Chunks of an OpenAI-style ``/v1/chat/completions`` or ``/v1/completions`` with ``stream``.

    Stop reason, usage and llama.cpp's ``timings`` may come in different events: they meet in one ``final``. Tokens
    for each chunk are known only where every event counts them (llama.cpp ``timings_per_token``, vLLM
    ``continuous_usage_stats``).
    """
    builder = ChunkBuilder()
    stop: str | None = None
    counts, timings = TokenCounts(), Timings()
    for event in events:
        if event.data.strip() == "[DONE]":
            # Some servers send no finish_reason: the mark at least says that nothing was cut off.
            builder.finish(event, _openai_final(stop, counts, timings))
            continue
        part = builder.parse(event, ChatEvent)
        if part is None:
            break
        reported = part.counts
        counts = reported.merged_into(counts) if reported else counts
        timings = part.timings or timings
        # Tokens generated so far, where the event counts them: the difference to the event before is its own.
        total = part.timings.predicted_n if part.timings else reported.completion if reported else None
        for choice in part.choices or []:
            for text, reasoning in choice.texts():
                builder.add(event, text, reasoning=reasoning, total=total)
            stop = choice.finish_reason or stop
            if choice.error or stop in _FAILED:
                builder.fail(event, _text_of(choice.error) or f"the engine ended with finish_reason {stop}")
                return builder.build()
        if stop or reported:
            # Counts may come before the end (vLLM's, with each event): then this final is not yet the ``ended`` one.
            final = _openai_final(stop, counts, timings)
            builder.finish(event, final if stop or not part.choices else replace(final, ended=False))
    return builder.build()


def bunched_share(chunks: Sequence[Chunk], whole: int | None = None) -> float:
    """Share of the tokens, 0 to 1, that came in the same read as an earlier token: their times are not their own.

    A chunk of several tokens (speculative decoding, several steps at once) bunches its tokens too; where chunks are
    not counted, ``whole`` is how many there are in all. TLS hands out one record a read, so there two records that
    lay ready count as two reads.
    """
    # One time stamp a read: of the tokens in a read, one has a time of its own.
    counts = [(chunk.read, 1 if chunk.tokens is None else chunk.tokens) for chunk in chunks if chunk.generated]
    tokens = max(sum(count for _, count in counts), whole or 0) if counts else 0
    return 1 - len({read for read, count in counts if count}) / tokens if tokens else 0.0


def stream_events(response: Response) -> tuple[StreamEvent, ...]:
    """The events of a good answer.

    Raises RequestFailed: REQUEST_REFUSED for a status that is not 2xx and for an error document, with the engine's
    message; STREAM_BROKEN where the server is too busy, or the body is no stream (a web page, a JSON document).
    """
    if not response.is_good:
        cause = Cause.STREAM_BROKEN if response.status in _BUSY else Cause.REQUEST_REFUSED
        raise RequestFailed(cause, refusal_text(response))
    if not response.events and response.body.strip():
        # Some servers answer an error with status 200 and a plain JSON document.
        if (error := _error_of(response.body)) is not None:
            raise RequestFailed(Cause.REQUEST_REFUSED, f"HTTP {response.status}: {one_line(error)}")
        kind = response.header("content-type") or "no content type"
        raise RequestFailed(Cause.STREAM_BROKEN, f"no stream of events but {kind}: {error_text(response.body)}")
    return response.events


def refusal_text(response: Response) -> str:
    to = f" to {response.header('location')}" if response.header("location") else ""
    return f"HTTP {response.status}{to}: {error_text(response.body)}"


def error_text(body: bytes) -> str:
    """The message in an error body, as one printable line of at most 2,000 characters."""
    found = _error_of(body)
    return one_line(found if found is not None else body[: 4 * _ERROR_TEXT_MAX].decode("utf-8", "replace"))


def _error_of(body: bytes) -> str | None:
    """The message of a JSON document that is an error; None of another one."""
    try:
        return _error_in(json.loads(body))
    except (ValueError, RecursionError):
        return None


def one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _ERROR_TEXT_MAX]).split())
    return line[:_ERROR_TEXT_MAX] or "(no words)"


_P = TypeVar("_P", bound=WireObject)


class ChunkBuilder:
    """Collects chunks event by event; ``build`` puts in what only the end tells: token counts, the final, the error."""

    def __init__(self) -> None:
        self._drafts: list[tuple[Chunk, int | None]] = []  # with the count of all tokens so far, where the event has it
        self._final: Final | None = None

    def add(self, event: StreamEvent, text: str, *, reasoning: bool, total: int | None, own: int | None = None) -> None:
        self._drafts.append((Chunk(event.at_ns, event.read, text, reasoning, own), total))

    def finish(self, event: StreamEvent, final: Final) -> None:
        if not self._drafts:  # a final needs a chunk to stand on, also of an answer without a token
            self._drafts.append((Chunk(event.at_ns, event.read), None))
        self._final = final

    def fail(self, event: StreamEvent, message: str) -> None:
        self._drafts.append((Chunk(event.at_ns, event.read, error=one_line(message)), None))

    def parse(self, event: StreamEvent, kind: type[_P]) -> _P | None:
        """The event's object, or None after an error, which is kept as the last chunk."""
        message: str
        try:
            # NaN and Infinity are not JSON, but Python servers write them: as None they cost their field alone.
            found = json.loads(event.data, parse_constant=lambda _: None)
            error = "the event is not an object" if not isinstance(found, dict) else _error_in(found)
            if event.kind == "error" and error is None:
                error = event.data
            if error is None:
                return kind.model_validate(found)
            message = error
        except ValidationError as fault:
            first = fault.errors(include_url=False)[0]
            where = ".".join(str(step) for step in first["loc"])
            message = f"an event that cannot be read: {where}: {first['msg']}"
        except (ValueError, RecursionError):
            if event.kind not in ("error", "message"):  # such as a ping
                return kind()
            message = event.data if event.kind == "error" else f"an event that is not JSON: {event.data[:200]}"
        self.fail(event, message)
        return None

    def build(self) -> tuple[Chunk, ...]:
        chunks = [chunk for chunk, _ in self._drafts]
        # All or none: a stream that counts some events only would give the others' tokens to the next one counted.
        totals = [total for chunk, total in self._drafts if chunk.text]
        if totals and None not in totals and totals[-1]:
            before = 0
            for place, (chunk, total) in enumerate(self._drafts):
                if total is not None:
                    chunks[place] = replace(chunk, tokens=max(total - before, 0))
                    before = max(total, before)
            whole = self._final.completion_tokens if self._final else None
            # The end-of-text token has no text: it came with the last event, and is counted by the final alone.
            if whole is not None and whole > before and chunks[-1].error is None:
                chunks[-1] = replace(chunks[-1], tokens=(chunks[-1].tokens or 0) + whole - before)
        if chunks and chunks[-1].error is None:
            chunks[-1] = replace(chunks[-1], final=self._final)
        return tuple(chunks)


def _error_in(found: object) -> str | None:
    """The message of an error object in one of the shapes that engines use; None where there is no error."""
    if not isinstance(found, dict):
        return None
    error = found.get("error")
    if isinstance(error, dict) and error:
        message, kind = error.get("message"), error.get("type") or error.get("code")
        return f"{message} ({kind})" if message and kind else str(message or json.dumps(error))
    if error:
        return str(error)  # mlx-lm and Ollama: a text
    if found.get("object") == "error":  # vLLM
        return _text_of(found.get("message"))
    if _KNOWN.isdisjoint(found):  # FastAPI and others
        return next((text for name in ("message", "detail", "errors") if (text := _text_of(found.get(name)))), None)
    return None


def _text_of(found: object) -> str:
    if isinstance(found, dict):
        where = ".".join(map(str, found["loc"])) + ": " if isinstance(found.get("loc"), list) else ""  # FastAPI
        return where + str(found.get("message") or found.get("msg") or json.dumps(found)) if found else ""
    if isinstance(found, list):
        return "; ".join(filter(None, map(_text_of, found)))
    return str(found or "")


def _llama_final(part: CompletionEvent) -> Final:
    stop = {"eos": StopReason.END, "word": StopReason.END, "limit": StopReason.LENGTH}
    return Final(
        # A full context stops with "limit" too; only ``truncated`` tells the two apart.
        stop_reason=StopReason.CONTEXT_FULL if part.truncated else stop.get(part.stop_type or "", StopReason.UNKNOWN),
        prompt_tokens=part.tokens_evaluated,
        completion_tokens=part.tokens_predicted,
        engine=part.timings.as_engine_timings() if part.timings else EngineTimings(),
    )


def _openai_final(stop: str | None, counts: TokenCounts, timings: Timings) -> Final:
    reasons = {"length": StopReason.LENGTH, "stop": StopReason.END, "eos": StopReason.END}
    reasons |= {"tool_calls": StopReason.END, "function_call": StopReason.END}
    reasons |= {"eos_token": StopReason.END, "stop_sequence": StopReason.END}  # TGI
    engine = timings.as_engine_timings()
    # llama.cpp's own timings come first; other servers report the cache in ``usage``, and no times at all.
    if engine.cached_tokens is None:
        engine = replace(engine, cached_tokens=counts.cached)
    return Final(
        stop_reason=reasons.get(stop or "", StopReason.UNKNOWN),
        prompt_tokens=counts.prompt,
        completion_tokens=timings.predicted_n if counts.completion is None else counts.completion,
        reasoning_tokens=counts.reasoning,
        engine=engine,
    )
