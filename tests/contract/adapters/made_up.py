"""An engine that nobody has: the smallest adapter that can be, and all that adding one takes.

Its line of ``agents.contract.engines.ENGINES`` stands in ``added_engine.py``; ``MADE_UP`` is its entry in the suite.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.contract.device import EngineFound
from agents.contract.job import Chat, LoadSettings, Workload
from agents.contract.measure import EngineTimings, StopReason
from agents.contract.report import Loaded
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Request, Support
from agents.engines.server.api import CALL_S, Api, ApiError
from agents.engines.server.chat import openai_chat_request
from agents.engines.server.session import HttpSession
from agents.errors import LoadFailed, Unsupported
from tests.contract.adapters.record import Adapter, Figures
from tests.fakes.recorded_server import Routes, json_answer, sse_answer


class MadeUp:
    name = "made-up"

    def __init__(self, entry: EngineEntry) -> None:
        self._api = Api(entry.url or "http://127.0.0.1:9")

    def find(self) -> EngineFound:
        try:
            answer = self._api.get("/made-up")
        except ApiError as error:
            raise error.as_refusal(error.detail) from error
        if not isinstance(answer, dict) or "version" not in answer:
            raise Unsupported(f"what answers at {self._api.base_url} is no made-up engine")
        return EngineFound(self.name, f"made-up {answer['version']}", (), self._api.base_url)

    def capabilities(self) -> Mapping[str, Support]:
        return dict.fromkeys(("engine", "model", "quantisation", "source", "context_tokens", "chat"), Support.SETS)

    def load(self, settings: LoadSettings, place: LoadPlace) -> HttpSession:
        version = self.find().version
        started_ns = place.clock.monotonic_ns()
        try:
            self._api.load("/load", {"model": settings.model, "context": settings.context_tokens}, place)
        except LoadFailed:
            self._api.post("/unload")  # it may go on loading
            raise
        load_s = (place.clock.monotonic_ns() - started_ns) / 1e9

        def request_for(workload: Workload, nonce: int) -> Request:
            assert isinstance(workload, Chat)
            return openai_chat_request(f"{self._api.base_url}/v1/chat/completions", workload, {})

        return HttpSession(
            Loaded(load_s, reused=False, engine_version=version, settings=(("model", settings.model),)),
            request_for,
            ping=lambda: self._api.get("/made-up", CALL_S),
            unload=lambda: self._api.post("/unload"),
        )


def _delta(text: str, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


CHAT = "POST /v1/chat/completions"
ROUTES: Routes = {
    "GET /made-up": json_answer({"version": "7"}),
    "POST /load": json_answer({}),
    "POST /unload": json_answer({}),
    CHAT: sse_answer(
        _delta("Hel"),
        _delta("lo"),
        _delta("!", "stop"),
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}},
        done=True,
    ),
}
MADE_UP = Adapter(
    name=MadeUp.name,
    make=lambda url: MadeUp(EngineEntry(url=url)),
    routes=ROUTES,
    settings=LoadSettings(MadeUp.name, "m", context_tokens=4096),
    version="made-up 7",
    chat=CHAT,
    figures=Figures(5, 3, "Hello!", StopReason.END, EngineTimings()),
    stream_error=sse_answer(_delta("Hel"), {"error": {"message": "made up too much"}}),
    stream_error_words="made up too much",
    loads="POST /load",
    arrives={"model": "m", "context": 4096},
    unloads="POST /unload",
    refused=(LoadSettings(MadeUp.name, "m", mmap=False),),
    images=False,
)
