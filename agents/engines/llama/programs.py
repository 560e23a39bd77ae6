"""Builds of ``llama-server``: version, devices and flags, as each reports them; and which one a cell gets.

Forms of ``--version``, ``--list-devices`` and ``--help`` as in b4000 to b11549 of llama.cpp.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.contract.job import Runtime
from agents.contract.report import Cause
from agents.engines.llama.devices import runtime_of
from agents.errors import Unsupported

PROBE_S = 60.0  # a first look at a GPU may compile its programs
MIB = 1024 * 1024
OMITTED_VARIABLES = ("LLAMA_",)  # variables that would change what is asked for: LLAMA_ARG_CTX_SIZE and the like

_VERSION = re.compile(
    r"version: (?P<old>\d+) \((?P<commit>\w+)\)|version: .*\(build (?P<new>\d+), commit (?P<of>\w+)\)"
)
_DEVICE = re.compile(r"^\s+(\S+): (.+) \((\d+) MiB, \d+ MiB free\)\s*$", re.MULTILINE)
_FLAGS = re.compile(r"(?:-{1,2}[A-Za-z][\w-]*(?:,\s+)?)+")


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """``name`` is what ``-dev`` takes: Vulkan0, ROCm0, CUDA0, MTL0."""

    name: str
    description: str
    total_bytes: int

    @property
    def runtime(self) -> Runtime | None:
        return runtime_of(self.name)


@dataclass(frozen=True, slots=True)
class Build:
    """``flags``: the help text of each flag; those of one option share it."""

    program: Path
    version: str
    devices: tuple[ListedDevice, ...]
    flags: Mapping[str, str]

    @property
    def runtimes(self) -> tuple[str, ...]:
        gpus = {device.runtime.value for device in self.devices if device.runtime is not None}
        return tuple(sorted(gpus | {Runtime.CPU.value}))

    def device_of(self, runtime: Runtime) -> ListedDevice | None:
        """The first one: the engine lists the strongest first, and its drivers' variables leave devices out."""
        return next((device for device in self.devices if device.runtime is runtime), None)


def version_in(text: str) -> str | None:
    """``b11549 (commit)``. PURE"""
    found = _VERSION.search(text)
    return f"b{found['old'] or found['new']} ({found['commit'] or found['of']})" if found else None


def devices_in(text: str) -> tuple[ListedDevice, ...]:
    """From ``--list-devices``, which lists no CPU. PURE"""
    return tuple(
        ListedDevice(name, description, int(total) * MIB) for name, description, total in _DEVICE.findall(text)
    )


def flags_in(text: str) -> dict[str, str]:
    """From ``--help``: each option begins a line, and what follows it indented is of it. PURE"""
    flags: dict[str, str] = {}
    for option in re.split(r"\n(?=-)", text):
        names = _FLAGS.match(option)
        if names:
            flags |= dict.fromkeys(re.split(r",\s+", names[0].rstrip(", ")), option[names.end() :].strip())
    return flags


def probe(program: Path) -> Build:
    """Raises Unsupported (RUNTIME_MISSING) with why it does not run, or is none."""
    version = version_in(_output_of(program, "--version"))
    flags = flags_in(_output_of(program, "--help"))
    if version is None or "--model" not in flags:
        raise Unsupported(f"{program} is no llama-server: it does not answer --version and --help as one")
    devices = devices_in(_output_of(program, "--list-devices")) if "--list-devices" in flags else ()
    return Build(program, version, devices, flags)


def _output_of(program: Path, flag: str) -> str:
    spared = {name: value for name, value in os.environ.items() if not name.startswith(OMITTED_VARIABLES)}
    try:
        ended = subprocess.run(
            [str(program), flag],
            capture_output=True,
            check=False,
            timeout=PROBE_S,
            env=spared,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise Unsupported(f"{program} cannot be started: {error.strerror}", Cause.RUNTIME_MISSING) from error
    except subprocess.TimeoutExpired as error:
        detail = f"{program} {flag} did not answer within {PROBE_S:g} s"
        raise Unsupported(detail, Cause.RUNTIME_MISSING) from error
    text = (ended.stdout + b"\n" + ended.stderr).decode("utf-8", "replace")
    if ended.returncode != 0:
        last = (text.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise Unsupported(f"{program} {flag} failed: {last}", Cause.RUNTIME_MISSING)
    return text


def choose(builds: Sequence[Build], runtime: Runtime | None) -> Build:
    """The first build with a device of the runtime; for the CPU one that has nothing else, where there is one. PURE

    Raises Unsupported (RUNTIME_MISSING).
    """
    if runtime is None:
        return builds[0]
    if runtime is Runtime.CPU:
        return min(builds, key=lambda build: bool(build.devices))
    for build in builds:
        if build.device_of(runtime) is not None:
            return build
    seen = "; ".join(f"{build.program} sees {', '.join(build.runtimes)}" for build in builds)
    raise Unsupported(
        f"runtime {runtime.value}: no build of llama-server here has a device of it ({seen});"
        " name one under  engines: {llama-server: {programs: [PATH]}}  in device.yaml",
        Cause.RUNTIME_MISSING,
    )
