"""A ``llama-server`` that the owner started (``url`` in device.yaml): with one model, or as a router of several.

Routes and fields: tools/server/README.md of llama.cpp, b11549. What it was started with is recorded, not set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import PurePath, PureWindowsPath

import httpx

from agents.contract.device import EngineFound
from agents.contract.job import LoadSettings, Workload
from agents.contract.report import Cause, Loaded
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Request, Support, model_name_for, refuse_mismatch
from agents.engines.llama.answers import ServedModel, ServerProps, read_props, read_served, reported_settings
from agents.engines.llama.requests import llama_request, with_text_tokens
from agents.engines.llama.router import RoutedLoad
from agents.engines.server.api import CALL_S, FIND_S, Api, ApiError
from agents.engines.server.session import HttpSession
from agents.errors import Unsupported

URL = "http://127.0.0.1:8080"


class LlamaRunning:
    """``transport`` takes the place of the network in tests."""

    name = "llama-server"

    def __init__(self, entry: EngineEntry | None = None, transport: httpx.BaseTransport | None = None) -> None:
        entry = entry or EngineEntry()
        self._token_env = entry.token_env
        token = os.environ.get(entry.token_env) if entry.token_env else None
        self._api = Api(entry.url or URL, token, transport)

    def find(self) -> EngineFound:
        """Raises Unsupported where no llama-server answers, or none that is ready."""
        props = self._props(FIND_S)
        where = f"{self._api.base_url} (router)" if props.router else self._api.base_url
        return EngineFound(self.name, f"llama.cpp {props.build}", (), where)

    def capabilities(self) -> Mapping[str, Support]:
        able = "engine model source chat image synthetic exact_stop"
        recorded = (
            "quantisation runtime context_tokens kv_type_k kv_type_v flash_attention gpu_layers threads batch_tokens"
            " micro_batch_tokens mmap keep_in_memory kv_offload"
        )
        return {**dict.fromkeys(able.split(), Support.SETS), **dict.fromkeys(recorded.split(), Support.RECORDS)}

    def load(self, settings: LoadSettings, place: LoadPlace) -> HttpSession:
        name, props = model_name_for(self.name, settings), self._props(CALL_S)
        try:
            served = read_served(self._api.get("/models" if props.router else "/v1/models"))
        except ApiError as error:
            raise Unsupported(error.detail) from error
        if not props.router:
            return self._attached(name, settings, props, served)
        model = next((each for each in served if name in (each.name, *each.aliases)), None)
        if model is None:
            have = ", ".join(each.name for each in served) or "none"
            detail = f"the llama-server at {self._api.base_url} has no model {name}; it has: {have}"
            raise Unsupported(detail, Cause.MODEL_FILE_MISSING)
        _refuse_mismatch(settings, None, model)
        place.notify("loading")
        routed = RoutedLoad(self._api, model, place)
        model, load_s = routed.load()
        try:
            _refuse_mismatch(settings, None, model)  # the context is known now
        except Unsupported:
            routed.unload()
            raise
        others = ", ".join(each.name for each in served if each.state == "loaded" and each.name != model.name)
        loaded = _loaded_of(props, model, load_s, {"router": self._api.base_url, "others_loaded": others or "none"})
        return HttpSession(loaded, self._requests(model, model.name), routed.ping, routed.unload)

    def _props(self, timeout_s: float) -> ServerProps:
        try:
            props = read_props(self._api.get("/props", timeout_s))
        except ApiError as error:
            detail = error.detail
            if error.status in (401, 403):
                detail += f"; its key belongs into {self._token_env or 'the variable that token_env names'}"
            raise error.as_refusal(f"no llama-server that is ready: {detail}. Start it, or correct its url") from error
        if props is None:
            raise Unsupported(f"what answers at {self._api.base_url} is no llama-server: its /props is another's")
        return props

    def _attached(
        self, name: str, settings: LoadSettings, props: ServerProps, served: tuple[ServedModel, ...]
    ) -> HttpSession:
        """A session with the one model that the server was started with. Raises Unsupported where the cell asks for
        another."""
        model = served[0] if served else ServedModel(props.alias)
        if not _has_name(name, (model.name, *model.aliases, props.alias, props.path)):
            raise Unsupported(
                f"the llama-server at {self._api.base_url} was started with {props.path or model.name},"
                f" and the cell asks for {name}",
                Cause.MODEL_FILE_MISSING,
            )
        _refuse_mismatch(settings, props, model)
        slots = {"total_slots": str(props.slots)} if props.slots else {}
        loaded = _loaded_of(props, model, None, {"server": self._api.base_url, **slots})
        return HttpSession(loaded, self._requests(model, None), partial(self._api.get, "/health"), lambda: None)

    def _requests(self, model: ServedModel, routed: str | None) -> Callable[[Workload, int], Request]:
        def request_for(workload: Workload, nonce: int) -> Request:
            request = llama_request(self._api.base_url, workload, model.n_vocab, nonce, routed)
            headers = {**request.headers, **self._api.headers}
            return replace(with_text_tokens(request, self._api, workload, routed), headers=headers)

        return request_for


def _refuse_mismatch(settings: LoadSettings, props: ServerProps | None, model: ServedModel) -> None:
    """Raises Unsupported where the model is not loaded as the cell asks. Before it loads, a router knows neither the
    size of a context nor the type of the weights: these pass then."""
    reported = reported_settings(settings, props, model)
    if props is None and model.state != "loaded":
        reported = {
            name: value for name, value in reported.items() if value is not None or name not in _KNOWN_AFTER_LOAD
        }
    refuse_mismatch(LlamaRunning.name, settings, reported)


_KNOWN_AFTER_LOAD = ("context_tokens", "quantisation")


def _loaded_of(props: ServerProps, model: ServedModel, load_s: float | None, more: Mapping[str, str]) -> Loaded:
    path = model.arguments.get("--model") or props.path
    return Loaded(
        load_s=load_s,
        reused=False,
        engine_version=f"llama.cpp {props.build}",
        model_file=_base(path) or model.name,
        model_bytes=model.model_bytes,
        context_tokens_actual=model.context_tokens or props.context_tokens,
        settings=(*more.items(), *((name, value) for name, value in model.arguments.items())),
    )


def _has_name(name: str, names: tuple[str, ...]) -> bool:
    """Whether ``name`` is one of ``names``, or the name of one of these files."""
    files = {_base(each) for each in names}
    return name in {*names, *files, *(file.removesuffix(".gguf") for file in files)}


def _base(path: str) -> str:
    return PureWindowsPath(path).name if "\\" in path else PurePath(path).name
