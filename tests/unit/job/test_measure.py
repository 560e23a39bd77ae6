from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from agents.contract.job import Chat, Image, Job, LoadSettings, Synthetic, Timeouts, Workload
from agents.contract.measure import Arrival, EngineTimings, Flag, StopReason, Trial
from agents.contract.rates import decode_tps, ttft_s
from agents.contract.report import Cause, Loaded
from agents.engines.base import Request
from agents.engines.llama.requests import llama_request
from agents.engines.stream.chunks import llama_completion_chunks
from agents.engines.stream.exchange import Exchange, ExchangeEnd, Limits, LiveCount
from agents.errors import AgentError, EngineLost, RequestFailed
from agents.job.measure import limits_of, measure
from agents.job.trial import bunched_rate_error, uncounted_rate_error
from tests.fakes.scripted_server import LAST_CHUNK, chunked, head, response

MS = 1_000_000
SENT_NS = 5_000 * MS
WORK = Synthetic("pp8 tg4", prompt_tokens=8, generate_tokens=4)
PRIMED = Synthetic("pp8 @ d16", prompt_tokens=8, depth=16)


def job(workload: Workload = WORK, keep_output: bool = False) -> Job:
    load = LoadSettings("embedded", "tiny:llama")
    return Job("j", 1, "c", "cell", "d", 0, load, workload, timeouts=Timeouts(1.0, 2.0, 3.0), keep_output=keep_output)


def token(index: int, word: str | None = None) -> bytes:
    """An event as llama-server b11549 sends it."""
    text = f" w{index}" if word is None else word
    fields = {"index": 0, "content": text, "tokens": [index], "stop": False, "tokens_predicted": index + 1}
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def stop(tokens: int, *, cached: int = 0, prompt_ms: float = 10.0, rate: float | None = None) -> bytes:
    timings = {"cache_n": cached, "prompt_n": 8, "prompt_ms": prompt_ms, "predicted_n": tokens}
    timings |= {} if rate is None else {"predicted_per_second": rate}
    fields = {"content": "", "tokens": [], "stop": True, "stop_type": "limit", "truncated": False}
    fields |= {"tokens_predicted": tokens, "tokens_evaluated": 8 + cached, "timings": timings}
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def exchange_of(
    reads: Sequence[tuple[float, bytes]], end: ExchangeEnd = ExchangeEnd.COMPLETE, detail: str = ""
) -> Exchange:
    """``reads``: milliseconds after the sending, and the bytes."""
    stamped = tuple((SENT_NS + int(at_ms * MS), data) for at_ms, data in reads)
    return Exchange(SENT_NS, 1e9, stamped, stamped[-1][0] if stamped else SENT_NS, end, detail)


SECOND = tuple(10.0 + 10 * index for index in range(101))  # 100 tokens/s for a second


def stream_of(
    times_ms: Sequence[float] = (10, 20, 30, 40),
    *,
    cached: int = 0,
    prompt_ms: float = 10.0,
    rate: float | None = 100.0,
) -> Exchange:
    """One token a time; tokens with equal times share a read; the stop event has a read of its own."""
    pieces: dict[float, bytes] = {times_ms[0]: head()}
    for index, at_ms in enumerate(times_ms):
        pieces[at_ms] = pieces.get(at_ms, b"") + chunked(token(index))
    last = chunked(stop(len(times_ms), cached=cached, prompt_ms=prompt_ms, rate=rate)) + LAST_CHUNK
    return exchange_of([*pieces.items(), (times_ms[-1] + 0.1, last)])


@dataclass
class Scripted:
    """A Session that plays exchanges in their order and keeps what it was asked."""

    exchanges: list[Exchange]
    dead: AgentError | None = None
    nonces: list[int] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)
    loaded: Loaded = Loaded(1.0, False, "scripted 1")
    expected_tokens: int | None = -1  # -1: as the workload says
    after: Callable[[], EngineTimings | None] | None = None

    def request_for(self, workload: Workload, nonce: int) -> Request:
        self.nonces.append(nonce)
        request = llama_request("http://scripted", workload, 2048, nonce)
        request = replace(request, decode=llama_completion_chunks, after=self.after)
        return request if self.expected_tokens == -1 else replace(request, expected_tokens=self.expected_tokens)

    def stream(
        self, request: Request, body: bytes, limits: Limits, live: LiveCount, cancelled: threading.Event
    ) -> Exchange:
        self.sent.append(body)
        self.limits.append(limits)
        exchange = self.exchanges.pop(0)
        live.follow(exchange.reads)
        return exchange

    def check_alive(self, within_s: float = 0.0) -> None:
        if self.dead is not None:
            raise self.dead

    def close(self) -> None:
        pass


def run(session: Scripted, given: Job | None = None, warmups: int = 0) -> list[Trial]:
    return list(measure(given or job(), session, warmups, threading.Event(), lambda phase, live: None))


def test_warm_ups_come_first_flagged_each_with_a_nonce_of_its_own() -> None:
    phases: list[tuple[str, int]] = []
    session = Scripted([stream_of(), stream_of(), stream_of()])
    lives: list[LiveCount] = []

    def say(phase: str, live: LiveCount | None) -> None:
        assert live is not None
        phases.append((phase, live.reads))
        lives.append(live)

    trials = list(measure(job(), session, 2, threading.Event(), say))
    assert [(trial.index, trial.warmup) for trial in trials] == [(0, True), (1, True), (2, False)]
    assert session.nonces == [1, 2, 0]  # the measured one is the same in every job
    assert len({json.dumps(json.loads(body)["prompt"]) for body in session.sent}) == 3
    assert phases == [("warm-up 1/2", 0), ("warm-up 2/2", 0), ("measuring", 0)]
    assert all(live.reads == 5 for live in lives)
    assert session.limits[0] == limits_of(job().timeouts) == Limits(10.0, 2.0, 3.0)


def test_each_trial_is_handed_over_as_soon_as_it_is_complete() -> None:
    session = Scripted([stream_of(), exchange_of([], ExchangeEnd.CANCELLED)])
    trials = measure(job(), session, 1, threading.Event(), lambda phase, live: None)
    assert next(trials).warmup
    with pytest.raises(RequestFailed):
        next(trials)


def test_counts_times_and_text() -> None:
    (trial,) = run(Scripted([stream_of((12, 22, 32, 42))]), job(keep_output=True))
    assert [arrival.at_s for arrival in trial.arrivals] == pytest.approx([0.012, 0.022, 0.032, 0.042])
    assert [arrival.read for arrival in trial.arrivals] == [0, 1, 2, 3]
    assert (trial.prompt_tokens, trial.completion_tokens, trial.stop_reason) == (8, 4, StopReason.LENGTH)
    assert ttft_s(trial) == pytest.approx(0.012)
    assert decode_tps(trial) == pytest.approx(100.0)
    assert trial.ended_s == pytest.approx(0.0421)
    assert trial.output == " w0 w1 w2 w3"
    assert trial.flags == ()
    (again,) = run(Scripted([stream_of((12, 22, 32, 42))]))
    assert again.output is None and again.output_sha256 == trial.output_sha256


def test_a_primed_workload_sends_the_depth_first_and_measures_the_second_answer() -> None:
    primer = exchange_of([(1, head()), (2, chunked(stop(0)) + LAST_CHUNK)])
    session = Scripted([primer, stream_of((7,), cached=16, prompt_ms=7.0, rate=None)])
    (trial,) = run(session, job(PRIMED))
    first, second = (json.loads(body) for body in session.sent)
    assert (first["n_predict"], len(first["prompt"]), second["n_predict"], len(second["prompt"])) == (0, 16, 1, 24)
    assert second["prompt"][:16] == first["prompt"]
    assert ttft_s(trial) == pytest.approx(0.007)
    assert trial.flags == ()


def test_a_primer_that_fails_fails_the_trial() -> None:
    refusal = response([b'{"error":{"code":400,"message":"no","type":"exceed_context_size_error"}}'], "length")
    session = Scripted([exchange_of([(1, b"".join(refusal).replace(b"200 OK", b"400 Bad Request"))]), stream_of()])
    with pytest.raises(RequestFailed) as caught:
        run(session, job(PRIMED))
    assert caught.value.cause is Cause.PROMPT_TOO_LONG
    assert len(session.sent) == 1


REFUSED = b"".join(
    response([b'{"error":{"code":400,"message":"unknown sampler","type":"invalid_request_error"}}'], "length")
).replace(b"200 OK", b"400 Bad Request")
TOO_LONG = b"".join(
    response([b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}'], "length")
).replace(b"200 OK", b"400 Bad Request")
OPENAI_TOO_LONG = TOO_LONG.replace(b'"type":"exceed_context_size_error"', b'"code":"context_length_exceeded" ')
CUT = [(5.0, head() + chunked(token(0))), (6.0, chunked(token(1)))]
IN_STREAM = b'error: {"code":500,"message":"the GPU is gone","type":"server_error"}\n\n'
NO_WORDS = (head(), LAST_CHUNK)

ENDS = [
    (exchange_of(CUT, ExchangeEnd.CANCELLED, "cancelled"), Cause.CANCELLED, "cancelled"),
    (exchange_of([], ExchangeEnd.FIRST_TOKEN_TIMEOUT, "no token within 2 s"), Cause.FIRST_TOKEN_TIMEOUT, "within 2 s"),
    (exchange_of(CUT, ExchangeEnd.TRIAL_TIMEOUT, "not done within 3 s"), Cause.TRIAL_TIMEOUT, "within 3 s"),
    (exchange_of([], ExchangeEnd.UNREACHABLE, "connection refused"), Cause.ENGINE_LOST, "connection refused"),
    (exchange_of(CUT, ExchangeEnd.BROKEN, "reset by peer"), Cause.STREAM_BROKEN, "reset by peer"),
    (exchange_of([], ExchangeEnd.BROKEN, "closed"), Cause.STREAM_BROKEN, "answer"),
    (exchange_of([(1, REFUSED)]), Cause.REQUEST_REFUSED, "unknown sampler"),
    (exchange_of([(1, REFUSED)], ExchangeEnd.BROKEN, "reset"), Cause.REQUEST_REFUSED, "unknown sampler"),
    (exchange_of([(1, TOO_LONG)]), Cause.PROMPT_TOO_LONG, "too long"),
    (exchange_of([(1, OPENAI_TOO_LONG)]), Cause.PROMPT_TOO_LONG, "too long"),
    (exchange_of([*CUT, (7, chunked(IN_STREAM) + LAST_CHUNK)]), Cause.STREAM_BROKEN, "the GPU is gone"),
    (exchange_of([*CUT, (7, chunked(IN_STREAM))], ExchangeEnd.BROKEN, "reset"), Cause.STREAM_BROKEN, "the GPU is gone"),
    (exchange_of([(1, b"".join(NO_WORDS))]), Cause.STREAM_BROKEN, "without a token"),
]


@pytest.mark.parametrize(("exchange", "cause", "words"), ENDS, ids=[f"{e.end}-{c}" for e, c, _ in ENDS])
def test_each_end_has_its_cause_and_the_engines_words(exchange: Exchange, cause: Cause, words: str) -> None:
    with pytest.raises(AgentError) as caught:
        run(Scripted([exchange]))
    assert caught.value.cause is cause
    assert words in caught.value.detail
    assert isinstance(caught.value, EngineLost) == (cause is Cause.ENGINE_LOST)


def test_every_way_to_end_is_in_the_table() -> None:
    assert {exchange.end for exchange, _, _ in ENDS} == set(ExchangeEnd)


@pytest.mark.parametrize("exchange", [exchange_of([], ExchangeEnd.UNREACHABLE), exchange_of([], ExchangeEnd.BROKEN)])
@pytest.mark.parametrize("reads", [[], CUT])
def test_an_engine_that_died_says_so_before_the_stream_does(
    exchange: Exchange, reads: list[tuple[float, bytes]]
) -> None:
    broken = exchange_of(reads, exchange.end, "reset by peer")
    died = RequestFailed(Cause.ENGINE_CRASHED, "the engine died of SIGABRT", "GGML_ASSERT(x) failed")
    with pytest.raises(RequestFailed) as caught:
        run(Scripted([broken], dead=died))
    assert caught.value is died


@pytest.mark.parametrize(
    ("exchange", "expected", "flags"),
    [
        (stream_of(), 4, ()),
        (stream_of(cached=3), 4, (Flag.PROMPT_CACHED,)),
        (stream_of((10, 20, 30)), 4, (Flag.FEWER_TOKENS,)),
        (stream_of((10, 20, 30)), None, ()),  # the model may stop by itself
        (stream_of((10, 10, 10, 20), rate=None), 4, (Flag.ARRIVALS_BUNCHED,)),
        (stream_of(SECOND, rate=103.2), 4, (Flag.CLOCKS_DISAGREE,)),  # 3.2 % more than the client's 100 tokens/s
        (stream_of(SECOND, rate=102.9), 4, ()),
        (stream_of(SECOND, rate=96.9), 4, (Flag.CLOCKS_DISAGREE,)),
        (stream_of(SECOND, rate=97.1), 4, ()),
        (stream_of(rate=95.0), 4, ()),  # 5 % of 30 ms: what one late stamp can make
        (stream_of(rate=90.0), 4, (Flag.CLOCKS_DISAGREE,)),  # 3 ms
        (stream_of(prompt_ms=4.9), 4, (Flag.CLOCKS_DISAGREE,)),  # 5.1 ms apart
        (stream_of(prompt_ms=5.1), 4, ()),  # 4.9 ms: under the floor
        (stream_of((1000, 1010, 1020, 1030), prompt_ms=972.0), 4, ()),  # 2.9 %
        (stream_of((1000, 1010, 1020, 1030), prompt_ms=970.0), 4, (Flag.CLOCKS_DISAGREE,)),  # 3.1 %
    ],
)
def test_each_flag_is_raised_where_it_should_and_nowhere_else(
    exchange: Exchange, expected: int | None, flags: tuple[Flag, ...]
) -> None:
    (trial,) = run(Scripted([exchange], expected_tokens=expected))
    assert trial.flags == flags


def test_figures_that_an_engine_tells_afterwards_fill_what_the_stream_left_out() -> None:
    told = EngineTimings(prompt_tokens=99, ttft_s=0.01, decode_tps=1.0)
    (trial,) = run(Scripted([stream_of()], after=lambda: told))
    (without,) = run(Scripted([stream_of()], after=lambda: None))
    assert trial.engine == replace(without.engine, ttft_s=0.01)
    assert (without.engine.prompt_tokens, without.engine.decode_tps, without.engine.ttft_s) == (8, 100.0, None)


def test_a_primed_trial_that_found_less_in_the_cache_is_flagged() -> None:
    primer = exchange_of([(1, head()), (2, chunked(stop(0)) + LAST_CHUNK)])
    (trial,) = run(Scripted([primer, stream_of((7,), cached=15, prompt_ms=7.0, rate=None)]), job(PRIMED))
    assert trial.flags == (Flag.PROMPT_CACHED,)


def test_without_the_engines_count_chunks_are_counted_and_the_trial_is_flagged() -> None:
    silent = exchange_of([(10, head() + chunked(token(0))), (20, chunked(token(1))), (21, LAST_CHUNK)])
    (trial,) = run(Scripted([silent], expected_tokens=2))
    assert (trial.completion_tokens, trial.stop_reason, trial.engine) == (2, StopReason.UNKNOWN, EngineTimings())
    assert trial.flags == (Flag.TOKEN_COUNT_UNKNOWN, Flag.END_UNTOLD)


EVENLY = tuple(0.1 * n for n in range(1, 9))


@pytest.mark.parametrize(
    ("tokens", "reasoning", "shown", "error"),
    [
        (8, None, False, 0.0),  # one event a token
        (9, None, False, 0.125 / 8),  # the end of text has no event
        (32, None, False, 3 / 31),  # four tokens an event
        (308, 300, False, 300 / 307),  # reasoning that nobody saw was over before the first event
        (32, 16, True, 3 / 31),
        (1, None, False, 0.0),
    ],
)
def test_tokens_whose_arrival_nobody_told(tokens: int, reasoning: int | None, shown: bool, error: float) -> None:
    arrivals = tuple(Arrival(at_s, place, None, shown and place < 4) for place, at_s in enumerate(EVENLY))
    trial = Trial(0, False, 0.0, arrivals, 1.0, 5, tokens, reasoning, StopReason.END, EngineTimings())
    assert uncounted_rate_error(trial) == pytest.approx(error)
    counted = replace(trial, arrivals=tuple(replace(each, tokens=4) for each in arrivals))
    assert uncounted_rate_error(counted) == 0.0


def test_a_length_that_ends_before_its_limit_is_the_contexts() -> None:
    (trial,) = run(Scripted([stream_of()]), job(Chat("c", "Hello", 32)))
    assert (trial.completion_tokens, trial.stop_reason) == (4, StopReason.CONTEXT_FULL)


@pytest.mark.parametrize(("limit", "flags"), [(3, ()), (4, (Flag.TOKEN_COUNT_UNKNOWN,))])
def test_an_answer_cut_at_its_limit_in_as_many_pieces_is_counted(limit: int, flags: tuple[Flag, ...]) -> None:
    cut = {"content": "", "tokens": [], "stop": True, "stop_type": "limit", "truncated": False}
    reads = [(10.0, head() + chunked(token(0))), *((10.0 * n, chunked(token(n))) for n in (2, 3))]
    last = chunked(b"data: " + json.dumps(cut).encode() + b"\n\n") + LAST_CHUNK
    (trial,) = run(Scripted([exchange_of([*reads, (40.0, last)])]), job(Chat("c", "Hello", limit)))
    assert (trial.completion_tokens, trial.stop_reason, trial.flags) == (3, StopReason.LENGTH, flags)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            "Trying to keep the first 900 tokens when context overflows",
            Cause.PROMPT_TOO_LONG,
        ),
        ("internal error", Cause.STREAM_BROKEN),
    ],
)
def test_an_error_inside_a_good_answer_has_the_cause_that_its_words_say(words: str, cause: Cause) -> None:
    error = b"data: " + json.dumps({"error": {"message": words}}).encode() + b"\n\n"
    broken = exchange_of([(10, head() + chunked(token(0)) + chunked(error) + LAST_CHUNK)])
    with pytest.raises(RequestFailed) as caught:
        run(Scripted([broken], expected_tokens=2))
    assert (caught.value.cause, words in caught.value.detail) == (cause, True)


def test_an_image_that_is_unpacked_before_the_prompt_is_timed_is_no_disagreement() -> None:
    image = Image("red.png", "image/png", 64, 64, "AAAA")
    late = stream_of([1_070, 1_080, 1_090, 1_100], prompt_ms=1_000)
    (trial,) = run(Scripted([late]), job(Chat("see", "What is it?", 4, image=image)))
    assert Flag.CLOCKS_DISAGREE not in trial.flags
    (trial,) = run(Scripted([late]), job(Chat("see", "What is it?", 4)))
    assert Flag.CLOCKS_DISAGREE in trial.flags


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ([f" w{number}" for number in range(120)], ()),
        ([" the"] * 120, (Flag.OUTPUT_REPEATED,)),
        (["\x07\x1b"] * 12, (Flag.OUTPUT_BROKEN,)),
        ([" "] * 12, (Flag.OUTPUT_EMPTY,)),
    ],
)
def test_the_text_of_a_chat_is_looked_at_and_that_of_random_prompts_is_not(
    words: list[str], flags: tuple[Flag, ...]
) -> None:
    reads = [(10.0 * (number + 1), chunked(token(number, word))) for number, word in enumerate(words)]
    reads[0] = (10.0, head() + reads[0][1])
    last = (reads[-1][0] + 0.1, chunked(stop(len(words))) + LAST_CHUNK)
    (trial,) = run(Scripted([exchange_of([*reads, last])], expected_tokens=len(words)), job(Chat("hi", "hi", 200)))
    assert trial.flags == flags
    (trial,) = run(Scripted([exchange_of([*reads, last])], expected_tokens=len(words)))
    assert trial.flags == ()


def test_an_empty_answer_with_the_engines_word_on_it_is_a_trial() -> None:
    empty = exchange_of([(10, head() + chunked(stop(0)) + LAST_CHUNK)])
    (trial,) = run(Scripted([empty]), job(Chat("hi", "hi", 4)))
    assert (trial.completion_tokens, trial.arrivals, ttft_s(trial)) == (0, (), None)


@pytest.mark.parametrize(
    ("reads", "error"),
    [
        ((), 0.0),
        ((0, 0), 0.0),  # no rate to be wrong
        ((0, 1, 2, 3), 0.0),
        ((0, 1, 1, 1, 2), 0.0),  # in between: the ends are their own
        ((0, 0, 1, 2), 1 / 3),
        ((0, 1, 2, 2, 2), 2 / 4),
        ((0, 0, 1, 2, 2), 2 / 4),
        ((*range(100), 99), 1 / 100),
        ((0, 0, 0), 4 / 2),
    ],
)
def test_bunched_rate_error(reads: tuple[int, ...], error: float) -> None:
    arrivals = tuple(Arrival(0.01 * read, read) for read in reads)
    assert bunched_rate_error(arrivals) == pytest.approx(error)


def test_tokens_that_share_the_last_read_of_a_long_stream_are_flagged_from_one_in_a_hundred() -> None:
    times = [10.0 + index for index in range(100)]
    for shared, flags in ((1, ()), (2, (Flag.ARRIVALS_BUNCHED,))):
        (trial,) = run(Scripted([stream_of([*times, *[times[-1]] * shared], rate=None)], expected_tokens=100))
        assert trial.flags == flags, shared
