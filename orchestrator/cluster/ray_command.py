"""How a Ray node is started: the words of the command and its environment. PURE

What each is for: docs/decisions.md, and the table of ports in deploy/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from agents.places import HEAD_MODELS_PORT_VARIABLE, MODELS_PORT_VARIABLE

HEAD_PORT = 6379
OBJECT_STORE_BYTES = 78_643_200  # Ray's least: reports are small
MODELS_PORT = 6383
HEAD_MODELS_PORT = 6387  # the coordinator's: its host may be a device as well
WORKER_PORTS = (20_000, 20_099)
PINNED: Mapping[str, int] = {
    "node-manager-port": 6380,
    "object-manager-port": 6381,
    "runtime-env-agent-port": 6382,
    "metrics-export-port": 6384,
    "dashboard-agent-grpc-port": 6385,
    "dashboard-agent-listen-port": 6386,
}
"""TCP ports of a node, each by Ray's option for it. Pinned, so that a firewall can be set."""

NODE_VARIABLE = "ORCHESTRATE_NODE"
"""In the environment of all that belongs to a node that was started here, so that all of it can be found and ended."""


class Role(StrEnum):
    """What a node does, also its label ``orchestrate-role``."""

    HEAD = "head"  # coordinates; runs no benchmark
    DEVICE = "device"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """``cluster`` is HOST:PORT of the head; ``address`` this host's own, as the others reach it."""

    role: Role
    cluster: str
    address: str
    version: str
    temp_dir: str | None = None
    stated_address: bool = True  # else it was looked up, and may be another one at the next start

    @property
    def port(self) -> int:
        return int(self.cluster.rpartition(":")[2])

    @property
    def is_head(self) -> bool:
        return self.role is not Role.DEVICE


def start_command(ray: str, settings: NodeSettings, *, block: bool) -> list[str]:
    """``ray start ...`` for this node."""
    labels = {"orchestrate-role": settings.role.value, "orchestrate-version": settings.version}
    words = [ray, "start"]
    words += ["--head", f"--port={settings.port}"] if settings.is_head else [f"--address={settings.cluster}"]
    words += [
        f"--node-ip-address={settings.address}",
        *(f"--{option}={port}" for option, port in PINNED.items()),
        f"--min-worker-port={WORKER_PORTS[0]}",
        f"--max-worker-port={WORKER_PORTS[1]}",
        "--include-log-monitor=false",
        "--disable-usage-stats",
        "--num-cpus=1",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}",
    ]
    if settings.is_head:
        # no autoscaler: devices are never made, and its monitor takes a second of a core at each start
        words += ["--include-dashboard=false", "--no-monitor"]
    if settings.temp_dir is not None:
        words.append(f"--temp-dir={settings.temp_dir}")
    return [*words, "--block"] if block else words


def node_environment(
    settings: NodeSettings, user: Mapping[str, str], wanted: Mapping[str, str], node: str
) -> dict[str, str]:
    """The user's environment with what a node needs; what the user has set counts more."""
    own = {
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else `ray start --block` waits 30 s for actors that go on
        MODELS_PORT_VARIABLE: str(MODELS_PORT),
    }
    if settings.is_head:
        own[HEAD_MODELS_PORT_VARIABLE] = str(HEAD_MODELS_PORT)
    else:
        own["RAY_NUM_REDIS_GET_RETRIES"] = (
            "5"  # else a wrong token is reported after 21 s; the head answers when we start
        )
    own |= {**wanted, **user, NODE_VARIABLE: node}
    own.pop("RAY_ADDRESS", None)  # another cluster's
    return own


def ports_of(settings: NodeSettings) -> dict[str, int]:
    """Ports that must be free before the node starts, by what they are for."""
    ports = {**PINNED, "model files": MODELS_PORT}
    return {"head": settings.port, **ports, "model files of the head": HEAD_MODELS_PORT} if settings.is_head else ports
