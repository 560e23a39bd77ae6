"""Arguments and answers of a coordinator's calls to an agent."""

from __future__ import annotations

from dataclasses import dataclass

from agents.contract.device import Blocked, Device
from agents.contract.model_peers import Peers
from agents.contract.report import Attempt, Report


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What the agent is at. ``reads_per_s`` is the live rate of the stream, None when nothing streams.

    ``reports``: all that the coordinator has neither acknowledged nor set aside, those of an earlier agent's jobs too.
    """

    job: Attempt | None
    stage: str
    reads: int
    reads_per_s: float | None
    reports: tuple[Report, ...]
    blocked: Blocked | None = None  # why no job may be sent for now


@dataclass(frozen=True, slots=True)
class Hello:
    """The answer to a greeting."""

    device: Device
    status: AgentStatus


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to run one job. ``term`` counts coordinators of one ledger; an agent obeys none older than the latest.

    Each call of the coordinator renews the lease; when none comes for ``lease_s`` the agent ends the job. ``peers``
    are devices that model files can be fetched from; what it holds of secrets stands in no row and no log.
    """

    term: int = 0
    lease_s: float = 90.0
    peers: Peers | None = None
