"""Which devices a job may ask for its model files, and the token that opens their model servers.

It names no device that fetches: the devices elect that one (``agents.models.lan.election``). Those that loaded a model,
or were sent a job with it, come first in the list, so that each device asks all that began before it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agents.contract.job import Job, ModelSource
from agents.contract.model_peers import Peer, Peers
from agents.contract.report import Failed, Measured, Report
from agents.files import write_atomic
from agents.log import hide
from agents.places import HEAD_MODELS_PORT_VARIABLE, device_root
from orchestrator.errors import OrchestrateError

if TYPE_CHECKING:
    from agents.models.lan.server import ModelServer

MAX_PEERS = 16
"""Each question for a file goes to so many devices at most; those most likely to have it come first."""
HEAD = "head"

Model = tuple[ModelSource, str | None]


class ModelPeers:
    """What the coordinator knows of model servers and of who has which model. Used on the loop's thread alone.

    ``ask_port(device_id, token)`` starts a device's model server; its port is handed to ``server_started``.
    """

    def __init__(self, token: str, ask_port: Callable[[str, str], None], head_url: str | None = None) -> None:
        self._token = token
        self._ask_port = ask_port
        self._head_url = head_url
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._urls: dict[str, str] = {}
        self._models: dict[str, Model] = {}  # by job id, while the job runs
        self._holders: dict[Model, dict[str, None]] = {}  # ids of devices that loaded it or are about to, in order

    def device_joined(self, device_id: str, name: str, address: str) -> None:
        self._addresses[device_id] = address
        self._names[device_id] = name
        self._ask_port(device_id, self._token)

    def server_started(self, device_id: str, port: int) -> None:
        if device_id in self._addresses:
            self._urls[device_id] = f"http://{self._addresses[device_id]}:{port}"

    def for_job(self, device_id: str, job: Job) -> Peers | None:
        """Whom ``device_id`` may ask; None where nothing is fetched: tiny models are made, names are the engine's."""
        source = job.load.source
        if not (source.hf_repo or source.url or source.path):
            return None
        model = (source, job.load.quantisation)
        self._models[job.job_id] = model
        holders = self._holders.setdefault(model, {})
        peers = [] if self._head_url is None else [Peer(HEAD, self._head_url, HEAD)]
        for other in (*holders, *self._urls):
            peer = Peer(other, self._urls.get(other, ""), self._names.get(other, ""))
            if peer.url and other != device_id and peer not in peers and len(peers) < MAX_PEERS:
                peers.append(peer)
        holders[device_id] = None
        return Peers(self._token, device_id, tuple(peers))

    def job_ended(self, report: Report) -> None:
        """The device counts as one that has the model, unless the job ended before it was loaded."""
        model = self._models.pop(report.job_id, None)
        loaded = isinstance(report.outcome, Measured) or (
            isinstance(report.outcome, Failed) and report.outcome.loaded is not None
        )
        if model is not None and not loaded:
            self._holders[model].pop(report.device_id, None)


def models_token(root: Path) -> str:
    """The secret of this head's cluster for its model servers, in a file (mode 600). Raises OSError."""
    path = root / "models-token"
    if not path.exists():  # one coordinator at a time: it holds the lock of this folder
        write_atomic(path, secrets.token_hex(32), mode=0o600)
    return path.read_text(encoding="ascii").strip()


def model_server(root: Path) -> ModelServer:
    """The head gives its own model files to devices. Raises OrchestrateError."""
    from agents.models.lan.server import ModelServer

    try:
        token = models_token(root)
    except OSError as error:
        raise OrchestrateError(f"{root}: cannot be written: {error}") from error
    hide(token)
    port = os.environ.get(HEAD_MODELS_PORT_VARIABLE, "0")
    try:
        return ModelServer(device_root(root) / "models", token, lambda: False, port=int(port))
    except (OSError, ValueError, OverflowError) as error:
        raise OrchestrateError(
            f"cannot serve model files at port {port}: {error}. Free that port, or name another:"
            f" {HEAD_MODELS_PORT_VARIABLE}"
        ) from error
