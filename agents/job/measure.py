"""The timing of one workload on a loaded engine. PURE given a session and a clock.

While tokens arrive, only the times are taken; what they mean is worked out after the end of the stream.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

from agents.contract.job import Chat, Job, Timeouts, Workflow, Workload
from agents.contract.measure import Arrival, EngineTimings, Flag, StopReason, Trial
from agents.contract.rates import DISAGREEMENT, decode_tps, ttft_s
from agents.contract.report import Cause
from agents.engines.base import ImageSession, Request, Session
from agents.engines.causes import cause_of_request
from agents.engines.stream.chunks import Chunk, Event, Final, Response, bunched_share, read_response, stream_events
from agents.engines.stream.exchange_http import Ended, Exchange, Limits, Progress
from agents.errors import EngineLost, RequestFailed, Unsupported
from agents.job.sanity import output_flags

CONNECT_S = 10.0
TTFT_FLOOR_S = 0.005  # a first token is not blamed for less: the engine's time leaves out HTTP and tokenising
DECODE_FLOOR_S = 0.002  # nor the span from first to last token: each end is stamped 0.1 to 1 ms late on a busy machine
BUNCHED_SHARE = 0.5  # share of tokens without a time of their own, past which the arrivals say nothing of single tokens
BUNCHED_RATE = 0.01  # error of the decode rate that bunched first and last tokens could make
LONGEST_TOKEN = 10  # events that one token may come in, where a server sends letters
WARMUP_NONCE = 1_000_000  # past every repeat


def measure(
    job: Job,
    session: Session,
    warmups: int,
    cancelled: threading.Event,
    progress: Callable[[str, Progress | None], None],
    zero_ns: int = 0,
) -> Iterator[Trial]:
    """Yields the warm-ups, then the measured trial, each as soon as it is complete.

    ``progress`` is given the phase and the live view of each stream before it starts. ``zero_ns`` is the start of the
    job on the clock that stamps the stream.
    Raises AgentError: RequestFailed, EngineLost.
    """
    for index in range(warmups + 1):
        warmup = index < warmups
        live = Progress()
        progress(f"warm-up {index + 1}/{warmups}" if warmup else "measuring", live)
        if cancelled.is_set():  # a short stream would be over before it looks
            raise RequestFailed(Cause.CANCELLED, "cancelled between two requests")
        if isinstance(job.workload, Workflow):
            yield _images(job, job.workload, session, index, warmup, cancelled, live, zero_ns)
            continue
        # The measured trial has the same nonce in every job: the same prompt in every cell and repeat.
        request = session.request_for(job.workload, nonce=index + 1 if warmup else 0)
        yield _trial(job, session, request, index, warmup, cancelled, live, zero_ns)


def _images(
    job: Job,
    workflow: Workflow,
    session: Session,
    index: int,
    warmup: bool,
    cancelled: threading.Event,
    live: Progress,
    zero_ns: int,
) -> Trial:
    """One run of a graph. Its nonce is the same in every cell, and another in each repeat: an engine that keeps images
    would not make the same one twice."""
    if not isinstance(session, ImageSession):
        raise Unsupported(f"{job.load.engine} makes no images")
    nonce = WARMUP_NONCE + index if warmup else job.repeat
    trial = session.generate(workflow, nonce, limits_of(job.timeouts), live, cancelled)
    read_now = not warmup and trial.image is not None and trial.image.model_load_s
    return replace(
        trial,
        index=index,
        warmup=warmup,
        sent_s=None if trial.sent_s is None else trial.sent_s - zero_ns / 1e9,
        flags=(*trial.flags, *((Flag.MODEL_LOADED,) if read_now else ())),
    )


def _trial(
    job: Job,
    session: Session,
    request: Request,
    index: int,
    warmup: bool,
    cancelled: threading.Event,
    live: Progress,
    zero_ns: int,
) -> Trial:
    limits = limits_of(job.timeouts)
    if request.prime is not None:
        _decoded(session, request, session.stream(request, request.prime, limits, Progress(), cancelled))
    exchange = session.stream(request, request.body, limits, live, cancelled)
    chunks = _decoded(session, request, exchange)
    if not any(chunk.generated or chunk.final for chunk in chunks):
        raise RequestFailed(Cause.STREAM_BROKEN, "the stream ended without a token and without a word on why")
    trial = _told_after(trial_of(exchange, chunks, index, warmup, job.keep_output), request)
    flagged = _flagged(trial, job.workload, request, chunks)
    return replace(flagged, sent_s=(exchange.sent_ns - zero_ns) / 1e9, image_tokens=_image_tokens(trial, request))


def _image_tokens(trial: Trial, request: Request) -> int | None:
    if request.text_tokens is None or trial.prompt_tokens is None:
        return None
    return max(trial.prompt_tokens - request.text_tokens, 0)


def _told_after(trial: Trial, request: Request) -> Trial:
    """With the engine's figures that it tells only when it is asked; those of the stream stay."""
    told = request.after() if request.after is not None else None
    if told is None:
        return trial
    kept = {name: value for name, value in asdict(trial.engine).items() if value is not None}
    return replace(trial, engine=replace(told, **kept))


def limits_of(timeouts: Timeouts) -> Limits:
    return Limits(connect_s=CONNECT_S, first_token_s=timeouts.first_token_s, trial_s=timeouts.trial_s)


def _decoded(session: Session, request: Request, exchange: Exchange) -> tuple[Chunk, ...]:
    """The chunks of a complete response; raises for every other end, with the engine's own words where it had any."""
    if exchange.ended is Ended.CANCELLED:
        raise RequestFailed(Cause.CANCELLED, "cancelled while tokens arrived")
    if exchange.ended is Ended.FIRST_TOKEN_TIMEOUT:
        raise RequestFailed(Cause.FIRST_TOKEN_TIMEOUT, exchange.detail)
    if exchange.ended is Ended.TRIAL_TIMEOUT:
        raise RequestFailed(Cause.TRIAL_TIMEOUT, exchange.detail)
    if exchange.ended is Ended.UNREACHABLE:
        session.check_alive()
        raise EngineLost(exchange.detail)
    if exchange.ended is Ended.BROKEN:
        session.check_alive()  # an engine that died says more than the stream that it broke
    response = read_response(exchange.reads)
    chunks = request.decode(events_of(response))
    for chunk in chunks:
        if chunk.error is not None:
            cause = cause_of_request(chunk.error)
            raise RequestFailed(Cause.STREAM_BROKEN if cause is Cause.REQUEST_REFUSED else cause, chunk.error)
    if exchange.ended is Ended.BROKEN:
        raise RequestFailed(Cause.STREAM_BROKEN, exchange.detail)
    return chunks


def events_of(response: Response) -> tuple[Event, ...]:
    """The events of a good answer. Raises RequestFailed, PROMPT_TOO_LONG told from other refusals."""
    try:
        return stream_events(response)
    except RequestFailed as error:
        if error.cause is Cause.REQUEST_REFUSED:
            raise RequestFailed(cause_of_request(error.detail), error.detail) from error
        raise


def trial_of(exchange: Exchange, chunks: tuple[Chunk, ...], index: int, warmup: bool, keep_output: bool) -> Trial:
    """Counts and times of one complete stream, unflagged but for an unknown token count."""
    final = next((chunk.final for chunk in reversed(chunks) if chunk.final is not None), None)
    generated = [chunk for chunk in chunks if chunk.generated]
    arrivals = tuple(
        Arrival((chunk.at_ns - exchange.sent_ns) / 1e9, chunk.read, chunk.tokens, chunk.reasoning)
        for chunk in generated
    )
    counted = final.completion_tokens if final is not None else None
    if counted is not None and counted * LONGEST_TOKEN < len(arrivals):
        counted = None  # 0, or 1 of the last event alone
    text = "".join(chunk.text for chunk in generated)
    return Trial(
        index=index,
        warmup=warmup,
        sent_unix_s=exchange.sent_unix_s,
        arrivals=arrivals,
        ended_s=(exchange.ended_ns - exchange.sent_ns) / 1e9,
        prompt_tokens=final.prompt_tokens if final else None,
        completion_tokens=counted if counted is not None else len(arrivals),
        reasoning_tokens=_reasoning_tokens(final, generated),
        stop_reason=final.stop_reason if final else StopReason.UNKNOWN,
        engine=final.engine if final else EngineTimings(),
        flags=(
            *(() if counted is not None else (Flag.TOKEN_COUNT_UNKNOWN,)),
            *(() if final is not None and final.ended else (Flag.END_UNTOLD,)),
        ),
        output_sha256=hashlib.sha256(text.encode()).hexdigest(),
        output=text if keep_output else None,
    )


def _reasoning_tokens(final: Final | None, generated: Sequence[Chunk]) -> int | None:
    """The engine's count; where it tells none and each event counted its tokens, theirs."""
    told = final.reasoning_tokens if final is not None else None
    if told is not None or not any(chunk.reasoning for chunk in generated):
        return told
    counts = [chunk.tokens for chunk in generated if chunk.reasoning]
    return None if None in counts else sum(count or 0 for count in counts)


def _flagged(trial: Trial, workload: Workload, request: Request, chunks: tuple[Chunk, ...]) -> Trial:
    if _is_full(trial, workload):
        trial = replace(trial, stop_reason=StopReason.CONTEXT_FULL)
    flags = [flag for flag in trial.flags if not (flag is Flag.TOKEN_COUNT_UNKNOWN and _filled(trial, workload))]
    cached = trial.engine.cached_tokens
    least = request.expected_cached_tokens
    if cached is not None and not least <= cached <= least + request.cached_tokens_allowed:
        flags.append(Flag.PROMPT_CACHED)
    if request.expected_tokens is not None and (trial.completion_tokens or 0) < request.expected_tokens:
        flags.append(Flag.FEWER_TOKENS)
    share = bunched_share(chunks, trial.completion_tokens)
    if share > BUNCHED_SHARE or bunched_rate_error(trial.arrivals) + untold_rate_error(trial) > BUNCHED_RATE:
        flags.append(Flag.ARRIVALS_BUNCHED)
    if _disagree(trial, seen=isinstance(workload, Chat) and workload.image is not None):
        flags.append(Flag.CLOCKS_DISAGREE)
    if isinstance(workload, Chat):
        flags += output_flags("".join(chunk.text for chunk in chunks))
    return replace(trial, flags=tuple(flags))


def _filled(trial: Trial, workload: Workload) -> bool:
    """An answer that was cut at its limit, in as many pieces as that has tokens: each was one token."""
    if not isinstance(workload, Chat) or trial.stop_reason is not StopReason.LENGTH:
        return False
    return len(trial.arrivals) == workload.max_tokens


def _is_full(trial: Trial, workload: Workload) -> bool:
    """Cut for its length before its limit: by the context, or by a server with a limit of its own."""
    if not isinstance(workload, Chat) or trial.stop_reason is not StopReason.LENGTH:
        return False
    return Flag.TOKEN_COUNT_UNKNOWN not in trial.flags and (trial.completion_tokens or 0) < workload.max_tokens - 1


def untold_rate_error(trial: Trial) -> float:
    """Relative error of the decode rate, as it is to be expected, from tokens whose arrival nobody told. PURE

    Where events are not counted and there are more tokens than events, the first one, which counts as one token, held
    as many as the others in the mean. Reasoning that is counted and was never sent was over before the first event.
    """
    tokens, events = trial.completion_tokens or 0, len(trial.arrivals)
    if tokens <= max(events, 1) or not events or trial.arrivals[0].tokens is not None:
        return 0.0
    hidden = 0 if any(each.reasoning for each in trial.arrivals) else trial.reasoning_tokens or 0
    first = hidden if tokens - events >= hidden > 0 else tokens / events - 1
    return first / (tokens - 1)


def bunched_rate_error(arrivals: tuple[Arrival, ...]) -> float:
    """Largest relative error of the decode rate from tokens that share the first or the last read. PURE

    The rate spans the first and the last arrival: a token beside one of them moves it by one interval of n - 1;
    tokens that share a read in between move nothing.
    """
    if len(arrivals) < 3:
        return 0.0
    ends = [sum(each.read == arrivals[end].read for each in arrivals) - 1 for end in (0, -1)]
    return sum(ends) / (len(arrivals) - 1)


def _disagree(trial: Trial, *, seen: bool) -> bool:
    """Whether client and engine differ by more than 3 %, and by more than the times can be blamed for.

    ``seen``: there is an image, whose unpacking (base64, PNG) llama.cpp's prompt time leaves out: 70 ms of 1 s for a
    screenshot. Only a first token that the engine itself tells is then held against the client's.
    """
    engine = trial.engine
    ours, theirs = decode_tps(trial), engine.decode_tps
    if ours and theirs:
        decoding_s = trial.arrivals[-1].at_s - trial.arrivals[0].at_s
        if _apart(decoding_s, decoding_s * ours / theirs, DECODE_FLOOR_S):
            return True
    first, told = ttft_s(trial), engine.ttft_s
    if told is None and not seen:
        told = engine.prompt_s
    return first is not None and told is not None and _apart(first, told, TTFT_FLOOR_S)


def _apart(client_s: float, engine_s: float, floor_s: float) -> bool:
    return abs(client_s - engine_s) > max(DISAGREEMENT * engine_s, floor_s)
