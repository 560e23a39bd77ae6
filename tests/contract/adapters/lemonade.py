"""Lemonade in the suite of all adapters. Recordings: tests/recordings/lemonade/SOURCE.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agents.contract.job import LoadSettings, Runtime
from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.lemonade.adapter import Lemonade
from tests.contract.adapters.record import Adapter, BadLoad, Figures
from tests.fakes.recorded_server import Answer, json_answer, sse_answer

RECORDED = Path(__file__).parents[2] / "recordings/lemonade"
MODEL = "Gemma-3-4b-it-GGUF"
HEALTH, LOADS, UNLOADS = "GET /api/v1/health", "POST /api/v1/load", "POST /api/v1/unload"
CHAT = "POST /api/v1/chat/completions"


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


def stream(name: str) -> Answer:
    """One piece an event."""
    events = (RECORDED / name).read_text(encoding="utf-8").strip().split("\n\n")
    return Answer(tuple(f"{event}\n\n".encode() for event in events), content_type="text/event-stream")


def health(*running: Any) -> Answer:
    return json_answer({**recorded("health.json"), "all_models_loaded": list(running)})


RUNNING, ERRORS = recorded("running.json"), recorded("errors.json")
CLAMPED = {**RUNNING, "launch_command": [word.replace("8192", "4096") for word in RUNNING["launch_command"]]}
SETTINGS = LoadSettings(
    "lemonade",
    MODEL,
    quantisation="Q4_K_M",
    runtime=Runtime.VULKAN,
    context_tokens=8192,
    kv_type_k="q8_0",
    kv_type_v="q8_0",
    flash_attention=True,
    threads=8,
    mmap=False,
)

LEMONADE = Adapter(
    name="lemonade",
    make=lambda url: Lemonade(EngineEntry(url=url)),
    routes={
        HEALTH: [health(), health(RUNNING)],
        "GET /api/v1/system-info": json_answer(recorded("system_info.json")),
        "GET /api/v1/models": json_answer(recorded("models.json")),
        "GET /api/v1/stats": json_answer(recorded("stats.json")),
        LOADS: json_answer({"status": "success", "model_name": MODEL, "recipe": "llamacpp"}),
        UNLOADS: json_answer({"status": "success", "message": "Model unloaded successfully", "model_name": MODEL}),
        CHAT: stream("chat_llamacpp.sse"),
    },
    settings=SETTINGS,
    version="Lemonade 11.7.0",
    chat=CHAT,
    figures=Figures(
        prompt_tokens=14,
        tokens=4,
        text="Hello there.",
        stop_reason=StopReason.END,
        engine=EngineTimings(
            prompt_tokens=14, cached_tokens=0, prompt_s=0.0215, generated_tokens=4, generate_s=0.0375, decode_tps=80.0
        ),
    ),
    stream_error=sse_answer(ERRORS["stream"]),
    stream_error_words="backend returned HTTP 500",
    loads=LOADS,
    arrives={
        "model_name": MODEL,
        "ctx_size": 8192,
        "llamacpp_backend": "vulkan",
        "llamacpp_args": "-ctk q8_0 -ctv q8_0 -fa on -t 8 --no-mmap",
        "save_options": False,
    },
    unloads=UNLOADS,
    refused=(
        LoadSettings("lemonade", MODEL, gpu_layers=10),
        LoadSettings("lemonade", MODEL, runtime=Runtime.ROCM),
        LoadSettings("lemonade", MODEL, runtime=Runtime.CPU),  # installed, but to be updated first
        LoadSettings("lemonade", MODEL, quantisation="Q8_0"),
        LoadSettings("lemonade", "Qwen3-0.6B-GGUF", context_tokens=40_961),
        LoadSettings("lemonade", "Gemma-3-4b-it-FLM", flash_attention=True),
        LoadSettings("lemonade", "SD-Turbo"),  # known, and not on the disk
    ),
    bad_loads=(
        BadLoad({LOADS: json_answer(ERRORS["load"], 500)}, Cause.VRAM, "ErrorOutOfDeviceMemory"),
        BadLoad({LOADS: json_answer(ERRORS["args"], 500)}, Cause.LOAD_FAILED, "managed by Lemonade"),
        BadLoad({LOADS: json_answer(ERRORS["status"])}, Cause.MODEL_FILE_MISSING, f"Model {MODEL} not found"),
        BadLoad({HEALTH: health()}, Cause.LOAD_FAILED, "has it not"),
        BadLoad({HEALTH: [health(), health(CLAMPED)]}, Cause.LOAD_FAILED, "4096 tokens instead of 8192"),
        BadLoad({"GET /api/v1/models": json_answer({"data": []})}, Cause.MODEL_FILE_MISSING, "it has: none"),
    ),
    runtime="llamacpp vulkan b7869",
)
