"""A Ray node of this host, started once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator.cluster.addresses import why_no_answer
from orchestrator.cluster.processes import end_all
from orchestrator.cluster.ray_command import NODE_VARIABLE, NodeSettings, start_command
from orchestrator.errors import OrchestrateError

START_S = 120.0
_MISMATCH = "Version mismatch: The cluster was started with"
_WRONG_TOKEN = ("InvalidAuthToken", "AuthenticationError")
_VERSION = re.compile(r"(Ray|Python): *([0-9][\w.]*)")
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception)\b")


def ray_program() -> str:
    """Beside this Python, else on the PATH. Raises OrchestrateError."""
    beside = Path(sys.executable).with_name("ray")
    found = str(beside) if beside.exists() else shutil.which("ray")
    if found is None:
        raise OrchestrateError(f"no program `ray` beside {sys.executable}: install this package with its dependencies")
    return found


def start(settings: NodeSettings, environment: Mapping[str, str]) -> None:
    """Starts the node and returns when it is up. Raises OrchestrateError; then nothing of it stays."""
    node = environment[NODE_VARIABLE]
    remove_stale(settings)
    command = start_command(ray_program(), settings, block=False)
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=START_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        end_all(node)
        raise OrchestrateError(f"the Ray node did not start within {START_S:g} s") from error
    except BaseException:
        end_all(node)
        raise
    if done.returncode != 0:
        end_all(node)
        raise OrchestrateError(why_not_started(f"{done.stdout}\n{done.stderr}", settings))


def remove_stale(settings: NodeSettings) -> None:
    """What a node that was killed hard left behind: with it, `ray start` would look for a cluster that is gone."""
    folder = Path(settings.temp_dir or Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray")
    marker = folder / "ray_current_cluster"
    with suppress(OSError):
        if why_no_answer(marker.read_text(encoding="utf-8").strip() or ":0") is not None:
            marker.unlink()


def is_permanent_failure(output: str) -> bool:
    """Whether what Ray printed lets a node fail each time until somebody mends it. PURE"""
    return _MISMATCH in output or any(word in output for word in _WRONG_TOKEN)


def why_not_started(output: str, settings: NodeSettings) -> str:
    """Ray's words, of which there are many, as a line. PURE"""
    if any(word in output for word in _WRONG_TOKEN):
        return (
            f"the cluster at {settings.cluster} wants another token: copy ~/.ray/auth_token from the head to this"
            " host (mode 600), or give --token-file"
        )
    if _MISMATCH in output:
        versions = [f"{name} {number}" for name, number in _VERSION.findall(output[output.index(_MISMATCH) :])]
        return (
            f"versions: the head has {' and '.join(versions[:2])}, this host {' and '.join(versions[2:4])}."
            " Ray must match exactly, Python to the minor version"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if _EXCEPTION.match(line)]
    return f"the Ray node did not start: {(errors or lines or ['it said nothing'])[-1]}"
