"""Which other devices a job's model files may be fetched from: what the coordinator sends along with a job."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Peer:
    """The model server of another device, or of the head. ``name`` is for people; empty where it is not known."""

    device_id: str
    url: str  # http://HOST:PORT
    name: str = ""

    @property
    def shown(self) -> str:
        return self.name or self.device_id


@dataclass(frozen=True, slots=True)
class Peers:
    """All model servers that a device may ask. ``token`` opens them; ``own`` is the id of the device that asks."""

    token: str = field(repr=False)
    own: str
    peers: tuple[Peer, ...] = ()
