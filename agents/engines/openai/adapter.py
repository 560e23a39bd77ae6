"""Any server with OpenAI's chat completions (vLLM, SGLang, mlx_lm.server, llama_cpp.server, TabbyAPI ...), as it runs.

Its owner started it with a model and settings: none of them can be set from here, a few are reported.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from agents.contract.device import EngineFound
from agents.contract.job import Chat, LoadSettings, Workload
from agents.contract.report import Loaded
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Request, Support, model_name_for, refuse_mismatch
from agents.engines.openai.dialects import Cache, Dialect, dialect_of
from agents.engines.openai.probe import probe
from agents.engines.server.api import CALL_S, FIND_S, Api, ApiError
from agents.engines.server.chat import TEMPLATE_TOKENS, chat_messages, fresh, openai_chat_request
from agents.engines.server.session import HttpSession
from agents.errors import Unsupported

_WHERE = "say where it is: engines: {openai: {url: 'http://127.0.0.1:8000'}} in device.yaml"
LISTED = 20  # names of models in an error
_VERSION_AT = {"sglang": "/get_server_info"}  # of others, such as vLLM: /version


@dataclass(frozen=True, slots=True)
class ListedModel:
    """An entry of ``/v1/models``. ``max_tokens`` is the context, which vLLM and SGLang report."""

    name: str
    owner: str = ""
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server reports of itself. ``version`` is None where it reports none."""

    models: tuple[ListedModel, ...]
    version: str | None
    header: str
    owner: str  # of the model that is asked for, else of the first: a gateway may have several engines behind it

    @property
    def dialect(self) -> Dialect:
        return dialect_of(self.owner, self.version)

    def description(self, fingerprint: str | None = None) -> str:
        """Name and version, for a row. ``fingerprint``: ``system_fingerprint`` of a stream; llama.cpp and mlx-lm have
        their version there."""
        known = self.version or fingerprint
        parts = [self.dialect.name, *([known] if known else [])]
        details = [f"owned_by {self.owner}"] if self.owner else []
        details += [f"Server: {self.header}"] if self.header else []
        return " ".join(parts) + (f" ({', '.join(details)})" if details and not self.version else "")


class OpenAIServer:
    name = "openai"

    def __init__(self, entry: EngineEntry | None = None, transport: httpx.BaseTransport | None = None) -> None:
        own = entry or EngineEntry()
        self._token_env = own.token_env
        token = os.environ.get(own.token_env) if own.token_env else None
        base = (own.url or "").rstrip("/").removesuffix("/v1")
        self._api = Api(base, token, transport) if base else None

    def find(self) -> EngineFound:
        """Raises Unsupported where no server is named, or none answers there."""
        server = self._server(FIND_S)
        return EngineFound(self.name, server.description(), (), self._named().base_url)

    def capabilities(self) -> Mapping[str, Support]:
        """As ``Engine.capabilities``, of the server that runs: an exact number of tokens is not in OpenAI's
        standard."""
        try:
            exact = self._server(CALL_S).dialect.exact is not None
        except Unsupported:
            exact = True  # the load will raise with the reason
        can = dict.fromkeys(("engine", "model", "source", "chat", "image"), Support.SETS)
        stop = Support.SETS if exact else Support.CANNOT
        return {**can, "context_tokens": Support.RECORDS, "exact_stop": stop}

    def load(self, settings: LoadSettings, place: LoadPlace) -> HttpSession:
        """Sends one short chat, at which some servers load the model. That also shows whether it takes the fields that
        are sent."""
        api, server = self._named(), self._server(CALL_S)
        model = _model(settings, server)
        if model.owner != server.owner:
            server = replace(server, owner=model.owner, version=_version(api, model.owner, CALL_S))
        refuse_mismatch(self.name, settings, {"context_tokens": model.max_tokens})
        numbers = itertools.count(secrets.randbelow(10**6))  # the server may remember earlier sessions' prompts

        def request_for(workload: Workload, nonce: int) -> Request:  # noqa: ARG001  it comes again with each job
            return chat_request(api, model.name, server.dialect, workload, next(numbers))

        place.notify("loading")
        started = place.clock.monotonic_ns()
        fingerprint = probe(request_for(Chat("hello", "Hello.", 1), 0), place, self._token_hint())
        loaded = Loaded(
            load_s=(place.clock.monotonic_ns() - started) / 1e9,
            reused=False,
            engine_version=server.description(fingerprint),
            context_tokens_actual=model.max_tokens,
            settings=(("model", model.name), ("prompt cache", server.dialect.cache.value), ("url", api.base_url)),
        )
        return HttpSession(loaded, request_for, lambda: api.get("/v1/models"), lambda: None)

    def _named(self) -> Api:
        if self._api is None:
            raise Unsupported(f"openai: no server is named; {_WHERE}")
        return self._api

    def _server(self, timeout_s: float) -> ServerFacts:
        api = self._named()
        try:
            models = _models(api, timeout_s)
        except ApiError as error:
            hint = self._token_hint() if error.status in (401, 403) else _WHERE
            raise error.as_refusal(f"{error.detail}; {hint}") from error
        owner = models[0].owner if models else ""
        return ServerFacts(models, _version(api, owner, timeout_s), api.server_header("/v1/models", timeout_s), owner)

    def _token_hint(self) -> str:
        if self._token_env is None:
            return "name the variable that holds its token: engines.openai.token_env in device.yaml"
        there = "holds a token that the server does not take" if os.environ.get(self._token_env) else "is not set"
        return f"the variable {self._token_env} (engines.openai.token_env in device.yaml) {there}"


def chat_request(api: Api, model: str, dialect: Dialect, workload: Workload, number: int) -> Request:
    """The request for a chat. ``number`` differs for each request, and so does the salt, or the prompt. Raises
    Unsupported. PURE"""
    if not isinstance(workload, Chat):
        raise Unsupported("an OpenAI-compatible server takes text, not token ids")
    chat = fresh(workload, number) if dialect.cache is Cache.NONCE else workload
    more: dict[str, Any] = {"model": model, **dialect.more(chat)}
    penalty = dialect.names.get("repeat_penalty")
    if penalty and chat.sampling.repeat_penalty is not None:
        more[penalty] = chat.sampling.repeat_penalty
        chat = replace(chat, sampling=replace(chat.sampling, repeat_penalty=None))
    if dialect.cache is Cache.SALT:
        more["cache_salt"] = f"orchestrate-{number}"
    if dialect.image_uuid and chat.image is not None:
        more["messages"] = chat_messages(chat)
        more["messages"][-1]["content"][0]["uuid"] = f"orchestrate-{number}"
    request = openai_chat_request(f"{api.base_url}/v1/chat/completions", chat, more, api.headers)
    allowed = TEMPLATE_TOKENS if dialect.cache is Cache.NONCE else 0
    return replace(request, cached_tokens_allowed=allowed)


def _models(api: Api, timeout_s: float) -> tuple[ListedModel, ...]:
    """The models that the server lists. Raises ApiError, also where the answer is no list of models."""
    found = api.get("/v1/models", timeout_s)
    listed = found.get("data") if isinstance(found, dict) else found
    if not isinstance(listed, list):
        raise ApiError(f"GET /v1/models: {api.base_url} lists no models: {json.dumps(found)[:200]}", 200)
    models = []
    for each in listed:
        if isinstance(each, dict) and isinstance(each.get("id"), str):
            most = each.get("max_model_len")
            models.append(
                ListedModel(each["id"], str(each.get("owned_by") or ""), most if isinstance(most, int) else None)
            )
    return tuple(models)


def _model(settings: LoadSettings, server: ServerFacts) -> ListedModel:
    """The model that the cell means: by its name for this engine, or its Hugging Face repository. Raises
    Unsupported."""
    source = settings.source
    given = dict(source.engine_names).get("openai")
    name = source.hf_repo if given is None and source.hf_repo else model_name_for("openai", settings)
    for model in server.models:
        if model.name == name:
            return model
    names = [model.name for model in server.models]
    has = ", ".join(names[:LISTED]) or "none"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    raise Unsupported(
        f"the server has no model {name}; it lists {has}{more}: give the matrix its name for it"
        f"  models: {{{settings.model}: {{names: {{openai: NAME}}}}}}"
    )


def _version(api: Api, owner: str, timeout_s: float) -> str | None:
    try:
        found = api.get(_VERSION_AT.get(owner, "/version"), timeout_s)
    except ApiError:
        return None
    version = found.get("version") if isinstance(found, dict) else None
    return version if isinstance(version, str) else None
