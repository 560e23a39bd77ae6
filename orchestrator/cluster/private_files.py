"""Files that only their owner may read: written whole and with their mode from the start, mended where it is wider."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from agents.files import write_atomic
from orchestrator.errors import OrchestrateError


def write_private(path: Path, content: bytes) -> None:
    """With mode 600, in a folder that is made with mode 700. Raises OrchestrateError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, content, mode=0o600)
    except OSError as error:
        raise OrchestrateError(f"{path}: cannot be written: {error.strerror or error}") from error


def mend_mode(path: Path) -> None:
    """Mode 600 where others could read it, and says so. Raises OrchestrateError where that may not be done."""
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            path.chmod(0o600)
            sys.stderr.write(f"{path}: was readable by others; its mode is 600 now\n")
    except OSError as error:
        raise OrchestrateError(
            f"{path}: others can read it, and that cannot be mended: {error.strerror or error}"
        ) from error
