"""Has the firmware give a part of the RAM to the GPU, and reboots the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from agents.device.carveout import choose, put_back
from agents.device_file import Allow
from agents.errors import Unsupported

REBOOT_S = 60.0


def set_split(allow: Allow, wanted_bytes: int) -> None:
    """Raises Unsupported, ValueError, OSError, SubprocessError; the choice of the firmware is then as it was."""
    if not allow.set_dedicated_vram:
        raise Unsupported("device.yaml does not allow to set the dedicated VRAM")
    before = choose(wanted_bytes, Path("/"))
    try:
        subprocess.run(allow.reboot, check=True, capture_output=True, timeout=REBOOT_S)
    except BaseException:
        put_back(before, Path("/"))  # else it would hold from some later boot on, which nobody asked for
        raise


def describe_error(error: Exception) -> str:
    """Of a command that failed, its output too."""
    output = error.stderr if isinstance(error, subprocess.CalledProcessError) else b""
    return " ".join([str(error), *output.decode("utf-8", "replace").split()])
