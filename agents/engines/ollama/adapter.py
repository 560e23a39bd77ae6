"""Ollama: a server that holds models under names of its own, loads them with options, and pulls what is missing."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import httpx

from agents.contract.device import EngineFound
from agents.contract.job import Chat, LoadSettings, Runtime, Workload
from agents.contract.report import Cause, Loaded
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Request, Support, model_name_for
from agents.engines.ollama.api import (
    LoadedModel,
    ModelDetails,
    address_of,
    loaded_models,
    model_details,
    pull,
    require_version,
    unload,
    unload_all,
)
from agents.engines.ollama.environment import ServerEnvironment, environment_for
from agents.engines.ollama.stream import ollama_chunks
from agents.engines.server.api import FIND_S, Api, ApiError
from agents.engines.server.chat import TEMPLATE_TOKENS, fresh, sampling_fields
from agents.engines.server.session import HttpSession
from agents.errors import AgentError, EngineLost, LoadFailed, Unsupported

ALL_LAYERS = 999  # Ollama's own -1 means: as many as it thinks fit
KEEP_S = 3600  # since the last request; a crash of ours leaves a model loaded no longer
_SETS = (
    "engine model quantisation runtime context_tokens kv_type_k kv_type_v flash_attention gpu_layers threads"
    " batch_tokens mmap source chat image"
)


class Ollama:
    name = "ollama"

    def __init__(self, entry: EngineEntry | None = None, transport: httpx.BaseTransport | None = None) -> None:
        own = entry or EngineEntry()
        self._api = Api(own.url or address_of(), transport=transport)
        self._environment = ServerEnvironment(own, self._api)

    def find(self) -> EngineFound:
        """Raises EngineAway where no Ollama answers."""
        return EngineFound(self.name, require_version(self._api, FIND_S), (), self._api.base_url)

    def restore_after_crash(self) -> None:
        """Restores the server's environment, where an earlier process changed it and crashed."""
        self._environment.restore_after_crash()

    def capabilities(self) -> Mapping[str, Support]:
        return dict.fromkeys(_SETS.split(), Support.SETS)

    def load(self, settings: LoadSettings, place: LoadPlace) -> HttpSession:
        wanted = environment_for(settings)
        options, name = load_options(settings), model_name(settings)
        self._environment.refuse(wanted)
        self._environment.restore_after_crash()
        require_version(self._api)
        try:
            self._environment.apply(wanted)
            return self._load(settings, name, options, wanted, place)
        except BaseException:
            self._unload_and_restore(name)
            raise

    def _load(
        self, settings: LoadSettings, name: str, options: dict[str, Any], wanted: dict[str, str], place: LoadPlace
    ) -> HttpSession:
        try:
            version = require_version(self._api)  # of the server as it runs now
            model = self._model(settings, name, place)
            place.notify("loading")
            unload_all(self._api, place.clock)
            place.on_emptied()
            started = place.clock.monotonic_ns()
            self._api.load("/api/chat", _load_body(name, options), place)
            load_s = (place.clock.monotonic_ns() - started) / 1e9
            held = _held(self._api, name)
        except ApiError as error:
            raise error.as_failed_load() from error
        except EngineLost as error:
            raise LoadFailed(Cause.LOAD_FAILED, f"{error.detail}, though it said that it loaded it") from error
        refuse_load_mismatch(settings, held)
        loaded = Loaded(
            load_s=load_s,
            reused=False,
            engine_version=f"ollama {version}",
            engine_runtime=_runtime(settings, held),
            model_architecture=model.architecture,
            engine_model_bytes=held.size_bytes,
            engine_vram_bytes=held.vram_bytes,
            context_tokens_actual=held.context_tokens,
            settings=_settings(name, model, options, wanted),
        )
        numbers = itertools.count(1)

        def request_for(workload: Workload, nonce: int) -> Request:  # noqa: ARG001  it comes again with each job
            return chat_request(self._api.base_url, name, model, options, workload, next(numbers))

        return HttpSession(
            loaded, request_for, lambda: _held(self._api, held.name), lambda: self._unload_and_restore(name)
        )

    def _model(self, settings: LoadSettings, name: str, place: LoadPlace) -> ModelDetails:
        model = model_details(self._api, name)
        if model is None:
            place.notify(f"Ollama fetches {name}")
            pull(self._api, name, place)
            model = model_details(self._api, name)
        if model is None:
            raise LoadFailed(Cause.MODEL_FILE_MISSING, f"Ollama pulled {name} and does not have it")
        refuse_model(settings, name, model)
        return model

    def _unload_and_restore(self, name: str) -> None:
        """Unloads the model, and restores the server's environment, also where one of the two fails."""
        with suppress(AgentError):
            unload(self._api, name)
        with suppress(AgentError):
            self._environment.restore()


def model_name(settings: LoadSettings) -> str:
    """The matrix's name for Ollama; a model on Hugging Face is ``hf.co/OWNER/REPO:QUANT``, which Ollama pulls itself.
    Raises Unsupported. PURE"""
    source = settings.source
    if dict(source.engine_names).get("ollama") is None and source.hf_repo:
        if source.hf_revision:
            raise Unsupported(f"Ollama pulls no revision of {source.hf_repo}; leave it out, or give models a name")
        return f"hf.co/{source.hf_repo}" + (f":{settings.quantisation}" if settings.quantisation else "")
    return model_name_for("ollama", settings)


def load_options(settings: LoadSettings) -> dict[str, Any]:
    """Options that are fixed when a model is loaded: each request repeats them, for another value loads anew. PURE
    Raises Unsupported."""
    layers = settings.gpu_layers
    if settings.runtime is Runtime.CPU:
        if layers:
            raise Unsupported(f"runtime cpu has no GPU to put {'all' if layers < 0 else layers} layers on")
        layers = 0
    if settings.runtime is Runtime.METAL and sys.platform != "darwin":
        raise Unsupported("runtime metal: Ollama has it on macOS only", Cause.RUNTIME_MISSING)
    options = {
        "num_ctx": settings.context_tokens,
        "num_batch": settings.batch_tokens,
        "num_gpu": ALL_LAYERS if layers is not None and layers < 0 else layers,
        "use_mmap": settings.mmap,
        "num_thread": settings.threads,
    }
    return {name: value for name, value in options.items() if value is not None}


def refuse_model(settings: LoadSettings, name: str, model: ModelDetails) -> None:
    """Raises Unsupported where the model is not the one that the cell means. PURE"""
    if model.remote:
        raise Unsupported(f"{name} is computed at {model.remote}, not on this device")
    wanted, has = settings.quantisation, model.quantisation
    if wanted is None or name.upper().endswith(f":{wanted.upper()}"):  # Ollama chose the file by that name
        return
    if has is None or has.upper() != wanted.upper():
        raise Unsupported(f"Ollama's {name} has quantisation {has or 'unknown'}, and the cell asks for {wanted}")


def refuse_load_mismatch(settings: LoadSettings, held: LoadedModel) -> None:
    """Raises LoadFailed where Ollama loaded the model otherwise than requested. PURE"""
    requested, has = settings.context_tokens, held.context_tokens
    if requested is not None and has is not None and requested != has:
        detail = (
            f"a context of {requested} tokens was asked for, and Ollama made {has} (the model was trained with less?)"
        )
        raise LoadFailed(Cause.CONTEXT_TOO_LONG, detail)
    on_gpu = settings.gpu_layers != 0 and (settings.runtime not in (None, Runtime.CPU) or bool(settings.gpu_layers))
    if on_gpu and held.vram_bytes == 0:
        detail = f"{settings.runtime or 'a GPU'} was asked for, and Ollama put nothing of the model into GPU memory"
        raise LoadFailed(Cause.RUNTIME_MISSING, f"{detail}: its log says which GPUs it found")
    if (settings.gpu_layers or 0) < 0 and held.vram_bytes < held.size_bytes:
        detail = f"all layers on the GPU were asked for; {held.vram_bytes} of {held.size_bytes} bytes are there"
        raise LoadFailed(Cause.VRAM, detail)
    if (settings.gpu_layers == 0 or settings.runtime is Runtime.CPU) and held.vram_bytes:
        detail = f"nothing was to be on the GPU, and {held.vram_bytes} bytes are there"
        raise LoadFailed(Cause.LOAD_FAILED, detail)


def chat_request(
    base_url: str, name: str, model: ModelDetails, options: Mapping[str, Any], workload: Workload, number: int
) -> Request:
    """The request for a chat. ``number`` differs for each request on a loaded model, and so does the prompt's first
    line: Ollama always asks its runner for a cached prompt. Raises Unsupported. PURE"""
    if not isinstance(workload, Chat):
        raise Unsupported("Ollama takes text, not token ids")
    if workload.image is not None and model.capabilities is not None and "vision" not in model.capabilities:
        raise Unsupported(f"{name} sees no images: Ollama lists {', '.join(sorted(model.capabilities))}")
    chat = fresh(workload, number, model.system)
    user: dict[str, Any] = {"role": "user", "content": chat.prompt}
    if chat.image is not None:
        user["images"] = [chat.image.data_base64]
    system = [] if chat.system is None else [{"role": "system", "content": chat.system}]
    sampling = {"num_predict": chat.max_tokens, **sampling_fields(chat.sampling)}
    body = _load_body(name, {**options, **sampling}) | {"messages": [*system, user], "stream": True, "truncate": False}
    return Request(
        url=f"{base_url}/api/chat",
        body=json.dumps(body).encode(),
        decode=partial(ollama_chunks, max_tokens=chat.max_tokens),
        cached_tokens_allowed=TEMPLATE_TOKENS,
    )


def _load_body(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a call that only loads: it has no messages. ``shift`` false: a full context ends the text. Chats
    repeat ``shift`` and options, since other values would start the runner anew."""
    return {
        "model": name,
        "messages": [],
        "stream": False,
        "options": dict(options),
        "keep_alive": KEEP_S,
        "shift": False,
    }


def _held(api: Api, name: str) -> LoadedModel:
    """The entry of the loaded model. Raises ApiError; EngineLost where the model is not loaded (any more)."""
    wanted = _plain(name)
    found = tuple(one for one in loaded_models(api) if _plain(one.name) == wanted)
    if not found:
        raise EngineLost(f"Ollama holds {name} no more")
    return found[0]


def _plain(name: str) -> str:
    """A name as Ollama compares it: without case, and without the default tag."""
    return name.removesuffix(":latest").casefold()


def _runtime(settings: LoadSettings, held: LoadedModel) -> str | None:
    """Ollama does not report it. Known are the CPU, where nothing lies on a GPU, and the runtime that we set in its
    environment."""
    if held.vram_bytes == 0:
        return Runtime.CPU.value
    return None if settings.runtime is None else settings.runtime.value


def _settings(
    name: str, model: ModelDetails, options: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    fixed = {"model": name, "quantization_level": model.quantisation or "not told", "keep_alive": KEEP_S}
    return tuple((key, str(value)) for key, value in {**fixed, **options, **environment}.items())
