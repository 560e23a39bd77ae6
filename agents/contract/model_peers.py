"""Other devices of the cluster, and the head, as places where a model file can be had."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Peer:
    """Another device's model server (``agents.models.lan.server``); ``name`` is for people, where it is known."""

    device_id: str
    url: str  # http://HOST:PORT
    name: str = ""

    @property
    def shown(self) -> str:
        return self.name or self.device_id


@dataclass(frozen=True, slots=True)
class Peers:
    """All other devices that may have a file. ``token`` is the cluster's; ``own`` is this device's id."""

    token: str = field(repr=False)
    own: str
    urls: tuple[Peer, ...] = ()
