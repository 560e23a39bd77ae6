"""What the ``xllamacpp`` wheel sees on this machine: back ends, and memory in all. Asked in a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import psutil

from agents.contract.job import Runtime
from agents.contract.report import Cause
from agents.errors import Unsupported

PROBE_S = 60.0
_PROBE = """
import json, xllamacpp
print(json.dumps([(each["name"], each["memory_total"]) for each in xllamacpp.get_device_info()]))
"""
_KINDS = {
    "vulkan": Runtime.VULKAN,
    "rocm": Runtime.ROCM,
    "hip": Runtime.ROCM,
    "cuda": Runtime.CUDA,
    "mtl": Runtime.METAL,
    "metal": Runtime.METAL,
    "cpu": Runtime.CPU,
}


@dataclass(frozen=True, slots=True)
class LlamaDevices:
    """``runtimes``: back ends with a device. ``gpu_bytes``: memory of all devices but the CPU, as the drivers report
    it."""

    runtimes: tuple[str, ...]
    gpu_bytes: int


def runtime_of(device: str) -> Runtime | None:
    """The runtime of a device by llama.cpp's name for it (Vulkan0); None for a kind that no cell can ask for. PURE"""
    return _KINDS.get(device.lower().rstrip("0123456789"))


def llama_devices() -> LlamaDevices:
    """The devices, which are asked for once a process, in a child, so that no driver is loaded here.

    Raises Unsupported (RUNTIME_MISSING), in a sentence that says what to install; then the next call asks again.
    """
    global _seen
    if _seen is None:
        _seen = _probed()
    return _seen


_seen: LlamaDevices | None = None


def _probed() -> LlamaDevices:
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE], capture_output=True, text=True, check=False, timeout=PROBE_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unsupported(f"xllamacpp cannot be asked for its devices: {error}", Cause.RUNTIME_MISSING) from error
    if child.returncode != 0:
        raise Unsupported(_why_not(child.stderr, child.returncode), Cause.RUNTIME_MISSING)
    try:
        found = [(str(name), int(total)) for name, total in json.loads(child.stdout.splitlines()[-1])]
    except (ValueError, TypeError, IndexError) as error:
        raise Unsupported(f"xllamacpp's list of devices cannot be read: {error}", Cause.RUNTIME_MISSING) from error
    kinds = [(runtime_of(name), total) for name, total in found]
    return LlamaDevices(
        runtimes=tuple(sorted({kind.value for kind, _ in kinds if kind is not None})),
        gpu_bytes=sum(total for kind, total in kinds if kind is not Runtime.CPU),
    )


def _why_not(stderr: str, returncode: int) -> str:
    last = (stderr.strip().splitlines() or [f"exit code {returncode}"])[-1]
    if "libgomp" in last:
        return f"xllamacpp cannot be loaded: {last}. Install it: apt-get install libgomp1 (or dnf install libgomp)"
    if "ModuleNotFoundError" in last and "xllamacpp" in last:
        return "xllamacpp is not installed in this environment. Install it: pip install xllamacpp"
    return f"xllamacpp cannot be used here: {last}"


def machine_bytes() -> int:
    """All memory that this machine has, free or not: RAM, swap, and that of its GPUs."""
    return system_bytes() + llama_devices().gpu_bytes


def system_bytes() -> int:
    """RAM and swap."""
    return int(psutil.virtual_memory().total + psutil.swap_memory().total)
