"""What a process of this host needs to join the cluster, and what this host noted of the cluster that it joined."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from agents.files import write_atomic
from agents.log import LEVEL_VARIABLE, levels_of
from agents.places import data_root
from orchestrator.errors import UsageError


def token_file() -> Path:
    """Ray's own place for the token of the cluster."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(path) if path else Path.home() / ".ray" / "auth_token"


@dataclass(frozen=True, slots=True)
class Noted:
    """``node`` marks the node's processes in their environment; ``pid`` is the one that watches over them, if any.

    ``tls`` is the folder of the certificates. No secret stands here.
    """

    cluster: str
    role: str
    node: str
    pid: int | None = None
    tls: str | None = None
    token: bool = True
    temp_dir: str | None = None


def _note_path() -> Path:
    return data_root() / "cluster.json"


def noted() -> Noted | None:
    """What `orchestrate head` or `join` noted on this host; None where there is nothing that can be read."""
    try:
        return Noted(**json.loads(_note_path().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def note(of: Noted) -> None:
    """Raises OSError."""
    write_atomic(_note_path(), json.dumps(asdict(of)))


def forget() -> None:
    with suppress(OSError):
        _note_path().unlink(missing_ok=True)


def recorded_address() -> str | None:
    """HOST:PORT of the cluster that this host joined; None where it joined none."""
    found = noted()
    return found.cluster if found else None


def check_log_level() -> None:
    """Raises UsageError where ``ORCHESTRATE_LOG`` holds no level."""
    try:
        levels_of(os.environ.get(LEVEL_VARIABLE, ""))
    except ValueError as error:
        raise UsageError(f"{LEVEL_VARIABLE}: {error}") from error


def cluster_environment() -> dict[str, str]:
    """Variables that must stand before ray is imported, or Ray is started; what the user has set counts more.

    ``ORCHESTRATE_LOG`` is checked here, and handed on with all that the user has set.

    Raises UsageError for a level that is none, and where certificates are needed and cannot be used.
    """
    check_log_level()
    found = noted()
    wanted = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without GPUs must still see them
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else 15: agent, client and engine would yield to everything else
        "RAY_memory_monitor_refresh_ms": "0",  # else the agent is killed where a model fills the memory
        "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",  # else 3.11.2 may not join 3.11.7
    }
    if found is not None and not found.token:
        wanted["RAY_AUTH_MODE"] = "disabled"  # else a head asks for the token wherever there is a file with one
    elif token_file().exists():
        wanted["RAY_AUTH_MODE"] = "token"  # ray.init(address=...) needs it
    if found is not None and found.tls is not None:
        from orchestrator.cluster.tls import tls_environment

        wanted |= tls_environment(Path(found.tls))
    if sys.platform == "darwin":
        wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
    return wanted
