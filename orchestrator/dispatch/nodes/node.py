"""A node of the cluster as the fleet sees it: which device it is, how far it is from being used, which calls are out.

Beside it the actions of ``machine``: what is to be done at a node's agent. PURE but for the log
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from math import inf
from typing import Any

from agents.agent.calls import AgentStatus, Grant
from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Attempt
from agents.log import Entry

log = logging.getLogger(__name__)


class NodePhase(Enum):
    GREETING = auto()  # asked who it is
    CLAIMING = auto()  # says it is a device that another node is: that one is asked whether it lives
    UP = auto()
    CHECKING = auto()  # was up and is silent: asked once more who it is and what it runs
    CLOSING = auto()  # its agent ends, for want of work
    ASLEEP = auto()  # a device without an agent
    WAKING = auto()  # greeted in a moment
    UNUSABLE = auto()  # cannot be used; greeted again after a while
    REFUSED = auto()  # of another version: its agent ends, and it is greeted again after a longer while each time
    DUPLICATE = auto()  # two live nodes claim to be one device: neither is used


UNSETTLED = (NodePhase.GREETING, NodePhase.CLAIMING, NodePhase.WAKING)
SLEEPING = (NodePhase.CLOSING, NodePhase.ASLEEP, NodePhase.WAKING)
GREETED_AGAIN = (NodePhase.UNUSABLE, NodePhase.REFUSED)


class CallKind(StrEnum):
    """A method of the agent. One call of each kind is awaited of a node at a time."""

    HELLO = "hello"
    START = "start"
    POLL = "poll"
    CLAIM = "ping"  # awaited by the node that claims the device, answered by the one that is it
    CLOSE = "close"
    CANCEL = "cancel"  # its answer is not awaited


@dataclass(frozen=True, slots=True)
class MakeAgent:
    """Make the agent of a node, or find it where there is one. A call to one that cannot be made fails as ``DIED``."""

    node_id: str
    agent: int


@dataclass(frozen=True, slots=True)
class KillAgent:
    agent: int


@dataclass(frozen=True, slots=True)
class Call:
    """Call a method of an agent; ``number`` is unique, and comes back with the answer. ``node_id``: who awaits it."""

    number: int
    node_id: str
    agent: int
    kind: CallKind
    arguments: tuple[Any, ...] = ()


Action = MakeAgent | KillAgent | Call


class CallError(Enum):
    UNAVAILABLE = auto()  # the agent was not reached for now: the call may have run or not
    DIED = auto()  # there is no such agent any more
    CLOSED = auto()  # the agent has been closed, by an earlier coordinator: it takes no more work
    FAILED = auto()  # raised by the agent itself, or an answer that cannot be read


@dataclass(frozen=True, slots=True)
class Failure:
    error: CallError
    detail: str


@dataclass(slots=True)
class Awaited:
    """The attempt whose end a node is to report. ``job``: kept for as long as it may have to be sent once more.

    ``until_s``: when the node must have taken it.
    """

    attempt: Attempt
    job: tuple[Job, Grant] | None = None
    until_s: float = inf
    sends: int = 0

    @property
    def is_delivered(self) -> bool:
        return self.job is None


@dataclass(eq=False)
class Node:
    """``agent``: the number of its present agent. ``pending``: the number of the call of each kind that is out.

    ``turn`` counts what changes what the node runs: an answer to a greeting that was asked in an earlier turn is old.
    """

    node_id: str
    address: str
    host: str
    phase: NodePhase = NodePhase.GREETING
    until_s: float = inf  # when the phase is over
    agent: int | None = None
    pending: dict[CallKind, int] = field(default_factory=dict)
    device: Device | None = None
    status: AgentStatus | None = None
    awaited: Awaited | None = None
    spoke_s: float = 0.0  # when its agent last answered, or was last sent a job
    turn: int = 0
    greeted_turn: int = 0  # that of the greeting that is out
    greeted_s: float = 0.0
    claimed: Node | None = None  # the node that was asked whether it lives
    name_free_s: float = 0.0  # before, the name of the agent that was killed may still be taken
    refusals: int = 0
    is_announced: bool = False  # the coordinator has been sent DeviceGreeted, and nothing since

    def enter(self, phase: NodePhase, until_s: float) -> None:
        """The one way into a phase, so that each has its end and the log has each change."""
        before, self.phase, self.until_s = self.phase, phase, until_s
        if before is phase:
            return
        # what cannot be used is greeted again and again: its trouble is logged once, when it is reported
        again = NodePhase.GREETING in (before, phase) and (before in GREETED_AGAIN or phase in GREETED_AGAIN)
        device = self.device.device_id if self.device else None
        entry = Entry("NodePhaseChanged", **self.ids, device=device, phase=phase.name, before=before.name)
        log.log(logging.DEBUG if again else logging.INFO, entry)

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
