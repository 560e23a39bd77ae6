"""LM Studio: a desktop program, or its service ``llmster``, with a server of its own that holds models by name.

Its REST v1 loads, unloads and streams; servers before 0.4 have REST v0, and there the SDK loads. A model is always
loaded as an instance of our own: what the user has loaded stays as it is, and is named in the row.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx

from agents.contract.device import EngineFound
from agents.contract.job import Chat, LoadSettings, Workload
from agents.contract.report import Cause, Loaded
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Request, Support, model_name_for, requested_axes
from agents.engines.lmstudio.api import RestServer, StoredModel, connect, pick
from agents.engines.lmstudio.requests import v0_request, v1_request
from agents.engines.lmstudio.runtime import InstalledRuntime, LmsFailed, Selection, find_lms, runtime_of
from agents.engines.lmstudio.sdk import INSTALL, Sdk, installed
from agents.engines.lmstudio.settings import ONLY_SDK, refuse_config_mismatch, refuse_values, rest_fields, sdk_config
from agents.engines.server.api import FIND_S, Api
from agents.engines.server.chat import fresh
from agents.engines.server.session import HttpSession
from agents.errors import AgentError, EngineLost, LoadFailed, Unsupported

URL, TOKEN = "http://127.0.0.1:1234", "LM_API_TOKEN"
JOURNAL = "lmstudio-runtime.json"  # beside the device's models
GONE_WITHIN_S = 15.0  # after a cancel: how long an instance that still comes up is waited for, to unload it
LOOK_S = 0.25


class LMStudio:
    """``transport`` takes the place of the network in tests."""

    name = "lmstudio"

    def __init__(self, entry: EngineEntry | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self._entry = entry or EngineEntry()
        self._url = (self._entry.url or URL).rstrip("/")
        self._token_variable = self._entry.token_env or TOKEN
        self._token = os.environ.get(self._token_variable)
        self._api = Api(self._url, self._token, transport)

    def find(self) -> EngineFound:
        """Raises Unsupported where no server answers. Without ``lms`` its runtimes are not known before a load."""
        server = connect(self._api, self._token_variable, FIND_S)
        lms = find_lms(self._entry, self._url)
        runtimes: tuple[InstalledRuntime, ...] = ()
        # The engine can be used without them.
        with suppress(LmsFailed):
            runtimes = lms.runtimes() if lms else ()
        return EngineFound(
            name=self.name,
            version=_version(server, None),
            runtimes=tuple(dict.fromkeys(each.runtime.value for each in runtimes)),
            where=self._url,
        )

    def capabilities(self) -> Mapping[str, Support]:
        """Those of ONLY_SDK need the SDK: without it a load refuses them, with what to install."""
        axes = (
            "engine model source quantisation runtime context_tokens batch_tokens flash_attention kv_offload kv_type_k"
            " kv_type_v mmap keep_in_memory gpu_layers chat image"
        )
        return dict.fromkeys(axes.split(), Support.SETS)

    def load(self, settings: LoadSettings, place: LoadPlace) -> HttpSession:
        server = connect(self._api, self._token_variable)
        model, name = pick(server.models(), model_name_for(self.name, settings), settings.quantisation)
        # What cannot be loaded is refused before the user's selection is touched.
        refuse_values(settings, model.max_context_tokens)
        sdk = self._sdk(settings, server)
        selection = Selection(find_lms(self._entry, self._url), place.models.parent / JOURNAL)
        # What a crashed process has selected must not be what this load finds.
        selection.restore()
        if settings.runtime is not None:
            place.notify("selecting the runtime")
            selection.change(settings.runtime, model.format)
        try:
            place.notify("loading")
            return _InstanceLoad(server, sdk, settings, model, name, place).session(self._version_of(server), selection)
        # Whatever ends the load, the selection is the user's again.
        except BaseException:
            selection.restore()
            raise

    def _sdk(self, settings: LoadSettings, server: RestServer) -> Sdk | None:
        """The SDK if this load needs it. Raises Unsupported where it is not there."""
        needed = [axis for axis in requested_axes(settings) if axis in ONLY_SDK]
        # The SDK is an optional package: REST is used wherever it suffices.
        if not needed and server.rest == "v1":
            return None
        if not installed():
            what = f"sets {', '.join(needed)}" if needed else "loads models on a server before 0.4"
            raise Unsupported(f"LM Studio {what} through its SDK alone: {INSTALL}")
        return Sdk(self._url, self._token)

    def _version_of(self, server: RestServer) -> str:
        version = None
        with suppress(Unsupported):
            version = Sdk(self._url, self._token).version()
        return _version(server, version)


def _version(server: RestServer, version: str | None) -> str:
    """REST does not report the program's version; the SDK does."""
    return f"LM Studio {version}, REST {server.rest}" if version else f"LM Studio, REST {server.rest}"


class _InstanceLoad:
    """One load of an instance of our own, and its undoing."""

    def __init__(
        self,
        server: RestServer,
        sdk: Sdk | None,
        settings: LoadSettings,
        model: StoredModel,
        name: str,
        place: LoadPlace,
    ) -> None:
        self._server, self._sdk, self._settings, self._place = server, sdk, settings, place
        self._model, self._name = model, name
        # The user's: never unloaded by us, and named in the row, since they share the GPU.
        self._before = server.instances()
        self._instance: str | None = None
        self._config: dict[str, Any] = {}

    def session(self, version: str, selection: Selection) -> HttpSession:
        """Loads the instance. Raises LoadFailed, and unloads then whatever of ours can be seen in LM Studio."""
        clock = self._place.clock
        started = clock.monotonic_ns()
        try:
            self._config = self._by_sdk(self._sdk) if self._sdk else self._by_rest()
            # Before the next call, which is not part of the load.
            load_s = (clock.monotonic_ns() - started) / 1e9
            runtime, info = self._server.runtime_of(self._name_of_instance())
            self._refuse_other(runtime, info)
        except LoadFailed as error:
            # LM Studio goes on loading after we have given up: the instance may come up later, and keep the memory.
            self._undo(wait=error.cause in (Cause.CANCELLED, Cause.LOAD_TIMEOUT))
            raise
        except AgentError as error:
            self._undo(wait=False)
            raise LoadFailed(error.cause, error.detail) from error
        loaded = self._loaded(version, load_s, runtime, info)

        def unload() -> None:
            try:
                self._undo(wait=False)
            finally:
                # Also where the unload fails: the user may have closed LM Studio, and its selection outlives that.
                selection.restore()

        return HttpSession(loaded, self._requests(loaded), self._ping, unload)

    def _name_of_instance(self) -> str:
        assert self._instance is not None
        return self._instance

    def _by_rest(self) -> dict[str, Any]:
        requested = rest_fields(self._settings)
        # Without ``echo_load_config`` the answer does not hold the configuration that applies.
        body = {"model": self._name, **requested, "echo_load_config": True}
        answer = self._server.api.load("/api/v1/models/load", body, self._place)
        if not isinstance(answer, dict) or not answer.get("instance_id"):
            raise LoadFailed(Cause.LOAD_FAILED, f"LM Studio does not tell what it loaded: {str(answer)[:200]}")
        # Noted before anything is refused: ``_undo`` unloads by this name.
        self._instance = str(answer["instance_id"])
        config = answer.get("load_config")
        reported: dict[str, Any] = config if isinstance(config, dict) else {}
        refuse_config_mismatch(requested, reported, complete=True)
        return {**reported, "load_time_seconds": answer.get("load_time_seconds")}

    def _by_sdk(self, sdk: Sdk) -> dict[str, Any]:
        requested, taken = sdk_config(self._settings), {*self._before}
        # A name of our own: a load that is cancelled can be found by it. An agent that crashed may have left a number.
        names = (f"orchestrate-{number}" for number in itertools.count(1))
        self._instance = next(name for name in names if name not in taken)
        reported = dict(sdk.load(self._name, self._instance, requested, self._place))
        refuse_config_mismatch(requested, reported, complete=False)
        return reported

    def _refuse_other(self, runtime: str | None, info: Mapping[str, Any]) -> None:
        # Compared after the load: a selection that was not followed would be measured under a wrong name.
        wanted, quantisation = self._settings.runtime, self._settings.quantisation
        if wanted is not None and runtime is not None and runtime_of(runtime) is not wanted:
            raise LoadFailed(Cause.RUNTIME_MISSING, f"runtime {wanted} was selected, and the model runs on {runtime}")
        seen = info.get("quant")
        if quantisation and seen and str(seen).lower() != quantisation.lower():
            raise LoadFailed(Cause.LOAD_FAILED, f"LM Studio loaded {seen} instead of {quantisation}")

    def _undo(self, *, wait: bool) -> None:
        """Unloads our instance, and nothing of the user's. ``wait``: for up to GONE_WITHIN_S, since it may still be
        loading, under a name that is not known yet."""
        clock, deadline = self._place.clock, self._place.clock.monotonic_ns() + int(GONE_WITHIN_S * 1e9)
        while True:
            ours = self._new_instances() if wait or self._instance is None else [self._instance]
            for instance in ours:
                if instance not in self._before:
                    # Mostly on the way out with the error of the load, which another one here would hide.
                    with suppress(AgentError):
                        self._unload(instance)
            if ours or not wait or clock.monotonic_ns() > deadline:
                return
            clock.sleep(LOOK_S)

    def _new_instances(self) -> list[str]:
        """Instances that are loaded now: ours, where we gave it a name; else all new ones of the model."""
        with suppress(AgentError):
            if self._instance is not None:
                return [self._instance] if self._instance in self._server.instances() else []
            # Another instance of the model that the user loads in this very moment cannot be distinguished from ours.
            found = next((each for each in self._server.models() if each.key == self._model.key), self._model)
            return [name for name in found.instances if name not in self._before]
        return []

    def _unload(self, instance: str) -> None:
        if self._server.rest == "v1":
            self._server.unload(instance)
        elif self._sdk is not None:
            self._sdk.unload(instance)

    def _loaded(self, version: str, load_s: float, runtime: str | None, info: Mapping[str, Any]) -> Loaded:
        model, config = self._model, self._config
        # REST and the SDK name it differently; the list of instances has it where the load did not report it.
        context = config.get("context_length") or config.get("contextLength") or info.get("context_length")
        others = ", ".join(sorted(self._before))
        sent = sdk_config(self._settings) if self._sdk else rest_fields(self._settings)
        return Loaded(
            load_s=load_s,
            reused=False,
            engine_version=version,
            engine_runtime=runtime,
            model_file=self._name,
            model_bytes=model.size_bytes,
            model_architecture=model.architecture or info.get("arch"),
            context_tokens_actual=context,
            settings=(
                ("through", "sdk" if self._sdk else f"rest {self._server.rest}"),
                ("instance", self._name_of_instance()),
                *((name, str(value)) for name, value in sent.items()),
                *((f"told.{name}", str(value)) for name, value in config.items() if value is not None),
                *((("loaded_beside", others),) if others else ()),
            ),
        )

    def _requests(self, loaded: Loaded) -> Callable[[Workload, int], Request]:
        api, instance, counts = self._server.api, self._name_of_instance(), itertools.count(1)

        def request_for(workload: Workload, nonce: int) -> Request:  # noqa: ARG001  its own count differs more often
            if not isinstance(workload, Chat):
                raise Unsupported(f"LM Studio takes text, and workload {workload.name} is of token ids")
            if workload.image is not None and self._model.vision is False:
                raise Unsupported(f"LM Studio says that {self._model.key} takes no images")
            # Each prompt begins in another way: REST v1 does not report how many tokens came from a cache.
            chat = fresh(workload, next(counts))
            if self._server.rest == "v0":
                return v0_request(api.base_url, instance, chat, api.headers)
            return v1_request(api.base_url, instance, chat, loaded.context_tokens_actual, api.headers)

        return request_for

    def _ping(self) -> None:
        # The user may unload it at any time, and so may LM Studio's own idle timer.
        if self._name_of_instance() not in self._server.instances():
            raise EngineLost(f"LM Studio has unloaded {self._instance}")
