"""The fleet over Ray: one agent actor on each live node. The only file that imports ray."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from agents.agent import Agent
from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Report
from orchestrator.dispatch.fleet import Heard, Silent
from orchestrator.errors import OrchestrateError

POLL_S = 1.0
"""How long an agent holds a poll back when it has no news: the pace of the live view."""
START_S = 120.0
OBJECT_STORE_BYTES = 128 * 1024 * 1024  # reports are small; Ray's least is 75 MiB
CALLS_AT_ONCE = 4  # a poll waits in one thread; start, cancel and collected pass it by

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # an actor without GPUs must still see them
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray  # noqa: E402  reads its environment on import
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402


class RayFleet:
    """Joins the running cluster (``RAY_ADDRESS``, or the one on this machine), else starts one of one node."""

    def __init__(self, address: str | None = None) -> None:
        """``address``: as for ``ray.init``; "local" always starts one. Raises OrchestrateError."""
        self.started_cluster = _connect(address)
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
                heard.append(Silent(device_id, _first_line(getattr(error, "cause", None) or error)))
                continue
            if status.job_id is not None:
                self._asked[self._actors[device_id].poll.remote(POLL_S)] = device_id
            heard.append(Heard(device_id, status))
        return heard

    def uncollected(self, campaign_id: str) -> Sequence[Report]:
        refs = [actor.uncollected.remote(campaign_id) for actor in self._actors.values()]
        return [report for found in ray.get(refs, timeout=START_S) for report in found]

    def collected(self, report: Report) -> None:
        self._actors[report.device_id].collected.remote(report.job_id, report.attempt)

    def cancel(self, device_id: str) -> None:
        self._actors[device_id].cancel.remote()

    def close(self) -> None:
        """Ends the agents, waits until their engines are gone, and ends the cluster if this object started it."""
        closing = [actor.close.remote() for actor in self._actors.values()]
        with suppress(RayError):
            ray.wait(closing, num_returns=len(closing), timeout=10.0)
        for actor in self._actors.values():
            with suppress(RayError):
                ray.kill(actor)
        self._actors.clear()
        ray.shutdown()


def _connect(address: str | None) -> bool:
    """True if a cluster was started here."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address != "local":
        try:
            ray.init(address=address or "auto", **quiet)
        except ConnectionError as error:
            told = address or os.environ.get("RAY_ADDRESS")
            if told:
                raise OrchestrateError(f"no Ray cluster answers at {told}: {_first_line(error)}") from error
        except (RayError, RuntimeError, ValueError) as error:
            raise OrchestrateError(f"cannot join the Ray cluster: {_first_line(error)}") from error
        else:
            return False
    try:
        ray.init(
            address="local",
            num_cpus=1,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    except (RayError, RuntimeError, ValueError, ConnectionError, OSError) as error:
        raise OrchestrateError(f"cannot start a Ray node on this machine: {_first_line(error)}") from error
    return True


def _device(node: str, asked: Any) -> Device:
    try:
        device: Device = ray.get(asked, timeout=START_S)
    except GetTimeoutError as error:
        raise OrchestrateError(f"node {node}: its agent did not start within {START_S:g} s") from error
    except RayTaskError as error:
        raise OrchestrateError(f"node {node}: {error.cause}") from error
    except RayActorError as error:
        raise OrchestrateError(f"node {node}: its agent died at its start: {_first_line(error)}") from error
    return device


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
