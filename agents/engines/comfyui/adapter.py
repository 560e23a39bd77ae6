"""ComfyUI: a server that makes images from graphs. It runs already; models are named in the graph.

Routes and answers as ComfyUI 0.3.64 has them (recorded). ``argv`` in its answers may hold secrets: it is not kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from agents.contract.device import EngineFound
from agents.contract.job import LoadSettings, Runtime
from agents.contract.report import Loaded
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace, Support, model_name_for, refuse_mismatch
from agents.engines.comfyui.session import ComfySession, free
from agents.engines.server.api import CALL_S, FIND_S, Api, ApiError
from agents.errors import Unsupported

USUAL_URL = "http://127.0.0.1:8188"
_RUNTIMES = {"cuda": Runtime.CUDA, "mps": Runtime.METAL, "cpu": Runtime.CPU}


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server and its first device, from ``/system_stats``. ``runtime`` is None for back ends that no cell can ask for
    (XPU, DirectML)."""

    version: str
    pytorch: str
    python: str
    device: str
    device_type: str
    vram_total_bytes: int | None
    ram_total_bytes: int | None

    @property
    def runtime(self) -> Runtime | None:
        if self.device_type == "cuda" and "rocm" in self.pytorch:
            return Runtime.ROCM  # PyTorch calls a ROCm device cuda too
        return _RUNTIMES.get(self.device_type)

    @property
    def description(self) -> str:
        return f"ComfyUI {self.version}, PyTorch {self.pytorch}"


class ComfyUI:
    """The server at ``entry.url``, or at its usual place on this machine."""

    name = "comfyui"

    def __init__(self, entry: EngineEntry | None = None, transport: httpx.BaseTransport | None = None) -> None:
        entry = entry or EngineEntry()
        self._token_env = entry.token_env
        token = os.environ.get(entry.token_env) if entry.token_env else None
        self._api = Api(entry.url or USUAL_URL, token, transport)

    def find(self) -> EngineFound:
        server = self._server(FIND_S)
        runtimes = (server.runtime.value,) if server.runtime else ()
        return EngineFound(self.name, server.description, runtimes, self._api.base_url)

    def capabilities(self) -> Mapping[str, Support]:
        sets = dict.fromkeys(("engine", "model", "quantisation", "source", "workflow"), Support.SETS)
        return {**sets, "runtime": Support.RECORDS}

    def load(self, settings: LoadSettings, place: LoadPlace) -> ComfySession:
        """Empties the server, so that the first run, a warm-up, reads the model; no workload is known yet."""
        server = self._server(CALL_S)
        refuse_mismatch(self.name, settings, {"runtime": server.runtime})
        model = model_name_for(self.name, settings)
        place.notify("loading")
        try:
            free(self._api)
        except ApiError as error:
            raise error.as_failed_load() from error
        return ComfySession(self._api, _loaded_of(server, self._api.base_url, model), model, place.clock)

    def _server(self, timeout_s: float) -> ServerFacts:
        """Asks the server what it is. Raises Unsupported where there is no ComfyUI."""
        url = self._api.base_url
        try:
            stats = self._api.get("/system_stats", timeout_s)
        except ApiError as error:
            why = f"no ComfyUI: {error.detail}"
            if error.status in (401, 403):
                variable = self._token_env or "a variable"
                why += f"; its token belongs into {variable}, named by engines: {{comfyui: {{token_env: NAME}}}}"
            detail = f"{why}. Start it, or say where it is: engines: {{comfyui: {{url: ...}}}}"
            raise error.as_refusal(detail) from error
        found = parse_server(stats)
        if found is None:
            raise Unsupported(f"{url}/system_stats: the answer is not ComfyUI's")
        return found


def parse_server(stats: Any) -> ServerFacts | None:
    """The server, from an answer of ``/system_stats``; None where the answer is not ComfyUI's. PURE"""
    system = stats.get("system") if isinstance(stats, dict) else None
    devices = stats.get("devices") if isinstance(stats, dict) else None
    if not isinstance(system, dict) or not isinstance(devices, list):
        return None
    if not {"comfyui_version", "pytorch_version", "embedded_python"} & set(system):
        return None
    device = next((each for each in devices if isinstance(each, dict)), {})
    return ServerFacts(
        version=str(system.get("comfyui_version") or "of unknown version"),  # reported since September 2024
        pytorch=str(system.get("pytorch_version") or "of unknown version"),
        python=str(system.get("python_version") or "").partition(" ")[0],
        device=str(device.get("name") or "unknown"),
        device_type=str(device.get("type") or "unknown"),
        vram_total_bytes=_whole(device.get("vram_total")),
        ram_total_bytes=_whole(system.get("ram_total")),
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _loaded_of(server: ServerFacts, url: str, model: str) -> Loaded:
    facts = {
        "url": url,
        "model": model,
        "device": server.device,
        "device_type": server.device_type,
        "pytorch_version": server.pytorch,
        "python_version": server.python,
        "vram_total": server.vram_total_bytes,
        "ram_total": server.ram_total_bytes,
    }
    return Loaded(
        load_s=None,
        reused=False,
        engine_version=server.description,
        engine_runtime=f"{server.device_type}: {server.device}",
        model_file=model,
        settings=tuple((name, str(value)) for name, value in facts.items() if value is not None),
    )
