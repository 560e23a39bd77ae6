from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.engines.stream.chunks import (
    Chunk,
    Final,
    bunched_share,
    error_text,
    llama_completion_chunks,
    openai_chat_chunks,
    stream_events,
)
from agents.engines.stream.response import EndDetector
from agents.engines.stream.sse import StreamEvent, first_event_ns, read_response
from agents.errors import RequestFailed
from tests.fakes.scripted_server import chunked, head, response

# Recorded from xllamacpp 2026.10.11549, read by read, for two tokens; ``generation_settings`` left out.
RECORDED = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nX-Accel-Buffering: no\r\n"
    b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    b'7d\r\ndata: {"index":0,"content":" hufinuba","tokens":[1486],"stop":false,"id_slot":-1,"tokens_predicted":1,'
    b'"tokens_evaluated":5}\n\n\r\n',
    b'7c\r\ndata: {"index":0,"content":" desekeba","tokens":[619],"stop":false,"id_slot":-1,"tokens_predicted":2,'
    b'"tokens_evaluated":5}\n\n\r\n',
    chunked(
        b'data: {"index":0,"content":"","tokens":[],"id_slot":0,"stop":true,"tokens_predicted":2,'
        b'"tokens_evaluated":5,"prompt":"hello","has_new_line":false,"truncated":false,"stop_type":"limit",'
        b'"stopping_word":"","tokens_cached":8,"timings":{"cache_n":0,"prompt_n":5,"prompt_ms":1.975,'
        b'"prompt_per_token_ms":0.395,"prompt_per_second":2531.645569620253,"predicted_n":2,"predicted_ms":2.832,'
        b'"predicted_per_token_ms":0.944,"predicted_per_second":1059.322033898305}}\n\n'
    ),
    b"0\r\n",
    b"\r\n",
)


def reads_of(*pieces: bytes) -> list[tuple[int, bytes]]:
    """Each piece a read, at 1000, 1001, ... ns."""
    return [(1_000 + index, piece) for index, piece in enumerate(pieces) if piece]


def split(data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return reads_of(*(data[a:b] for a, b in pairwise(edges)))


def sse(*objects: Any) -> tuple[StreamEvent, ...]:
    """Events that hold ``objects``, each in a read of its own."""
    return tuple(
        StreamEvent(at_ns=1_000 + index, read=index, data=each if isinstance(each, str) else json.dumps(each))
        for index, each in enumerate(objects)
    )


def test_a_recorded_stream_of_llama_server() -> None:
    found = read_response(reads_of(*RECORDED))
    assert (found.status, found.complete, found.header("server")) == (200, True, "llama.cpp")
    timings = EngineTimings(
        prompt_tokens=5,
        cached_tokens=0,
        prompt_s=0.001975,
        generated_tokens=2,
        generate_s=0.002832,
        decode_tps=1059.322033898305,
    )
    assert llama_completion_chunks(stream_events(found)) == (
        Chunk(1_001, 1, " hufinuba", tokens=1),
        Chunk(1_002, 2, " desekeba", tokens=1),
        Chunk(1_003, 3, tokens=0, final=Final(StopReason.LENGTH, 5, 2, engine=timings)),
    )


HELL = (
    b'\xef\xbb\xbf: a comment\r\ndata: {"content": "gr\xc3\xbc\xc3\x9fe \xf0\x9f\x8d\x8b"}\r\n\r\n'
    b":\n\nevent: error\ndata:two\ndata:  lines\n\n"
    b"id: 7\rdata: cr\r\rdata\n\nretry: 5\n\ndata: last"
)
HELL_EVENTS = [
    ("message", '{"content": "grüße 🍋"}'),
    ("error", "two\n lines"),
    ("message", "cr"),
    ("message", "last"),
]


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_events_from_hell(framing: str) -> None:
    found = read_response(reads_of(*response([HELL], framing)))
    assert [(event.kind, event.data) for event in found.events] == HELL_EVENTS
    assert found.body == HELL
    assert found.complete


@settings(deadline=None)
@given(
    framing=st.sampled_from(["chunked", "length", "close"]),
    pieces=st.lists(st.integers(0, len(HELL)), max_size=6),
    cuts=st.lists(st.integers(0, 10_000), max_size=30),
)
def test_no_split_changes_the_events(framing: str, pieces: list[int], cuts: list[int]) -> None:
    body = [piece for _, piece in split(HELL, pieces)]
    whole = b"".join(response(body, framing))
    reads = split(whole, cuts)
    found = read_response(reads)
    assert [(event.kind, event.data) for event in found.events] == HELL_EVENTS
    # Each event's time is that of the first read at which the bytes so far hold it.
    assert all(event.at_ns == reads[event.read][0] for event in found.events)
    for place, event in enumerate(found.events[:-1]):
        assert len(read_response(reads[: event.read + 1]).events) > place
        if event.read and b"\r\n\r\n" in b"".join(data for _, data in reads[: event.read]):
            assert len(read_response(reads[: event.read], closed=False).events) <= place


@settings(deadline=None)
@given(
    framing=st.sampled_from(["chunked", "length", "close"]),
    cuts=st.lists(st.integers(0, 10_000), max_size=30),
    trailers=st.booleans(),
)
def test_the_end_is_found_where_it_is_and_nowhere_else(framing: str, cuts: list[int], trailers: bool) -> None:
    pieces = response([HELL, b"{}\r\n\r\n", b"0\r\n\r\n"], framing)
    if framing == "chunked" and trailers:
        pieces = (*pieces[:-1], b"0\r\nX-Time: 5\r\n\r\n")
    whole = split(b"".join(pieces), cuts)
    growing: list[tuple[int, bytes]] = []
    ending = EndDetector(growing)
    for place, read in enumerate(whole):
        assert not ending.reached()
        growing.append(read)
        assert ending.reached() is (framing != "close" and place == len(whole) - 1)
    assert ending.reached(closed=True)
    assert ending.is_framed is (framing != "close")
    assert EndDetector(whole).reached(closed=True)


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ([], "the connection closed before an answer"),
        ([head()[:-5]], "the connection closed before an answer"),
        ([head(), chunked(b"data: a")], "the connection closed before the end of the response"),
        ([head(framing="length", length=2), b"a"], "the connection closed before the end of the response"),
        ([head(), b"xyz\r\n\r\n"], "illegal chunk header: bytearray(b'xyz\\r\\n')"),
        ([b"220 smtp ready\r\n\r\n"], "illegal status line: bytearray(b'220 smtp ready')"),
    ],
)
def test_a_response_without_its_end(pieces: list[bytes], fault: str) -> None:
    ending = EndDetector(reads_of(*pieces))
    assert not ending.reached(closed=True)
    assert ending.fault == fault


@pytest.mark.parametrize(
    ("pieces", "complete", "texts"),
    [
        ([head(), chunked(b"data: a\n\n"), chunked(b"data: b\n\n")], False, ["a", "b"]),
        ([head(), chunked(b"data: a\n\n"), b"20\r\ndata: hal"], False, ["a"]),  # half a line is no event
        ([head(), chunked(b"data: a\n\n"), b"zz\r\n"], False, ["a"]),  # no chunk size
        ([head(framing="length", length=99), b"data: a\n\n"], False, ["a"]),
        ([head(framing="close"), b"data: a\n\ndata: [DONE]"], True, ["a", "[DONE]"]),
        ([head(content_type="application/x-ndjson", framing="close"), b'{"a":1}\n\n{"b', b'":2}'], True, 2),
        ([head(content_type="text/plain; charset=utf-8", framing="close"), b"\ndata: a\n\n"], True, ["a"]),
        ([head(content_type="application/json", framing="close"), b'{"data": 1}'], True, []),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + head(framing="close"), b"data: a\n\n"], True, ["a"]),
        ([head("204 No Content", framing="")], True, []),
    ],
)
def test_ends_and_kinds_of_bodies(pieces: list[bytes], complete: bool, texts: list[str] | int) -> None:
    found = read_response(reads_of(*pieces))
    assert found.complete is complete
    data = [event.data for event in found.events]
    assert (len(data) if isinstance(texts, int) else data) == texts


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([], "closed before an answer"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], "not HTTP"),
        ([b"HTTP/1.1 200 OK\r\nContent-Ty"], "not HTTP"),
        ([b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b"], "compressed (gzip)"),
    ],
)
def test_what_is_no_response_is_an_error_of_ours(pieces: list[bytes], words: str) -> None:
    with pytest.raises(RequestFailed) as caught:
        read_response(reads_of(*pieces))
    assert caught.value.cause is Cause.STREAM_BROKEN
    assert words in caught.value.detail


@pytest.mark.parametrize(
    ("status", "kind", "body", "cause", "words"),
    [
        (
            "400 Bad Request",
            "application/json",
            b'{"error":{"code":400,"message":"request (605 tokens) exceeds it","type":"exceed_context_size_error"}}',
            Cause.REQUEST_REFUSED,
            "HTTP 400: request (605 tokens) exceeds it (exceed_context_size_error)",
        ),
        ("500 Oh", "text/html", b"<h1>Bad\r\n gateway</h1>", Cause.REQUEST_REFUSED, "HTTP 500: <h1>Bad gateway</h1>"),
        ("404 No", "application/json", b'{"detail":"Not Found"}', Cause.REQUEST_REFUSED, "HTTP 404: Not Found"),
        ("503 No", "text/plain", b"", Cause.STREAM_BROKEN, "HTTP 503: (no words)"),
        ("200 OK", "application/json", b'{"error":"no room"}', Cause.REQUEST_REFUSED, "HTTP 200: no room"),
        ("200 OK", "text/html", b"<html>", Cause.STREAM_BROKEN, "no stream of events but text/html: <html>"),
    ],
)
def test_an_answer_without_a_stream_keeps_the_engines_words(
    status: str, kind: str, body: bytes, cause: Cause, words: str
) -> None:
    with pytest.raises(RequestFailed) as caught:
        stream_events(
            read_response(reads_of(*response([body] if body else [], "close", status=status, content_type=kind)))
        )
    assert (caught.value.cause, caught.value.detail) == (cause, words)


def test_the_words_of_an_error_are_bounded_and_printable() -> None:
    assert len(error_text(b"x" * 1_000_000)) == 2_000
    assert error_text(b"\x1b[31mred\x07 \xff") == "[31mred �"
    assert error_text(b"[" * 100_000).startswith("[[[")


@pytest.mark.parametrize(
    ("body", "first"),
    [
        ([b": ping\n\n", b": ping\n\n"], None),
        ([b": ping\n\n", b"data: x\n\n"], 1_002),
        ([b"da", b"ta: x\n", b"\n"], 1_003),
        ([b'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'], None),
        ([b'data: {"type":"prompt_processing.progress","progress":0.5}\n\n', b'data: {"content":"a"}\n\n'], 1_002),
        ([b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{"}}]}}]}\n\n'], 1_001),
        ([b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'], 1_001),
        ([b'data: {"error":{"message":"no"}}\n\n'], 1_001),
    ],
)
def test_what_says_nothing_is_not_the_first_event(body: list[bytes], first: int | None) -> None:
    assert first_event_ns(reads_of(head(), *map(chunked, body))) == first


def test_the_first_byte_of_a_plain_answer_is_its_first_event() -> None:
    plain = response([b"{"], "length", content_type="application/json")
    assert first_event_ns(reads_of(*plain)) == 1_001
    assert first_event_ns(reads_of(plain[0])) is None


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def finish(reason: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def test_an_openai_stream_with_reasoning_tools_and_usage_after_the_stop() -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    call = {"index": 0, "function": {"name": "look", "arguments": "{}"}}
    chunks = openai_chat_chunks(
        sse(
            delta(role="assistant", content=""),
            delta(reasoning_content="hm", reasoning="hm", content=None),
            delta(reasoning_content=None, reasoning="so", content="Yes"),
            delta(tool_calls=[call]),
            finish("tool_calls"),
            {"choices": [], "usage": usage},
            "[DONE]",
        )
    )
    assert [(chunk.text, chunk.reasoning) for chunk in chunks if chunk.generated] == [
        ("hm", True),
        ("so", True),
        ("Yes", False),
        ("look{}", False),
    ]
    assert {chunk.tokens for chunk in chunks} == {None}
    final = Final(StopReason.END, 20, 9, 4, EngineTimings(cached_tokens=16))
    assert [chunk.final for chunk in chunks if chunk.final] == [final]
    assert chunks[-1].final == final


@pytest.mark.parametrize(
    ("events", "stop", "completion"),
    [
        ([delta(content="a"), finish("length")], StopReason.LENGTH, None),
        ([delta(content="a"), "[DONE]"], StopReason.UNKNOWN, None),
        ([delta(content="a"), finish("stop"), "[DONE]"], StopReason.END, None),
        ([{"choices": [{"text": "a", "finish_reason": "length"}], "usage": None}], StopReason.LENGTH, None),
        ([finish("stop") | {"usage": {"completion_tokens": 0}}], StopReason.END, 0),
        (["[DONE]"], StopReason.UNKNOWN, None),
    ],
)
def test_openai_streams_that_tell_less(events: list[Any], stop: StopReason, completion: int | None) -> None:
    final = openai_chat_chunks(sse(*events))[-1].final
    assert final == Final(stop, None, completion)


def test_a_stream_that_just_stops_has_no_final() -> None:
    assert [chunk.final for chunk in openai_chat_chunks(sse(delta(content="a"), delta(content="b")))] == [None, None]
    assert llama_completion_chunks(sse({"content": "a", "tokens": [1]})) == (Chunk(1_000, 0, "a", tokens=1),)
    assert openai_chat_chunks(()) == llama_completion_chunks(()) == ()


def test_tokens_of_a_chunk_from_running_counts() -> None:
    """A token without text comes with the next event; the end-of-text token comes with the last."""
    events = [{"content": "a", "tokens_predicted": 1}, {"content": "bc", "tokens_predicted": 3}]
    stop = {"content": "", "tokens_predicted": 4, "stop": True, "stop_type": "eos"}
    chunks = llama_completion_chunks(sse(*events, stop))
    assert [(chunk.text, chunk.tokens, chunk.generated) for chunk in chunks] == [
        ("a", 1, True),
        ("bc", 2, True),
        ("", 1, True),
    ]
    assert chunks[-1].final == Final(StopReason.END, None, 4)


def test_running_counts_of_openai_dialects() -> None:
    llama = [delta(content="a") | {"timings": {"predicted_n": 1}}, delta(content="b") | {"timings": {"predicted_n": 2}}]
    vllm = [
        delta(content="a") | {"usage": {"completion_tokens": 1}},
        delta(content="b") | {"usage": {"completion_tokens": 4}},
    ]
    only_last = [delta(content="a"), delta(content="b") | {"usage": {"completion_tokens": 4}}]
    counts = [[chunk.tokens for chunk in openai_chat_chunks(sse(*events))] for events in (llama, vllm, only_last)]
    assert counts == [[1, 1], [1, 3], [None, None]]


def test_the_end_of_text_token_of_a_chat_comes_with_its_finish() -> None:
    """As llama-server b11549 sends it: the finish has no count, and the usage after it one more than the texts."""
    texts = [delta(content=text) | {"timings": {"predicted_n": place}} for place, text in enumerate("ab", 1)]
    usage = {"choices": [], "usage": {"completion_tokens": 3}, "timings": {"predicted_n": 3}}
    chunks = openai_chat_chunks(sse(*texts, finish("stop"), usage))
    assert [(chunk.text, chunk.tokens, chunk.generated) for chunk in chunks] == [
        ("a", 1, True),
        ("b", 1, True),
        ("", 1, True),
    ]


def usage_of(**usage: object) -> dict[str, object]:
    return {"choices": [], "usage": usage}


@pytest.mark.parametrize(
    ("usages", "wanted"),
    [
        ([usage_of(prompt_tokens=5, completion_tokens=2), usage_of(prompt_tokens=0, completion_tokens=0)], (5, 2)),
        ([usage_of(prompt_tokens=5, completion_tokens=2), usage_of()], (5, 2)),
        ([usage_of(input_tokens=5, output_tokens=2)], (5, 2)),
        (
            [
                usage_of(
                    prompt_tokens=5,
                    completion_tokens=2,
                    total_tokens=10,
                    completion_tokens_details={"reasoning_tokens": 3},
                )
            ],
            (5, 5),  # xAI leaves reasoning out
        ),
        ([{"choices": [{"delta": {}, "usage": {"prompt_tokens": 5, "completion_tokens": 2}}]}], (5, 2)),
        ([usage_of(prompt_tokens=5, completion_tokens=2, prompt_tokens_details=[], total_tokens=-1)], (5, 2)),
    ],
)
def test_usage_in_many_shapes(usages: list[dict[str, object]], wanted: tuple[int, int]) -> None:
    final = openai_chat_chunks(sse(delta(content="a"), delta(content="b"), finish("stop"), *usages))[-1].final
    assert final is not None and (final.prompt_tokens, final.completion_tokens) == wanted


def test_zeros_in_every_event_count_no_token() -> None:
    texts = [{**delta(content=word), "usage": {"completion_tokens": 0}} for word in "ab"]
    chunks = openai_chat_chunks(sse(*texts, finish("stop"), usage_of(completion_tokens=2)))
    assert [chunk.tokens for chunk in chunks] == [None] * len(chunks)


@pytest.mark.parametrize(
    "last",
    [
        {"choices": [{"delta": {}, "finish_reason": "error"}]},
        {"choices": [{"delta": {}, "finish_reason": "stop", "error": {"message": "no memory"}}]},
    ],
)
def test_an_error_inside_a_choice(last: dict[str, object]) -> None:
    chunks = openai_chat_chunks(sse(delta(content="a"), last))
    assert chunks[-1].error in ("the engine ended with finish_reason error", "no memory")


@pytest.mark.parametrize(
    ("events", "ended"),
    [
        ([{**delta(content="a"), "usage": {"completion_tokens": 1}}], False),  # vLLM, cut
        ([delta(content="a"), usage_of(completion_tokens=1)], True),
        ([delta(content="a"), "[DONE]"], True),
        ([delta(content="a"), finish("stop")], True),
    ],
)
def test_whether_the_engine_said_that_this_was_all(events: list[dict[str, object] | str], ended: bool) -> None:
    final = openai_chat_chunks(sse(*events))[-1].final
    assert final is not None and final.ended is ended


def test_a_ping_that_is_no_json_is_let_pass() -> None:
    text = b'event: ping\ndata: 12:00\n\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n'
    found = stream_events(read_response(reads_of(*response([text], "close", content_type="application/json"))))
    chunks = openai_chat_chunks(found)
    assert [chunk.text for chunk in chunks if chunk.generated] == ["a"] and chunks[-1].final is not None


@pytest.mark.parametrize(
    ("stop_type", "truncated", "reason"),
    [
        ("eos", False, StopReason.END),
        ("word", False, StopReason.END),
        ("limit", False, StopReason.LENGTH),
        ("limit", True, StopReason.CONTEXT_FULL),
        ("none", False, StopReason.UNKNOWN),
    ],
)
def test_why_llama_server_stopped(stop_type: str, truncated: bool, reason: StopReason) -> None:
    (chunk,) = llama_completion_chunks(
        sse({"content": "", "stop": True, "stop_type": stop_type, "truncated": truncated})
    )
    assert chunk.final == Final(reason)


def test_a_single_token_has_no_rate() -> None:
    """llama-server tells 0.0 tokens/s then, and NaN is no JSON but seen."""
    timings = '{"predicted_n": 1, "predicted_per_second": 0.0, "prompt_ms": NaN}'
    (chunk,) = llama_completion_chunks(sse(f'{{"stop": true, "timings": {timings}}}'))
    assert chunk.final is not None
    assert chunk.final.engine == EngineTimings(generated_tokens=1)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}},
            "exceeded. (ser",
        ),
        ({"error": "out of memory"}, "out of memory"),
        ({"object": "error", "message": "engine died", "code": 500}, "engine died"),
        ({"detail": "gone"}, "gone"),
        ("<html><body>502</body></html>", "not JSON: <html>"),
        ('{"content": "hal', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 10_000, "not JSON"),
        ("7", "not an object"),
        ({"content": 5, "choices": "none"}, "cannot be read"),
        ({"errors": ["no memory", {"msg": "left", "loc": ["gpu", 0]}]}, "no memory; gpu.0: left"),
        ({"code": 5, "message": "died"}, "died"),
        ({"status": "error", "detail": "died"}, "died"),
    ],
)
def test_an_error_in_mid_stream_keeps_what_came_before(event: Any, words: str) -> None:
    first = {"content": "a", "choices": [{"delta": {"content": "a"}}]}
    for chunks in (llama_completion_chunks, openai_chat_chunks):
        before, broken = chunks(sse(first, event, first))
        assert (before.text, before.error) == ("a", None)
        assert broken.error is not None
        assert words in broken.error
        assert broken.at_ns == 1_001


def test_an_event_of_kind_error_is_an_error_whatever_it_holds() -> None:
    for data, words in (("slot unavailable", "slot unavailable"), ('{"code": 1}', '{"code": 1}')):
        (chunk,) = llama_completion_chunks([StreamEvent(1, 0, data, "error")])
        assert chunk.error == words


def test_half_a_character_becomes_the_replacement_character() -> None:
    events = sse('{"content": "\\ud83c"}', '{"content": "\\ud83c\\udf4b!"}')
    texts = [chunk.text for chunk in llama_completion_chunks(events)]
    assert texts == ["�", "🍋!"]
    assert "".join(texts).encode()


def chunk_in(read: int, tokens: int | None = 1, text: str = "a") -> Chunk:
    return Chunk(read, read, text, tokens=tokens)


@pytest.mark.parametrize(
    ("chunks", "share"),
    [
        ([], 0.0),
        ([chunk_in(1)], 0.0),
        ([chunk_in(1), chunk_in(2), chunk_in(3)], 0.0),
        ([chunk_in(1), chunk_in(1), chunk_in(3), chunk_in(4)], 0.25),
        ([chunk_in(1), chunk_in(2), chunk_in(2), chunk_in(4)], 0.25),  # in the middle
        ([chunk_in(1, None), chunk_in(1, None)], 0.5),
        ([chunk_in(1), chunk_in(2, 3)], 0.5),  # one event, three tokens
        ([chunk_in(1), chunk_in(2), chunk_in(2, 0, "")], 0.0),  # the stop event came with the last token
    ],
)
def test_bunched_arrivals(chunks: list[Chunk], share: float) -> None:
    assert bunched_share(chunks) == pytest.approx(share)


FIELDS = (
    *("choices", "delta", "content", "usage", "timings", "error", "stop", "tokens", "prompt_ms", "message", "detail"),
    *("completion_tokens", "tool_calls", "function", "finish_reason", "tokens_predicted", "predicted_n", "reasoning"),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(json_values.map(json.dumps) | st.text(), max_size=5))
def test_no_event_makes_a_decoder_raise(data: list[str]) -> None:
    for decoder in (llama_completion_chunks, openai_chat_chunks):
        chunks = decoder(sse(*data))
        assert all(chunk.error is None and chunk.final is None for chunk in chunks[:-1])
        assert "".join(chunk.text for chunk in chunks).encode() is not None
        assert 0 <= bunched_share(chunks) <= 1


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.booleans())
def test_random_bytes_raise_only_our_own_errors(pieces: list[bytes], with_head: bool) -> None:
    reads = reads_of(*([head()] if with_head else []), *pieces)
    first_event_ns(reads)
    try:
        stream_events(read_response(reads))
    except RequestFailed as error:
        assert error.detail
