"""OpenAI-compatible servers for the suite: vLLM's answers (protocol of chat completions and ``/version`` of v0.19), and
those of mlx-lm 0.32.2's server, recorded on Linux with a tiny model on 2026-11-26."""

from __future__ import annotations

from pathlib import Path

from agents.contract.job import LoadSettings, ModelSource
from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.openai.adapter import OpenAIServer
from tests.contract.adapters.record import Adapter, BadLoad, Figures
from tests.fakes.recorded_server import Answer, Routes, json_answer, sse_answer

RECORDINGS = Path(__file__).parents[2] / "recordings/openai"
CHAT = "POST /v1/chat/completions"


def _delta(delta: dict[str, str], tokens: int, finish: str | None = None) -> dict[str, object]:
    usage = {"prompt_tokens": 12, "total_tokens": 12 + tokens, "completion_tokens": tokens}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], "usage": usage}


USAGE = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "model": "m",
    "choices": [],
    "usage": {
        "prompt_tokens": 12,
        "total_tokens": 15,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0},
    },
}
VLLM_STREAM = sse_answer(
    _delta({"role": "assistant", "content": ""}, 0),
    _delta({"reasoning_content": "Hm."}, 1),
    _delta({"content": " Hello"}, 2),
    _delta({"content": ""}, 3, "stop"),
    USAGE,
    done=True,
)
VLLM_ROUTES: Routes = {
    "GET /v1/models": json_answer(
        {
            "object": "list",
            "data": [
                {
                    "id": "Qwen/Qwen3-8B",
                    "object": "model",
                    "owned_by": "vllm",
                    "root": "Qwen/Qwen3-8B",
                    "max_model_len": 4096,
                }
            ],
        }
    ),
    "GET /version": json_answer({"version": "0.19.0"}),
    CHAT: VLLM_STREAM,
}
SETTINGS = LoadSettings("openai", "qwen", context_tokens=4096, source=ModelSource(hf_repo="Qwen/Qwen3-8B"))


def _refused(words: str, status: int = 400) -> Routes:
    return {CHAT: json_answer({"error": {"message": words, "type": "BadRequestError", "code": status}}, status)}


BAD_LOADS = (
    BadLoad(
        _refused("Unrecognized request argument supplied: stream_options"),
        Cause.UNSUPPORTED,
        "refuses the field stream_options",
    ),
    BadLoad(_refused("The model `qwen` does not exist.", 404), Cause.MODEL_FILE_MISSING, "does not exist"),
    BadLoad(_refused("Unauthorized", 401), Cause.UNSUPPORTED, "engines.openai.token_env"),
    BadLoad({"GET /v1/models": json_answer({"object": "list", "data": []})}, Cause.UNSUPPORTED, "it lists none"),
)

VLLM = Adapter(
    name="vllm",
    make=lambda url: OpenAIServer(EngineEntry(url=url)),
    routes=VLLM_ROUTES,
    settings=SETTINGS,
    version="vLLM 0.19.0",
    chat=CHAT,
    figures=Figures(
        prompt_tokens=12,
        tokens=3,
        text="Hm. Hello",
        reasoning_tokens=1,  # each event counts its tokens: vLLM's continuous_usage_stats
        stop_reason=StopReason.END,
        engine=EngineTimings(cached_tokens=0),
    ),
    stream_error=sse_answer(
        _delta({"content": "Hel"}, 1), {"error": {"message": "EngineCore encountered an issue", "code": 500}}
    ),
    stream_error_words="EngineCore encountered an issue",
    refused=(
        LoadSettings("openai", "Qwen/Qwen3-8B", context_tokens=8192),
        LoadSettings("openai", "Qwen/Qwen3-8B", mmap=False),
        LoadSettings("openai", "another"),
    ),
    bad_loads=BAD_LOADS,
)

MLX = Adapter(
    name="mlx-lm",
    make=lambda url: OpenAIServer(EngineEntry(url=f"{url}/v1/")),
    routes={
        "GET /v1/models": json_answer({"object": "list", "data": [{"id": "/models/tiny", "object": "model"}]}),
        CHAT: Answer(((RECORDINGS / "mlx_lm.sse").read_bytes(),), content_type="text/event-stream"),
    },
    settings=LoadSettings("openai", "/models/tiny"),
    version="OpenAI-compatible",
    chat=CHAT,
    figures=Figures(
        prompt_tokens=48,
        tokens=4,
        text="\x06\ufffd\x1b\ufffd",
        stop_reason=StopReason.LENGTH,
        engine=EngineTimings(cached_tokens=0),
    ),
    stream_error=sse_answer({"error": "Model type nothing not supported."}),
    stream_error_words="Model type nothing not supported.",
    refused=(LoadSettings("openai", "/models/tiny", context_tokens=8192),),
)
