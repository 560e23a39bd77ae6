"""After a head is up: the coordinator is made, and goes on with what the ledger holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

START_S = 180.0


def start_coordinator(cluster: str, environment: Mapping[str, str]) -> str:
    """What the coordinator answered, or why it does not yet: it tries again every few seconds until it can start."""
    command = [sys.executable, "-m", "orchestrator", "wake", "--address", cluster]
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=START_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the coordinator could not be started: {error}"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last_line = lines[-1] if lines else f"exit code {done.returncode}"
    if done.returncode == 0:
        return last_line
    return f"the coordinator has not started, and tries again until it can: {last_line.removeprefix('error: ')}"
