"""A node of the cluster as the fleet sees it: which device it is, and how far it is from being used."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from agents.agent.calls import AgentStatus
from agents.contract.device import Device
from agents.log import Entry

log = logging.getLogger(__name__)


class NodePhase(Enum):
    GREETING = auto()  # asked who it is
    CLAIMING = auto()  # says it is a device that another node is: that one is asked whether it lives
    UP = auto()
    CLOSING = auto()  # its agent ends, for want of work
    ASLEEP = auto()  # a device without an agent
    WAKING = auto()  # greeted in a moment
    UNUSABLE = auto()  # cannot be used; greeted again after a while
    DUPLICATE = auto()  # two live nodes claim to be one device: neither is used


SLEEPING = (NodePhase.CLOSING, NodePhase.ASLEEP, NodePhase.WAKING)


@dataclass(eq=False)
class Node:
    node_id: str
    address: str
    host: str
    handle: Any = None
    phase: NodePhase = NodePhase.GREETING
    device: Device | None = None
    status: AgentStatus | None = None
    until_s: float = 0.0  # when the phase is over
    poll_pending: bool = False  # an answer to poll or start is still to come
    is_announced: bool = False  # the coordinator has been sent DeviceGreeted, and nothing since

    def enter(self, phase: NodePhase, until_s: float | None = None) -> None:
        """The one way into a phase, so that the log has each change."""
        before, self.phase = self.phase, phase
        if until_s is not None:
            self.until_s = until_s
        if before is phase:
            return
        # what cannot be used is greeted again and again: its trouble is logged once, when it is reported
        level = logging.DEBUG if {before, phase} == {NodePhase.UNUSABLE, NodePhase.GREETING} else logging.INFO
        device = self.device.device_id if self.device else None
        log.log(level, Entry("NodePhaseChanged", **self.ids, device=device, phase=phase.name, before=before.name))

    @property
    def ids(self) -> dict[str, str]:
        """For the log."""
        return {"node": self.node_id[:8], "host": self.host, "address": self.address}

    @property
    def label(self) -> str:
        return f"{self.host} ({self.address})" if self.host != self.address else self.address

    @property
    def key(self) -> str:
        """Two nodes can share an address."""
        return f"{self.label} node {self.node_id[:8]}"
