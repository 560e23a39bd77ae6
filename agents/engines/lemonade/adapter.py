"""Lemonade, AMD's server: it runs GGUF models by llama.cpp builds of its own, and others by other engines (NPU).

Every load names a back end. Lemonade's llama-server gets our flags, and reports its figures in the
stream; for other recipes Lemonade is asked after each request.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx

from agents.contract.device import EngineFound
from agents.contract.job import Chat, LoadSettings, Stop, Workload
from agents.contract.measure import EngineTimings
from agents.contract.report import Cause, Loaded
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Request, Support, model_name_for, refuse_mismatch, requested_axes
from agents.engines.lemonade.api import (
    LLAMACPP,
    Backend,
    LoadedModel,
    StoredModel,
    backends,
    health,
    llamacpp_args,
    mismatches,
    models,
    runtimes,
    stats,
)
from agents.engines.llama.answers import arguments_in
from agents.engines.server.api import CALL_S, FIND_S, Api, ApiError
from agents.engines.server.chat import TEMPLATE_TOKENS, fresh, openai_chat_request
from agents.engines.server.session import HttpSession
from agents.errors import AgentError, EngineLost, LoadFailed, Unsupported

URLS, TOKEN = ("http://127.0.0.1:13305", "http://127.0.0.1:8000"), "LEMONADE_API_KEY"
GONE_WITHIN_S = 15.0  # after a cancel: how long a model that is still loading is tried to be unloaded
LOOK_S = 0.25
STATS_S = 2.0  # Lemonade counts a request just after its last byte has gone out


class Lemonade:
    """``transport`` takes the place of the network in tests."""

    name = "lemonade"

    def __init__(self, entry: EngineEntry | None = None, transport: httpx.BaseTransport | None = None) -> None:
        given = entry or EngineEntry()
        self._token_variable = given.token_env or TOKEN
        token = os.environ.get(self._token_variable)
        self._apis = tuple(Api(url, token, transport) for url in ((given.url,) if given.url else URLS))

    def find(self) -> EngineFound:
        """Raises Unsupported where no server answers."""
        api, version, _ = self._server(FIND_S)
        found: tuple[Backend, ...] = ()
        with suppress(ApiError):  # its first answer takes seconds: it looks for devices
            found = backends(api, timeout_s=10 * FIND_S)
        return EngineFound(self.name, f"Lemonade {version}", runtimes(found), api.base_url)

    def _server(self, timeout_s: float) -> tuple[Api, str, tuple[LoadedModel, ...]]:
        reasons: list[str] = []
        errors: list[ApiError] = []
        for api in self._apis:
            try:
                return api, *health(api, timeout_s)
            except ApiError as error:
                errors.append(error)
                if error.status in (401, 403):
                    reasons.append(f"{error.detail}; the key is taken from the variable {self._token_variable}")
                else:
                    reasons.append(f"{api.base_url}: {error.detail}")
        detail = f"no Lemonade server: {'; '.join(reasons)}. Start it, or name its url in device.yaml"
        raise max(errors, key=lambda error: error.status or 0).as_refusal(detail)  # one that answered, if one did

    def capabilities(self) -> Mapping[str, Support]:
        axes = (
            "engine model source runtime context_tokens kv_type_k kv_type_v flash_attention threads batch_tokens"
            " micro_batch_tokens mmap keep_in_memory kv_offload chat image exact_stop"
        )
        return {**dict.fromkeys(axes.split(), Support.SETS), "quantisation": Support.RECORDS}

    def load(self, settings: LoadSettings, place: LoadPlace) -> HttpSession:
        api, version, before = self._server(CALL_S)
        try:
            model = _the_model(models(api), model_name_for(self.name, settings))
            backend = _backend(settings, model, backends(api))
        except ApiError as error:
            raise Unsupported(error.detail) from error
        _refuse(settings, model)
        place.notify("loading")
        return _ModelLoad(api, version, settings, model, backend, before, place).session()


def _the_model(found: tuple[StoredModel, ...], name: str) -> StoredModel:
    for model in found:
        if model.name == name:
            return model
    have = ", ".join(sorted(each.name for each in found)) or "none"
    raise Unsupported(f"Lemonade has no model {name}; it has: {have}. Get it: lemonade pull", Cause.MODEL_FILE_MISSING)


def _backend(settings: LoadSettings, model: StoredModel, found: tuple[Backend, ...]) -> Backend | None:
    """The back end of the requested runtime. Raises Unsupported (RUNTIME_MISSING) where it is not installed: Lemonade
    would fetch it in the middle of a load."""
    wanted = settings.runtime
    if wanted is None or model.recipe != LLAMACPP:
        return None
    one = next((each for each in found if each.name == wanted.value), None)
    if one is not None and one.installed:
        return one
    have, action = ", ".join(runtimes(found)) or "none", f"; do: {one.action}" if one and one.action else ""
    raise Unsupported(f"runtime {wanted}: Lemonade has installed: {have}{action}", Cause.RUNTIME_MISSING)


def _refuse(settings: LoadSettings, model: StoredModel) -> None:
    if model.recipe != LLAMACPP:
        cannot = [axis for axis in requested_axes(settings) if axis not in ("context_tokens", "quantisation")]
        if cannot:
            raise Unsupported(
                f"Lemonade runs {model.name} by {model.recipe}, and sets {', '.join(cannot)} for llamacpp"
            )
    requested, limit = settings.context_tokens, model.max_context_tokens
    if requested is not None and limit is not None and requested > limit:
        detail = f"context of {requested} tokens: Lemonade says that {model.name} holds {limit}"
        raise Unsupported(detail, Cause.CONTEXT_TOO_LONG)
    wanted, variant = settings.quantisation, model.variant
    if wanted is not None:  # the variant may be a file's name
        seen = wanted if variant and wanted.lower() in variant.lower() else variant
        refuse_mismatch("Lemonade", settings, {"quantisation": seen})


class _ModelLoad:
    """One load of a model, and its undoing."""

    def __init__(
        self,
        api: Api,
        version: str,
        settings: LoadSettings,
        model: StoredModel,
        backend: Backend | None,
        before: tuple[LoadedModel, ...],
        place: LoadPlace,
    ) -> None:
        self._api, self._version, self._settings, self._place = api, version, settings, place
        self._model, self._backend, self._before = model, backend, before

    def session(self) -> HttpSession:
        """Loads the model, and returns its session. Raises LoadFailed."""
        clock, body = self._place.clock, self._body()
        started = clock.monotonic_ns()
        try:
            answer = self._api.load("/api/v1/load", body, self._place)
            load_s = (clock.monotonic_ns() - started) / 1e9
            running = self._running(answer)
        except LoadFailed as error:
            self._undo(wait=error.cause in (Cause.CANCELLED, Cause.LOAD_TIMEOUT))
            raise
        except AgentError as error:
            self._undo(wait=False)
            raise LoadFailed(error.cause, error.detail) from error
        was_loaded = any(each.name == running.name and each.pid == running.pid for each in self._before if each.pid)

        def unload() -> None:
            if not was_loaded:  # it was loaded so before, and no other process has come
                self._undo(wait=False)

        return HttpSession(self._loaded(load_s, body, running), self._requests(), self._ping, unload)

    def _body(self) -> dict[str, Any]:
        settings = self._settings
        args = llamacpp_args(settings)
        requested: dict[str, Any] = {
            "ctx_size": settings.context_tokens,
            "llamacpp_backend": self._backend.name if self._backend else None,
            "llamacpp_args": " ".join(args) or None,
        }
        given = {name: value for name, value in requested.items() if value is not None}
        return {"model_name": self._model.name, **given, "save_options": False}

    def _running(self, answer: Any) -> LoadedModel:
        """The model as it is loaded. Raises LoadFailed where it differs from what was requested."""
        if isinstance(answer, dict) and answer.get("status") == "error":
            error = ApiError(f"POST /api/v1/load: {answer.get('message') or answer}", 200)
            raise error.as_failed_load()
        running = next((each for each in health(self._api)[1] if each.name == self._model.name), None)
        if running is None:
            raise LoadFailed(Cause.LOAD_FAILED, f"Lemonade says that it loaded {self._model.name}, and has it not")
        others = mismatches(self._settings, running)
        if others:
            raise LoadFailed(Cause.LOAD_FAILED, f"Lemonade loaded {self._model.name} with {', '.join(others)}")
        return running

    def _undo(self, *, wait: bool) -> None:
        """Unloads the model. ``wait``: for up to GONE_WITHIN_S, since Lemonade cannot unload a model that is still
        loading."""
        clock = self._place.clock
        deadline = clock.monotonic_ns() + int(GONE_WITHIN_S * 1e9)
        while True:
            try:
                self._api.post("/api/v1/unload", {"model_name": self._model.name})
                return
            except ApiError as error:
                if not wait or error.status is None or clock.monotonic_ns() > deadline:
                    return
            clock.sleep(LOOK_S)

    def _loaded(self, load_s: float, body: Mapping[str, Any], running: LoadedModel) -> Loaded:
        model, backend = self._model, running.options.get("llamacpp_backend")
        version = self._backend.version if self._backend else None
        runtime = " ".join(str(word) for word in (running.recipe or model.recipe, backend, version) if word)
        beside = ", ".join(sorted(each.name for each in self._before))
        return Loaded(
            load_s=load_s,
            reused=False,
            engine_version=f"Lemonade {self._version}",
            engine_runtime=runtime or None,
            model_file=model.checkpoint or model.name,
            context_tokens_actual=running.context_tokens,
            settings=(
                *((name, str(value)) for name, value in body.items()),
                *((f"told.{name}", str(value)) for name, value in running.options.items() if name != "llamacpp_args"),
                *((("told.device", running.device),) if running.device else ()),
                *((f"launch.{name}", value) for name, value in arguments_in(running.command).items()),
                *((("loaded_before", beside),) if beside else ()),
            ),
        )

    def _requests(self) -> Callable[[Workload, int], Request]:
        api, model, counts = self._api, self._model, itertools.count(secrets.randbelow(10**6))
        url = f"{api.base_url}/api/v1/chat/completions"

        def request_for(workload: Workload, nonce: int) -> Request:  # noqa: ARG001  llama-server keeps no prompt
            if not isinstance(workload, Chat):
                raise Unsupported(f"Lemonade takes text, and workload {workload.name} is of token ids")
            if workload.image is not None and model.vision is False:
                raise Unsupported(f"Lemonade says that {model.name} takes no images")
            if model.recipe == LLAMACPP:
                more = {"model": model.name, "timings_per_token": True, "cache_prompt": False}
                more["ignore_eos"] = workload.stop is Stop.EXACT
                return openai_chat_request(url, workload, more, api.headers)
            if workload.stop is Stop.EXACT:
                raise Unsupported(f"Lemonade runs {model.name} by {model.recipe}, which ends by itself: stop: natural")
            chat = fresh(workload, next(counts))
            request = openai_chat_request(url, chat, {"model": model.name}, api.headers)
            return replace(request, after=self._figures(), cached_tokens_allowed=TEMPLATE_TOKENS)

        return request_for

    def _figures(self) -> Callable[[], EngineTimings | None]:
        """A function that fetches Lemonade's figures of the next request, once it is over; it returns None where they
        cannot be known to be its own. Lemonade counts requests, so the count before the request is read here."""
        before: tuple[int | None, EngineTimings] | None = None
        with suppress(ApiError):
            before = stats(self._api)

        def after() -> EngineTimings | None:
            clock = self._place.clock
            deadline = clock.monotonic_ns() + int(STATS_S * 1e9)
            with suppress(ApiError):
                while before is not None and clock.monotonic_ns() < deadline:
                    count, timings = stats(self._api)
                    counted = count is not None and before[0] is not None
                    if (count, timings) != before and (not counted or (count or 0) > (before[0] or 0)):
                        return timings
                    clock.sleep(0.05)
            return None

        return after

    def _ping(self) -> None:
        if all(each.name != self._model.name for each in health(self._api)[1]):
            raise EngineLost(f"Lemonade has unloaded {self._model.name}")
