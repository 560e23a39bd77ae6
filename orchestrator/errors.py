"""Errors of the coordinator's side that a person can mend.

::

    OrchestrateError            exit code 1: one line (or several) for a person, never a traceback
    ├── NoCluster               exit code 1: no Ray cluster runs here and none was named
    └── UsageError              exit code 2: bad input; names the file, the key and what is allowed
"""

from __future__ import annotations


class OrchestrateError(Exception):
    """``str(error)`` is what the person reads."""

    exit_code = 1


class UsageError(OrchestrateError):
    exit_code = 2


class NoCluster(OrchestrateError):
    pass
