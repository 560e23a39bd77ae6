"""LM Studio in the suite of all adapters. Recordings: tests/recordings/lmstudio/SOURCE.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agents.contract.job import LoadSettings
from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.lmstudio.adapter import LMStudio
from tests.contract.adapters.record import Adapter, BadLoad, Figures
from tests.fakes.recorded_server import HOLD, Answer, json_answer

RECORDED = Path(__file__).parents[2] / "recordings/lmstudio"
MODEL = "google/gemma-4-26b-a4b"
LISTED, LOADS, UNLOADS = "GET /api/v1/models", "POST /api/v1/models/load", "POST /api/v1/models/unload"
CHAT, OLD_CHAT = "POST /api/v1/chat", "POST /api/v0/chat/completions"


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


def sse(text: str) -> Answer:
    """One piece an event."""
    pieces = tuple(f"{event}\n\n".encode() for event in text.strip().split("\n\n"))
    return Answer(pieces, content_type="text/event-stream")


def listed(*instances: str) -> Answer:
    """The recorded list; beside the user's instance of MODEL those named."""
    models = recorded("models_v1.json")
    first = models["models"][0]["loaded_instances"]
    first += [{**first[0], "id": name} for name in instances]
    return json_answer(models)


LOADED = recorded("load_v1.json")
OURS = LOADED["instance_id"]
BEFORE = [listed()] * 3  # asked before a load: is it there; which models; what is loaded
STREAM = (RECORDED / "chat_v1.sse").read_text(encoding="utf-8")
ERRORS = recorded("errors.json")
ERROR_EVENT = {"type": "error", "error": ERRORS["union"]["error"]}
SETTINGS = LoadSettings("lmstudio", MODEL, context_tokens=16384, flash_attention=True, quantisation="Q4_K_M")
CLAMPED = {**LOADED, "load_config": {**LOADED["load_config"], "context_length": 8192}}
OLD_ANSWER = recorded("chat_v0.json")
RUNTIME = {"name": "llama.cpp-linux-x86_64-vulkan-avx2", "version": "2.29.0", "supported_formats": ["gguf"]}
INFO = {"arch": "gemma4", "quant": "Q4_K_M", "format": "gguf", "context_length": 16384}


def bad(name: str, cause: Cause, words: str) -> BadLoad:
    return BadLoad({LOADS: json_answer(ERRORS[name], 500)}, cause, words)


LMSTUDIO = Adapter(
    name="lmstudio",
    make=lambda url: LMStudio(EngineEntry(url=url)),
    routes={
        LISTED: [*BEFORE, listed(OURS)],
        LOADS: json_answer(LOADED),
        UNLOADS: json_answer({"instance_id": OURS}),
        CHAT: sse(STREAM),
        OLD_CHAT: json_answer({**OLD_ANSWER, "runtime": RUNTIME, "model_info": INFO}),
    },
    settings=SETTINGS,
    version="LM Studio, REST v1",
    chat=CHAT,
    figures=Figures(
        prompt_tokens=329,
        tokens=9,
        text="Need to greet.Hello there.",
        stop_reason=StopReason.END,
        engine=EngineTimings(generated_tokens=9, ttft_s=0.781, decode_tps=43.73),
        reasoning_tokens=5,
    ),
    stream_error=sse(f"event: chat.start\ndata: {{}}\n\nevent: error\ndata: {json.dumps(ERROR_EVENT)}\n\n"),
    stream_error_words="Expected 'text' | 'image'",
    loads=LOADS,
    arrives={"model": MODEL, "context_length": 16384, "flash_attention": True, "echo_load_config": True},
    unloads=UNLOADS,
    refused=(
        LoadSettings("lmstudio", MODEL, threads=4),
        LoadSettings("lmstudio", MODEL, micro_batch_tokens=512),
        LoadSettings("lmstudio", MODEL, kv_type_k="q3_z"),
        LoadSettings("lmstudio", MODEL, context_tokens=262_145),
        LoadSettings("lmstudio", MODEL, quantisation="Q8_0"),
        LoadSettings("lmstudio", "no/such-model"),
    ),
    bad_loads=(
        bad("guardrails", Cause.RAM, "requires approximately 22.92 GB"),
        bad("sigabrt", Cause.ENGINE_CRASHED, "SIGABRT"),
        bad("no_runtime", Cause.RUNTIME_MISSING, "No LM Runtime found"),
        BadLoad({LOADS: json_answer(CLAMPED)}, Cause.CONTEXT_TOO_LONG, "context_length 8192 instead of 16384"),
        BadLoad({LISTED: json_answer({"models": []})}, Cause.MODEL_FILE_MISSING, f"no model {MODEL}; it has: none"),
    ),
    runtime="llama.cpp-linux-x86_64-vulkan-avx2 2.29.0",
    loading={LOADS: HOLD, LISTED: [*BEFORE, listed(), listed(OURS)]},
)
