"""The fleet over Ray: one agent actor on each live node. The only file that imports ray."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agents.agent import Agent
from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Report
from orchestrator.dispatch.fleet import Heard, Silent
from orchestrator.errors import OrchestrateError, UsageError

POLL_S = 1.0
"""How long an agent holds a poll back when it has no news: the pace of the live view."""
START_S = 120.0
CLOSE_S = 10.0
ANSWER_S = 5.0
OBJECT_STORE_BYTES = 128 * 1024 * 1024  # reports are small; Ray's least is 75 MiB
CALLS_AT_ONCE = 4  # a poll waits in one thread; start, cancel and collected pass it by

TOKEN_FILE = Path.home() / ".ray" / "auth_token"

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # an actor without GPUs must still see them
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: agent, client and engine would yield to everything else
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # else the agent is killed where a model fills the memory
if TOKEN_FILE.exists():  # `ray start` asks for the token where there is one; ray.init(address=...) has to be told
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray  # noqa: E402  reads its environment on import
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402


class RayFleet:
    """Joins the running cluster (``RAY_ADDRESS``, or the one on this machine), else starts one of one node."""

    def __init__(self, address: str | None = None) -> None:
        """``address``: as for ``ray.init``; "local" always starts one. Raises OrchestrateError."""
        self._temp = tempfile.TemporaryDirectory(prefix="ray-", dir=_short_folder(), ignore_cleanup_errors=True)
        self.started_cluster = _connect(address, self._temp.name)
        self._made: list[Any] = []  # handles of all agents that were started, also of those that never answered
        self._actors: dict[str, Any] = {}  # device id -> actor handle
        self._devices: dict[str, Device] = {}
        self._asked: dict[Any, str] = {}  # object ref of a start or a poll -> device id; one at most a device
        try:
            self._find_devices()
        except BaseException:
            self.close()
            raise

    def _find_devices(self) -> None:
        actor: Any = ray.remote(Agent)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        made = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            handle = actor.options(
                num_cpus=0, max_concurrency=CALLS_AT_ONCE, max_restarts=0, scheduling_strategy=there
            ).remote()
            self._made.append(handle)
            made.append((node["NodeName"], handle, handle.device.remote()))
        for name, handle, asked in made:
            device = _device(name, asked)
            if device.device_id in self._devices:
                raise OrchestrateError(
                    f"two nodes claim to be device {device.device_id} ({device.name} and"
                    f" {self._devices[device.device_id].name}): two Ray nodes on one machine, or a copied device-id"
                )
            self._actors[device.device_id] = handle
            self._devices[device.device_id] = device

    def devices(self) -> Sequence[Device]:
        return tuple(self._devices.values())

    def send(self, device_id: str, job: Job) -> None:
        self._asked[self._actors[device_id].start.remote(job)] = device_id

    def listen(self, wait_s: float) -> Sequence[Heard | Silent]:
        if not self._asked:
            time.sleep(wait_s)
            return ()
        ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=wait_s)
        heard: list[Heard | Silent] = []
        for ref in ready:
            device_id = self._asked.pop(ref)
            try:
                status = ray.get(ref)
            except RayError as error:
                heard.append(Silent(device_id, _told(error)))
                continue
            if status.job_id is not None:
                self._asked[self._actors[device_id].poll.remote(POLL_S)] = device_id
            heard.append(Heard(device_id, status))
        return heard

    def uncollected(self, campaign_id: str) -> Sequence[Report]:
        asked = {device_id: actor.uncollected.remote(campaign_id) for device_id, actor in self._actors.items()}
        reports: list[Report] = []
        for device_id, ref in asked.items():
            try:
                reports += ray.get(ref, timeout=START_S)
            except RayError as error:
                name = self._devices[device_id].name
                raise OrchestrateError(f"device {name}: cannot ask for its reports: {_told(error)}") from error
        return reports

    def collected(self, report: Report) -> None:
        self._actors[report.device_id].collected.remote(report.job_id, report.attempt)

    def cancel(self, device_id: str) -> None:
        self._actors[device_id].cancel.remote()

    def close(self) -> None:
        """Ends the agents, waits until their engines are gone, and ends the cluster if this object started it."""
        closing = [actor.close.remote() for actor in self._made]
        if closing:
            with suppress(RayError):
                ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for actor in self._made:
            with suppress(RayError):
                ray.kill(actor)
        self._made.clear()
        self._actors.clear()
        ray.shutdown()
        self._temp.cleanup()


def _short_folder() -> str | None:
    """Where Ray keeps its files: its sockets' paths must stay under 104 characters, so not a user's long TMPDIR."""
    return os.environ.get("RAY_TMPDIR") or ("/tmp" if Path("/tmp").is_dir() else None)


def _connect(address: str | None, temp: str) -> bool:
    """True if a cluster was started here, with its sockets and logs under ``temp``."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    told = address or os.environ.get("RAY_ADDRESS")
    running = None if told == "local" else _answering(told) if told else _latest_on_this_machine()
    if running is not None:
        try:
            ray.init(address=running, **quiet)
        except ConnectionError as error:
            raise OrchestrateError(f"no Ray cluster answers at {running}: {_root(error)}") from error
        except ValueError as error:
            raise UsageError(f"Ray cluster {running!r}: {_first_line(error)}. Allowed: HOST:PORT, or local") from error
        except (RayError, RuntimeError) as error:
            raise OrchestrateError(f"cannot join the Ray cluster at {running}: {_first_line(error)}") from error
        return False
    try:
        ray.init(
            address="local",
            num_cpus=1,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=temp,
            **quiet,
        )
    except (RayError, RuntimeError, ValueError, ConnectionError, OSError) as error:
        raise OrchestrateError(f"cannot start a Ray node on this machine: {_first_line(error)}") from error
    with suppress(OSError):
        TOKEN_FILE.chmod(0o600)  # Ray makes it with the umask's mode, readable for all
    return True


def _device(node: str, asked: Any) -> Device:
    try:
        device: Device = ray.get(asked, timeout=START_S)
    except GetTimeoutError as error:
        raise OrchestrateError(f"node {node}: its agent did not start within {START_S:g} s") from error
    except RayTaskError as error:
        raise OrchestrateError(f"node {node}: {error.cause}") from error
    except RayError as error:  # RayActorError; OutOfMemoryError, which is none
        raise OrchestrateError(f"node {node}: its agent died at its start: {_first_line(error)}") from error
    return device


def _answering(address: str) -> str:
    """``address``, if something listens there. Ray itself would wait for minutes. Raises OrchestrateError."""
    why_not = _why_no_answer(address)
    if why_not is not None:
        raise OrchestrateError(f"no Ray cluster answers at {address}: {why_not}")
    return address


def _latest_on_this_machine() -> str | None:
    """The address that the last `ray start` left, as ray.init looks it up; None if that cluster is gone."""
    left = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        address = left.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return address if address and _why_no_answer(address) is None else None


def _why_no_answer(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "//" in address:
        return None  # a form that only Ray understands
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _root(error: ConnectionError) -> str:
    """What stands behind Ray's "Failed to connect": a wrong token, or nobody there."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    if any("InvalidAuthToken" in text for text in texts):
        return f"it wants another token: copy {TOKEN_FILE} from the head to this machine (mode 600)"
    return _first_line(error)


def _told(error: RayError) -> str:
    """What went wrong on the device, without Ray's words around it."""
    if isinstance(error, RayActorError):
        return f"its agent ended: {_first_line(error)}"
    return _first_line(getattr(error, "cause", None) or error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
