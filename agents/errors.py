"""What can go wrong on a device, named by what follows.

::

    AgentError                  .cause, .detail
    ├── Unsupported             -> Refused: asked for what cannot be done here; nothing was loaded; never retried
    │   └── EngineAway          -> the same where the engine was never found; else it is lost, and the job is retried
    │       └── NotReady        -> asked again, for as long as a load may take
    ├── LoadFailed              -> Failed: the engine did not come up; .log_tail holds its own words
    ├── RequestFailed           -> Failed: the engine answered an error, too late, or not to the end
    └── EngineLost              -> Failed, retried: the engine went away under a request that it had accepted
"""

from __future__ import annotations

import errno

from agents.contract.report import Cause


class AgentError(Exception):
    """Base of all that an adapter raises; no foreign exception leaves an adapter."""

    def __init__(self, cause: Cause, detail: str, log_tail: str = "") -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail
        self.log_tail = log_tail


class Unsupported(AgentError):
    def __init__(self, detail: str, cause: Cause = Cause.UNSUPPORTED) -> None:
        super().__init__(cause, detail)


class EngineAway(Unsupported):
    """A server does not answer."""


class NotReady(EngineAway):
    """A server answers that it is to be asked again later: it loads a model, or has too much to do."""


class LoadFailed(AgentError):
    pass


class RequestFailed(AgentError):
    pass


class EngineLost(AgentError):
    def __init__(self, detail: str, log_tail: str = "") -> None:
        super().__init__(Cause.ENGINE_LOST, detail, log_tail)


def cause_of_os_error(error: OSError) -> Cause | None:
    """DISK_FULL, or DISK_FAULT for a disk that fails or takes no writes any more; None for any other error. PURE"""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Cause.DISK_FULL
    return Cause.DISK_FAULT if error.errno in (errno.EIO, errno.EROFS) else None
