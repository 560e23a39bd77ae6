"""A running llama-server for the suite, with one model and as a router. Answers: recordings/llama_server, b11549."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from agents.contract.job import LoadSettings
from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.llama.running import LlamaRunning
from tests.contract.adapters.record import Adapter, BadLoad, Figures
from tests.fakes.recorded_server import Answer, Asked, Routes, json_answer, sse_answer

RECORDINGS = Path(__file__).parents[2] / "recordings/llama_server"
CHAT = Answer(
    tuple(event + b"\n\n" for event in (RECORDINGS / "chat.sse").read_bytes().split(b"\n\n") if event.strip()),
    content_type="text/event-stream",
)
MODEL = "tiny-llama-Q8_0"


def recorded(name: str) -> Any:
    return json.loads((RECORDINGS / f"{name}.json").read_bytes())


def failed_models() -> Any:
    """As ``router_failed``, but it is our model that did not load."""
    models = copy.deepcopy(recorded("router_failed"))
    broken = next(each for each in models["data"] if each["id"] == "broken")
    for each in models["data"]:
        each["status"] = broken["status"] if each["id"] == MODEL else each["status"]
    return models


def router_routes(*, slow: bool = False, ends: str = "router_loaded") -> Routes:
    """A router: what it was told to load is loading, then ``ends`` so, until it is told to unload it."""
    looks: list[str] = []

    def load(asked: Asked) -> Answer:
        if looks:
            return json_answer(recorded("already_running"), 400)
        looks[:] = ["router_loading"] * (1_000_000 if slow else 2)
        return json_answer(recorded("load"))

    def unload(asked: Asked) -> Answer:
        if not looks:
            return json_answer(recorded("not_running"), 400)
        looks.clear()
        return json_answer(recorded("unload"))

    def models(asked: Asked) -> Answer:
        if not looks:
            return json_answer(recorded("router_unloaded"))
        if len(looks) > 1:
            return json_answer(recorded(looks.pop()))
        return json_answer(failed_models() if ends == "router_failed" else recorded(ends))

    return {
        "GET /health": json_answer({"status": "ok"}),
        "GET /props": json_answer(recorded("router_props")),
        "GET /models": models,
        "POST /models/load": load,
        "POST /models/unload": unload,
        "POST /v1/chat/completions": CHAT,
    }


FIGURES = Figures(
    prompt_tokens=29,
    tokens=6,
    text=" nudenuba nuhumoba pajaliba hulibaba kedekeba kehunuba",
    stop_reason=StopReason.LENGTH,
    engine=EngineTimings(29, 0, 0.002879, 6, 0.001575, None, 3174.603174603175),
)
ERROR = sse_answer({"error": {"code": 500, "message": "Compute error.", "type": "server_error"}})

RUNNING = Adapter(
    name="llama-server, running",
    make=lambda url: LlamaRunning(EngineEntry(url=url)),
    routes={
        "GET /health": json_answer({"status": "ok"}),
        "GET /props": json_answer(recorded("props")),
        "GET /v1/models": json_answer(recorded("v1_models")),
        "POST /v1/chat/completions": CHAT,
    },
    settings=LoadSettings("llama-server", MODEL, quantisation="Q8_0", context_tokens=2000),
    version="llama.cpp b11549-xllamacpp",
    chat="POST /v1/chat/completions",
    figures=FIGURES,
    stream_error=ERROR,
    stream_error_words="Compute error.",
    refused=(
        LoadSettings("llama-server", MODEL, context_tokens=4096),
        LoadSettings("llama-server", MODEL, quantisation="Q4_K_M"),
        LoadSettings("llama-server", MODEL, kv_type_k="q8_0"),  # it does not tell
        LoadSettings("llama-server", "another"),
    ),
    bad_loads=(
        BadLoad(
            {"GET /props": json_answer({"error": {"code": 503, "message": "Loading model"}}, 503)},
            Cause.UNSUPPORTED,
            "Loading model",
        ),
        BadLoad(
            {
                "GET /props": json_answer({**recorded("props"), "model_path": "/m/other.gguf", "model_alias": "o"}),
                "GET /v1/models": json_answer({"data": [{"id": "o"}]}),
            },
            Cause.MODEL_FILE_MISSING,
            "was started with /m/other.gguf",
        ),
    ),
)

ROUTER = Adapter(
    name="llama-server, router",
    make=lambda url: LlamaRunning(EngineEntry(url=url)),
    routes=router_routes(),
    settings=LoadSettings(
        "llama-server",
        MODEL,
        quantisation="Q8_0",
        context_tokens=2000,
        kv_type_k="q8_0",
        flash_attention=True,
        gpu_layers=99,
        threads=1,
        batch_tokens=512,
        mmap=False,
        keep_in_memory=False,
    ),
    version="llama.cpp b11549-xllamacpp",
    chat="POST /v1/chat/completions",
    figures=FIGURES,
    stream_error=ERROR,
    stream_error_words="Compute error.",
    loads="POST /models/load",
    arrives={"model": MODEL},
    unloads="POST /models/unload",
    refused=(
        LoadSettings("llama-server", MODEL, context_tokens=4096),
        LoadSettings("llama-server", MODEL, kv_type_k="f16"),
        LoadSettings("llama-server", MODEL, micro_batch_tokens=256),  # it does not tell
        LoadSettings("llama-server", "another"),
    ),
    bad_loads=(
        BadLoad(router_routes(ends="router_failed"), Cause.LOAD_FAILED, "could not load tiny-llama-Q8_0 (unloaded"),
        BadLoad({"GET /models": json_answer({"data": []})}, Cause.MODEL_FILE_MISSING, "has no model tiny-llama-Q8_0"),
        BadLoad(
            {"POST /models/load": json_answer(recorded("already_running"), 400)},
            Cause.LOAD_FAILED,
            "model is already running",
        ),
    ),
    loading=router_routes(slow=True),
)
