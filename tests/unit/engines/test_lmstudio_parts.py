"""LM Studio's parts that only decide: streams, runtimes, names, configurations, requests."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.contract.job import Chat, Image, LoadSettings, Runtime, Sampling
from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.engines.lmstudio.api import StoredModel, pick
from agents.engines.lmstudio.requests import v0_request, v1_request
from agents.engines.lmstudio.runtime import InstalledRuntime, choose, parse_runtimes, runtime_of
from agents.engines.lmstudio.settings import refuse_config_mismatch, refuse_values, rest_fields, sdk_config
from agents.engines.lmstudio.stream import RELOADED, v0_chunks, v1_chunks
from agents.engines.stream.sse import StreamEvent
from agents.errors import LoadFailed, Unsupported

RECORDED = Path(__file__).parents[2] / "recordings/lmstudio"
CHAT = Chat("hello", "Say hello.", 16)


def events_of(text: str) -> tuple[StreamEvent, ...]:
    """Each a millisecond after the one before."""
    found = []
    for index, block in enumerate(text.strip().split("\n\n")):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append(StreamEvent(index * 1_000_000, index, lines["data"], lines.get("event", "message")))
    return tuple(found)


STREAM = events_of((RECORDED / "chat_v1.sse").read_text(encoding="utf-8"))


def test_reasoning_and_answer_are_told_apart_and_chunks_are_not_tokens() -> None:
    chunks = v1_chunks(STREAM, max_tokens=16, context_tokens=4096)
    generated = [(chunk.text, chunk.reasoning, chunk.tokens) for chunk in chunks if chunk.generated]
    assert generated == [
        ("Need to", True, None),
        (" greet.", True, None),
        ("Hello", False, None),
        (" there.", False, None),
    ]
    final = chunks[-1].final
    assert final is not None
    assert (final.prompt_tokens, final.completion_tokens, final.reasoning_tokens) == (329, 9, 5)
    assert final.engine == EngineTimings(generated_tokens=9, ttft_s=0.781, decode_tps=43.73)


@pytest.mark.parametrize(
    ("max_tokens", "context", "reason"),
    [
        (9, 4096, StopReason.LENGTH),
        (10, 4096, StopReason.END),
        (10, None, StopReason.END),
        (10, 338, StopReason.CONTEXT_FULL),
    ],
)
def test_why_it_stopped_is_worked_out_of_the_counts(max_tokens: int, context: int | None, reason: StopReason) -> None:
    final = v1_chunks(STREAM, max_tokens=max_tokens, context_tokens=context)[-1].final
    assert final is not None and final.stop_reason is reason


@pytest.mark.parametrize("result", [{}, {"result": {}}, {"result": {"stats": {}}}, {"result": None}])
def test_an_end_without_figures_is_an_end(result: dict[str, Any]) -> None:
    end = StreamEvent(9, 9, json.dumps({"type": "chat.end", **result}), "chat.end")
    final = v1_chunks((*STREAM[:-1], end), max_tokens=16, context_tokens=None)[-1].final
    assert final is not None
    assert (final.stop_reason, final.completion_tokens) == (StopReason.UNKNOWN, None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('{"type":"model_load.start","model_instance_id":"a"}', RELOADED),
        ('{"type":"error","error":{"type":"internal_error","message":"boom"}}', "boom (internal_error)"),
        ('{"type":"message.delta","content":7}', "content"),
        ("nonsense", "not JSON"),
    ],
)
def test_what_is_wrong_in_a_stream_is_its_last_chunk(data: str, words: str) -> None:
    chunks = v1_chunks((*STREAM[:7], StreamEvent(9, 9, data), STREAM[-1]), max_tokens=16, context_tokens=None)
    assert chunks[-1].error is not None and words in chunks[-1].error


OLD_STREAM = (
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 24, "completion_tokens": 53, "total_tokens": 77}},
)
OLD_STATS = json.loads((RECORDED / "chat_v0.json").read_text(encoding="utf-8"))["stats"]


@pytest.mark.parametrize(
    ("stats", "engine", "reason"),
    [
        (OLD_STATS, EngineTimings(None, None, None, 53, 0.954, 0.111, 51.43709529007664), StopReason.END),
        ({**OLD_STATS, "stop_reason": "contextLengthReached"}, None, StopReason.CONTEXT_FULL),
        ({}, None, StopReason.END),
        (None, EngineTimings(), StopReason.END),
        ("none", EngineTimings(), StopReason.END),
    ],
)
def test_the_old_stream_is_openais_with_stats_where_they_come(
    stats: Any, engine: EngineTimings | None, reason: StopReason
) -> None:
    parts = [*OLD_STREAM[:-1], {**OLD_STREAM[-1], **({} if stats is None else {"stats": stats})}]
    events = tuple(StreamEvent(index, index, json.dumps(part)) for index, part in enumerate(parts))
    final = v0_chunks((*events, StreamEvent(9, 9, "[DONE]")))[-1].final
    assert final is not None
    assert (final.prompt_tokens, final.completion_tokens, final.stop_reason) == (24, 53, reason)
    assert engine is None or final.engine == engine


LISTED = parse_runtimes((RECORDED / "runtime_ls.txt").read_text(encoding="utf-8"))


def test_the_table_of_runtimes_is_read() -> None:
    assert [(each.alias, each.selected, each.formats) for each in LISTED] == [
        ("llama.cpp-linux-x86_64-avx2@2.29.0", False, ("GGUF",)),
        ("llama.cpp-linux-x86_64-nvidia-cuda12-avx2@2.29.0", False, ("GGUF",)),
        ("llama.cpp-linux-x86_64-vulkan-avx2@2.29.0", True, ("GGUF",)),
        ("llama.cpp-linux-x86_64-vulkan-avx2@2.9.0", False, ("GGUF",)),
        ("mlx-llm-mac-arm64-apple-metal-advsimd@1.8.5", True, ("MLX",)),
    ]


@pytest.mark.parametrize(
    ("line", "selected"),
    [
        ("a@1    ✓    GGUF, MLX", True),
        ("\x1b[32ma@1\x1b[39m    \x1b[1m✓\x1b[22m    GGUF, MLX\r", True),
        ("a@1    \ufffd\ufffd    GGUF, MLX", True),  # a console of Windows that has no such mark
        ("a@1         GGUF, MLX", False),
    ],
)
def test_a_line_of_the_table(line: str, selected: bool) -> None:
    assert parse_runtimes(f"LLM ENGINE    SELECTED    MODEL FORMAT\n{line}\n\nNo runtimes found.") == (
        InstalledRuntime("a", "1", selected, ("GGUF", "MLX")),
    )


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("llama.cpp-win-x86_64-vulkan-avx2", Runtime.VULKAN),
        ("llama.cpp-linux-x86_64-amd-rocm-avx2", Runtime.ROCM),
        ("llama.cpp-win-x86_64-nvidia-cuda12-avx2", Runtime.CUDA),
        ("llama.cpp-mac-arm64-apple-metal-advsimd", Runtime.METAL),
        ("llama.cpp-win-x86_64-avx2", Runtime.CPU),
    ],
)
def test_a_name_tells_the_runtime(name: str, runtime: Runtime) -> None:
    assert runtime_of(name) is runtime


def test_the_selected_runtime_is_kept_and_else_the_newest_taken() -> None:
    assert choose(LISTED, Runtime.VULKAN, "GGUF").version == "2.29.0"
    old = [replace(each, selected=each.version == "2.9.0") for each in LISTED]
    assert choose(old, Runtime.VULKAN, "GGUF").version == "2.9.0"
    none = [replace(each, selected=False) for each in LISTED]
    assert choose(none, Runtime.VULKAN, "GGUF").version == "2.29.0"
    with pytest.raises(Unsupported, match=r"rocm: LM Studio has none for GGUF; installed: llama\.cpp-linux") as caught:
        choose(LISTED, Runtime.ROCM, "GGUF")
    assert caught.value.cause is Cause.RUNTIME_MISSING
    with pytest.raises(Unsupported):
        choose(LISTED, Runtime.METAL, "GGUF")  # there, and for MLX models alone


MODELS = (
    StoredModel("o/a", "Q4_K_M", variants=("o/a@q4_k_m", "o/a@q8_0")),
    StoredModel("b", "Q8_0"),
)


@pytest.mark.parametrize(
    ("name", "quantisation", "wanted"),
    [
        ("o/a", None, "o/a"),
        ("o/a", "Q4_K_M", "o/a"),
        ("o/a", "Q8_0", "o/a@q8_0"),
        ("o/a@q8_0", "Q8_0", "o/a@q8_0"),
        ("o/a@q8_0", None, "o/a@q8_0"),
        ("b", "q8_0", "b"),
        ("b@q8_0", "Q8_0", "b@q8_0"),  # an older server lists no variants
        ("o/a@q2_k", None, "no model o/a@q2_k; it has: b, o/a"),
        ("o/a", "Q2_K", "no Q2_K of o/a; it has o/a@q4_k_m, o/a@q8_0"),
        ("o/a@q8_0", "Q4_K_M", "no Q4_K_M of o/a@q8_0"),
        ("b", "Q4_K_M", "no Q4_K_M of b; it has Q8_0"),
        ("c", None, "no model c"),
    ],
)
def test_a_model_is_picked_by_name_and_quantisation(name: str, quantisation: str | None, wanted: str) -> None:
    if not wanted.startswith("no "):
        assert pick(MODELS, name, quantisation)[1] == wanted
        return
    with pytest.raises(Unsupported) as caught:
        pick(MODELS, name, quantisation)
    assert wanted in caught.value.detail and caught.value.cause is Cause.MODEL_FILE_MISSING


def settings(**axes: Any) -> LoadSettings:
    return LoadSettings("lmstudio", "m", **axes)


def test_axes_become_fields_of_rest_and_of_the_sdk() -> None:
    asked = settings(context_tokens=4096, batch_tokens=512, flash_attention=False, kv_offload=True)
    assert rest_fields(asked) == {
        "context_length": 4096,
        "eval_batch_size": 512,
        "flash_attention": False,
        "offload_kv_cache_to_gpu": True,
    }
    more = replace(asked, kv_type_k="q8_0", kv_type_v="f16", mmap=False, keep_in_memory=True, gpu_layers=-1)
    assert sdk_config(more) == {
        "contextLength": 4096,
        "evalBatchSize": 512,
        "flashAttention": False,
        "offloadKVCacheToGpu": True,
        "llamaKCacheQuantizationType": "q8_0",
        "llamaVCacheQuantizationType": "f16",
        "tryMmap": False,
        "keepModelInMemory": True,
        "gpu": {"ratio": "max"},
    }
    assert sdk_config(settings(gpu_layers=0)) == {"gpu": {"ratio": "off"}}


def test_the_sdk_knows_these_fields() -> None:
    schema = pytest.importorskip("lmstudio").LlmLoadModelConfig
    asked = sdk_config(settings(context_tokens=1, kv_type_k="q8_0", mmap=False, keep_in_memory=True, gpu_layers=-1))
    assert schema.from_dict(asked).to_dict() == asked


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"kv_type_k": "bf16"}, "KV type bf16: LM Studio has f32, f16"),
        ({"gpu_layers": 20}, "gpu_layers 20: LM Studio takes all (-1) or none (0)"),
        ({"context_tokens": 4097}, "context of 4097 tokens: LM Studio says that m holds 4096"),
    ],
)
def test_values_that_lm_studio_has_not(axes: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported) as caught:
        refuse_values(settings(**axes), 4096)
    assert words in caught.value.detail


@pytest.mark.parametrize(
    ("asked", "told", "complete", "words"),
    [
        ({"context_length": 8192}, {"context_length": 8192, "num_experts": 4}, True, None),
        ({"context_length": 8192}, {"context_length": 4096}, True, "context_length 4096 instead of 8192"),
        ({"flash_attention": True}, {}, True, "flash_attention not set instead of True"),
        ({"flashAttention": True}, {}, False, None),
        ({"gpu": {"ratio": "max"}}, {"gpu": {"ratio": 1.0}}, False, None),
        ({"gpu": {"ratio": "off"}}, {"gpu": {"ratio": 0}}, False, None),
        ({"gpu": {"ratio": "max"}}, {"gpu": {"ratio": 0.5}}, False, "gpu 0.5 instead of max"),
        ({"tryMmap": False}, {"tryMmap": True}, False, "tryMmap True instead of False"),
    ],
)
def test_what_was_loaded_is_held_against_what_was_asked(
    asked: dict[str, Any], told: dict[str, Any], complete: bool, words: str | None
) -> None:
    if words is None:
        refuse_config_mismatch(asked, told, complete=complete)
        return
    with pytest.raises(LoadFailed) as caught:
        refuse_config_mismatch(asked, told, complete=complete)
    assert words in caught.value.detail
    assert caught.value.cause is (Cause.CONTEXT_TOO_LONG if "context" in words else Cause.LOAD_FAILED)


IMAGE = Image("dot.png", "image/png", 1, 1, base64.b64encode(b"dot").decode())


def test_the_new_request_has_the_fields_that_the_server_takes() -> None:
    chat = replace(CHAT, system="Be short.", image=IMAGE, sampling=Sampling(seed=7, temperature=0.5, top_k=40))
    request = v1_request("http://h", "i:2", chat, 4096, {"Authorization": "Bearer t"})
    assert (request.url, request.headers) == ("http://h/api/v1/chat", {"Authorization": "Bearer t"})
    assert json.loads(request.body) == {
        "model": "i:2",
        "input": [
            {"type": "text", "content": "Say hello."},
            {"type": "image", "data_url": f"data:image/png;base64,{IMAGE.data_base64}"},
        ],
        "system_prompt": "Be short.",
        "stream": True,
        "store": False,
        "max_output_tokens": 16,
        "temperature": 0.5,
        "top_k": 40,
    }


def test_the_old_request_is_openais() -> None:
    request = v0_request("http://h", "i", CHAT, {})
    body = json.loads(request.body)
    assert request.url == "http://h/api/v0/chat/completions" and request.decode is v0_chunks
    assert (body["model"], body["seed"], body["stream_options"]) == ("i", 0, {"include_usage": True})


def test_half_of_a_character_in_a_delta_is_no_fault() -> None:
    halves = ["a \ud83d", "\ude00 b"]
    text = "".join(
        f"event: message.delta\ndata: {json.dumps({'type': 'message.delta', 'content': half})}\n\n" for half in halves
    )
    chunks = v1_chunks(events_of(text), max_tokens=8, context_tokens=None)
    "".join(chunk.text for chunk in chunks).encode()
    assert [chunk.error for chunk in chunks] == [None, None]
