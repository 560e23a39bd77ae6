"""What one exchange with an engine comes to: a ``Trial`` with its counts, its times and its flags. PURE

Received bytes become events, events become chunks (``chunks_of``), and chunks become a trial (``trial_of``). All of it
runs after the end of the stream, so that nothing is computed while tokens arrive.

Rates are not kept: ``contract.rates`` derives them from the arrivals. Here it is decided only which of them to doubt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from agents.contract.job import Chat, Workload
from agents.contract.measure import Arrival, EngineTimings, Flag, StopReason, Trial
from agents.contract.rates import DISAGREEMENT, decode_tps, ttft_s
from agents.contract.report import Cause
from agents.engines.base import Request
from agents.engines.causes import cause_of_request
from agents.engines.stream.chunks import Chunk, Final, bunched_share, stream_events
from agents.engines.stream.exchange import Exchange, ExchangeEnd
from agents.engines.stream.sse import Response, StreamEvent, read_response
from agents.errors import EngineLost, RequestFailed
from agents.job.sanity import output_flags

TTFT_FLOOR_S = 0.005  # a first token is not blamed for less: the engine's time leaves out HTTP and tokenising
DECODE_FLOOR_S = 0.002  # nor the span from first to last token: each end is stamped 0.1 to 1 ms late on a busy machine
BUNCHED_SHARE = 0.5  # share of tokens without a time of their own, past which the arrivals say nothing of single tokens
BUNCHED_RATE = 0.01  # error of the decode rate that bunched first and last tokens could make
LONGEST_TOKEN = 10  # events that one token may come in, where a server sends letters

_CAUSE_OF_END = {
    ExchangeEnd.CANCELLED: Cause.CANCELLED,
    ExchangeEnd.FIRST_TOKEN_TIMEOUT: Cause.FIRST_TOKEN_TIMEOUT,
    ExchangeEnd.TRIAL_TIMEOUT: Cause.TRIAL_TIMEOUT,
}
"""Ends that we chose ourselves: what had come until then is not looked at."""


def chunks_of(exchange: Exchange, request: Request) -> tuple[Chunk, ...]:
    """The chunks of a complete answer to ``request``.

    Raises RequestFailed for an answer that is not complete or is an error, with the engine's own words where it sent
    some; EngineLost where the request could not be sent.
    """
    if exchange.end is ExchangeEnd.UNREACHABLE:
        raise EngineLost(exchange.detail)
    if (cause := _CAUSE_OF_END.get(exchange.end)) is not None:
        raise RequestFailed(cause, "cancelled while tokens arrived" if cause is Cause.CANCELLED else exchange.detail)
    chunks = request.decode(_events_of(read_response(exchange.reads)))
    for chunk in chunks:
        if chunk.error is not None:
            # Inside a stream that had begun well, an engine's error is no refusal of the request.
            cause = cause_of_request(chunk.error)
            raise RequestFailed(Cause.STREAM_BROKEN if cause is Cause.REQUEST_REFUSED else cause, chunk.error)
    if exchange.end is ExchangeEnd.BROKEN:  # looked at last: an error that the engine sent before it says why
        raise RequestFailed(Cause.STREAM_BROKEN, exchange.detail)
    return chunks


def _events_of(response: Response) -> tuple[StreamEvent, ...]:
    """The events of a good answer. Raises RequestFailed, PROMPT_TOO_LONG where its words say so."""
    try:
        return stream_events(response)
    except RequestFailed as error:
        # Only the text distinguishes a prompt that is too long from any other refusal: servers use one status for both.
        if error.cause is Cause.REQUEST_REFUSED:
            raise RequestFailed(cause_of_request(error.detail), error.detail) from error
        raise


def trial_of(
    exchange: Exchange,
    chunks: Sequence[Chunk],
    request: Request,
    workload: Workload,
    asked_afterwards: EngineTimings | None = None,
    keep_output: bool = False,
) -> Trial:
    """The trial that a complete stream is, its index and its place in the job left out.

    ``asked_afterwards`` holds figures that the engine gives only on request; those of the stream come before them.
    Raises RequestFailed (STREAM_BROKEN) where the stream holds neither a token nor a reason for having none.
    """
    if not any(chunk.generated or chunk.final for chunk in chunks):
        raise RequestFailed(Cause.STREAM_BROKEN, "the stream ended without a token and without a word on why")
    finals = (chunk.final for chunk in reversed(chunks) if chunk.final is not None)
    final = next(finals, Final(StopReason.UNKNOWN, ended=False))
    generated = [chunk for chunk in chunks if chunk.generated]
    arrivals = _arrivals(generated, exchange.sent_ns)
    counted = _counted(final, len(arrivals))
    stop_reason = _stop_reason(final.stop_reason, counted, workload)
    is_counted = counted is not None or _is_at_limit(stop_reason, arrivals, workload)
    text = "".join(chunk.text for chunk in generated)
    trial = Trial(
        index=0,
        warmup=False,
        sent_unix_s=exchange.sent_unix_s,
        arrivals=arrivals,
        ended_s=(exchange.ended_ns - exchange.sent_ns) / 1e9,
        prompt_tokens=final.prompt_tokens,
        completion_tokens=counted if counted is not None else len(arrivals),
        reasoning_tokens=_reasoning_tokens(final, generated),
        stop_reason=stop_reason,
        engine=_merged(final.engine, asked_afterwards),
        flags=(*(() if is_counted else (Flag.TOKEN_COUNT_UNKNOWN,)), *(() if final.ended else (Flag.END_UNTOLD,))),
        output_sha256=hashlib.sha256(text.encode()).hexdigest(),
        output=text if keep_output else None,
    )
    flags = (*trial.flags, *_doubts(trial, workload, request, chunks))
    return replace(trial, flags=flags, image_tokens=_image_tokens(trial, request))


def _arrivals(generated: Sequence[Chunk], sent_ns: int) -> tuple[Arrival, ...]:
    return tuple(
        Arrival((chunk.at_ns - sent_ns) / 1e9, chunk.read, chunk.tokens, chunk.reasoning) for chunk in generated
    )


def _counted(final: Final, events: int) -> int | None:
    """The engine's count of tokens. None where it has none, or one that cannot be: some servers count 0, or 1 for the
    last event alone."""
    counted = final.completion_tokens
    return None if counted is not None and counted * LONGEST_TOKEN < events else counted


def _stop_reason(stated: StopReason, counted: int | None, workload: Workload) -> StopReason:
    """What the engine states; CONTEXT_FULL where it stopped for the length before it reached our limit: then it was
    the context that ended the answer, or a server with a limit of its own."""
    if isinstance(workload, Chat) and stated is StopReason.LENGTH and counted is not None:
        return StopReason.CONTEXT_FULL if counted < workload.max_tokens - 1 else stated
    return stated


def _is_at_limit(stop: StopReason, arrivals: Sequence[Arrival], workload: Workload) -> bool:
    """Cut at our limit, in as many pieces as that has tokens: each piece was one token, and they are counted so."""
    return isinstance(workload, Chat) and stop is StopReason.LENGTH and len(arrivals) == workload.max_tokens


def _merged(streamed: EngineTimings, asked: EngineTimings | None) -> EngineTimings:
    if asked is None:
        return streamed
    return replace(asked, **{name: value for name, value in asdict(streamed).items() if value is not None})


def _image_tokens(trial: Trial, request: Request) -> int | None:
    """Tokens of the prompt that are not its text's; None where the engine does not count both."""
    if request.text_tokens is None or trial.prompt_tokens is None:
        return None
    return max(trial.prompt_tokens - request.text_tokens, 0)


def _reasoning_tokens(final: Final, generated: Sequence[Chunk]) -> int | None:
    """The engine's count; where it has none and each event counted its own tokens, their sum."""
    reported = final.reasoning_tokens
    if reported is not None or not any(chunk.reasoning for chunk in generated):
        return reported
    counts = [chunk.tokens for chunk in generated if chunk.reasoning]
    # One event without a count would make the sum too small.
    return None if None in counts else sum(count or 0 for count in counts)


def _doubts(trial: Trial, workload: Workload, request: Request, chunks: Sequence[Chunk]) -> Iterator[Flag]:
    """Why the figures of this trial may not be what was asked for."""
    cached = trial.engine.cached_tokens
    least = request.expected_cached_tokens
    # Both sides: too many cached tokens make the prompt look fast, too few mean that the context up to the measured
    # depth had to be computed again.
    if cached is not None and not least <= cached <= least + request.cached_tokens_allowed:
        yield Flag.PROMPT_CACHED
    if request.expected_tokens is not None and (trial.completion_tokens or 0) < request.expected_tokens:
        yield Flag.FEWER_TOKENS
    share = bunched_share(chunks, trial.completion_tokens)
    if share > BUNCHED_SHARE or bunched_rate_error(trial.arrivals) + uncounted_rate_error(trial) > BUNCHED_RATE:
        yield Flag.ARRIVALS_BUNCHED
    if _clocks_disagree(trial, has_image=isinstance(workload, Chat) and workload.image is not None):
        yield Flag.CLOCKS_DISAGREE
    if isinstance(workload, Chat):  # random prompts are answered with random text
        yield from output_flags("".join(chunk.text for chunk in chunks))


def uncounted_rate_error(trial: Trial) -> float:
    """Expected relative error of the decode rate from tokens whose arrival is not known, 0 and up.

    Where events carry no token counts and there are more tokens than events, the first event, which counts as one
    token, is taken to have held as many as the others in the mean. Reasoning that is counted but was never sent was
    over before the first event.
    """
    tokens, events = trial.completion_tokens or 0, len(trial.arrivals)
    if tokens <= max(events, 1) or not events or trial.arrivals[0].tokens is not None:
        return 0.0
    hidden = 0 if any(each.reasoning for each in trial.arrivals) else trial.reasoning_tokens or 0
    first = hidden if tokens - events >= hidden > 0 else tokens / events - 1
    return first / (tokens - 1)


def bunched_rate_error(arrivals: tuple[Arrival, ...]) -> float:
    """Largest relative error of the decode rate from tokens that share the first or the last read, 0 to 1.

    The rate spans the first and the last arrival: a token beside one of them moves it by one interval of n - 1;
    tokens that share a read in between move nothing.
    """
    if len(arrivals) < 3:
        return 0.0
    ends = [sum(each.read == arrivals[end].read for each in arrivals) - 1 for end in (0, -1)]
    return sum(ends) / (len(arrivals) - 1)


def _clocks_disagree(trial: Trial, *, has_image: bool) -> bool:
    """Whether our times and the engine's differ by more than 3 %, and by more than either can be blamed for."""
    engine = trial.engine
    ours, theirs = decode_tps(trial), engine.decode_tps
    if ours and theirs:
        # As seconds over our own span: a floor in seconds cannot be applied to rates.
        decoding_s = trial.arrivals[-1].at_s - trial.arrivals[0].at_s
        if _differ(decoding_s, decoding_s * ours / theirs, DECODE_FLOOR_S):
            return True
    first_s, engine_first_s = ttft_s(trial), engine.ttft_s
    if engine_first_s is None and not has_image:
        # The time of the prompt stands in for it, but llama.cpp's leaves out the unpacking of an image (base64, PNG):
        # 70 ms of 1 s for a screenshot.
        engine_first_s = engine.prompt_s
    return first_s is not None and engine_first_s is not None and _differ(first_s, engine_first_s, TTFT_FLOOR_S)


def _differ(client_s: float, engine_s: float, floor_s: float) -> bool:
    return abs(client_s - engine_s) > max(DISAGREEMENT * engine_s, floor_s)
