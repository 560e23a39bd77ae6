"""Ollama for the suite: a server that remembers what is loaded. Answers: docs/api.md of Ollama v0.33.0-rc2."""

from __future__ import annotations

from pathlib import Path

from agents.contract.job import LoadSettings, ModelSource
from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.ollama.adapter import Ollama
from tests.contract.adapters.record import Adapter, BadLoad, Figures
from tests.fakes.recorded_server import HOLD, Answer, Asked, Routes, json_answer, lines_answer

RECORDINGS = Path(__file__).parents[2] / "recordings/ollama"
SHOWN = {
    "details": {"format": "gguf", "family": "llama", "parameter_size": "3.2B", "quantization_level": "Q4_K_M"},
    "model_info": {"general.architecture": "llama", "llama.context_length": 131072},
    "capabilities": ["completion", "vision"],
}
PS = {
    "name": "llama3.2:latest",
    "model": "llama3.2:latest",
    "size": 5137025024,
    "digest": "2ae6f6dd7a3dd734790bbbf58b8909a606e0e7e97e94b7604e0aa7ae4490e6d8",
    "expires_at": "2024-06-04T14:38:31.83753-07:00",
    "size_vram": 5137025024,
    "context_length": 4096,
}
LOADED = {"model": "llama3.2", "message": {"role": "assistant", "content": ""}, "done_reason": "load", "done": True}
CHAT = Answer(
    tuple((RECORDINGS / "chat.ndjson").read_bytes().splitlines(keepends=True)), content_type="application/x-ndjson"
)


def ollama_routes(ps: dict[str, object] | None = None) -> Routes:
    """One server: what it was told to load is in ``/api/ps`` until it is told to unload it."""
    held: list[dict[str, object]] = []

    def chat(asked: Asked) -> Answer:
        if asked.json["messages"]:
            return CHAT
        held[:] = [PS | (ps or {})]
        return json_answer(LOADED)

    def unload(asked: Asked) -> Answer:
        assert asked.json["keep_alive"] == 0
        held.clear()
        return json_answer({"model": asked.json["model"], "response": "", "done": True, "done_reason": "unload"})

    return {
        "GET /api/version": json_answer({"version": "0.33.0"}),
        "POST /api/show": json_answer(SHOWN),
        "GET /api/ps": lambda asked: json_answer({"models": list(held)}),
        "POST /api/chat": chat,
        "POST /api/generate": unload,
    }


SETTINGS = LoadSettings(
    "ollama",
    "llama3.2",
    quantisation="Q4_K_M",
    context_tokens=4096,
    gpu_layers=-1,
    threads=8,
    batch_tokens=256,
    mmap=False,
)
OPTIONS = {"num_ctx": 4096, "num_gpu": 999, "num_thread": 8, "num_batch": 256, "use_mmap": False}


def _not_found(words: str) -> Answer:
    return json_answer({"error": words}, 404)


OLLAMA = Adapter(
    name="ollama",
    make=lambda url: Ollama(EngineEntry(url=url)),
    routes=ollama_routes(),
    settings=SETTINGS,
    version="0.33.0",
    chat="POST /api/chat",
    figures=Figures(
        prompt_tokens=26,
        tokens=3,
        text="The sky",
        stop_reason=StopReason.END,
        engine=EngineTimings(prompt_tokens=26, prompt_s=0.342546, generated_tokens=3, generate_s=0.05, decode_tps=40.0),
    ),
    stream_error=lines_answer(
        {"model": "llama3.2", "message": {"role": "assistant", "content": "The"}, "done": False},
        {"error": "an error was encountered while running the model"},
    ),
    stream_error_words="an error was encountered while running the model",
    loads="POST /api/chat",
    arrives={"model": "llama3.2", "options": OPTIONS, "messages": [], "shift": False},
    unloads="POST /api/generate",
    refused=(
        LoadSettings("ollama", "llama3.2", micro_batch_tokens=64),
        LoadSettings("ollama", "llama3.2", keep_in_memory=True),
        LoadSettings("ollama", "llama3.2", kv_type_k="q8_0", kv_type_v="q8_0"),
        LoadSettings("ollama", "llama3.2", flash_attention=True),
        LoadSettings("ollama", "llama3.2", source=ModelSource(path="/models/a.gguf")),
    ),
    bad_loads=(
        BadLoad(
            {"POST /api/chat": json_answer({"error": "model requires more system memory (9.1 GiB)"}, 500)},
            Cause.RAM,
            "model requires more system memory (9.1 GiB)",
        ),
        BadLoad(
            {
                "POST /api/show": _not_found("model 'llama3.2' not found"),
                "POST /api/pull": lines_answer(
                    {"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}
                ),
            },
            Cause.MODEL_FILE_MISSING,
            "pull model manifest: file does not exist",
        ),
        BadLoad(
            {"POST /api/chat": json_answer({"error": "llama runner process has terminated: exit status 2"}, 500)},
            Cause.ENGINE_CRASHED,
            "exit status 2",
        ),
        BadLoad(
            {"POST /api/show": json_answer({**SHOWN, "details": {"quantization_level": "Q8_0"}})},
            Cause.UNSUPPORTED,
            "has quantisation Q8_0, and the cell asks for Q4_K_M",
        ),
    ),
    loading={"POST /api/chat": HOLD},
)
