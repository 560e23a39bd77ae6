"""LM Studio's runtimes (llama.cpp with Vulkan, ROCm, CUDA ...) through its command line ``lms runtime``.

REST cannot choose one. Texts: ``lms`` of August 2026 (sources of ``runtime ls`` and ``runtime select``). The selection
belongs to the user: what it was stands in a file until it is back, so that a later load restores it after a crash.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agents.contract.job import Runtime
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.errors import AgentError, Unsupported
from agents.files import write_atomic

LMS_S = 30.0  # lms is a program of 100 MB, and its first start on a machine takes seconds
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LINE = re.compile(r"\s*(?P<name>\S+)@(?P<version>\S+)(?P<mark>\s+[^\w\s]\S*)?\s+(?P<formats>\w[\w, ]*?)\s*")
_WHERE = "name it under engines.lmstudio.programs in device.yaml"


@dataclass(frozen=True, slots=True)
class InstalledRuntime:
    """One line of ``lms runtime ls``."""

    name: str
    version: str
    selected: bool
    formats: tuple[str, ...]  # GGUF, MLX

    @property
    def alias(self) -> str:
        """What ``lms runtime select`` takes."""
        return f"{self.name}@{self.version}"

    @property
    def runtime(self) -> Runtime:
        return runtime_of(self.name)


def runtime_of(name: str) -> Runtime:
    """The back end in a name such as ``llama.cpp-linux-x86_64-vulkan-avx2``; a name without one computes on the CPU."""
    found = (runtime for runtime in Runtime if runtime is not Runtime.CPU and runtime.value in name.lower())
    return next(found, Runtime.CPU)


def parse_runtimes(text: str) -> tuple[InstalledRuntime, ...]:
    """``lms runtime ls``: a table of name@version, a mark where selected, formats. PURE"""
    found = (_LINE.fullmatch(line) for line in _COLOURS.sub("", text).splitlines())
    return tuple(
        InstalledRuntime(one["name"], one["version"], bool(one["mark"]), tuple(re.split(r",\s*", one["formats"])))
        for one in found
        if one
    )


def choose(installed: Sequence[InstalledRuntime], wanted: Runtime, model_format: str) -> InstalledRuntime:
    """The runtime to select: the one that is selected if it will do, else the newest. PURE

    Raises Unsupported, RUNTIME_MISSING, with what is installed.
    """
    able = [each for each in installed if model_format in each.formats and each.runtime is wanted]
    if not able:
        have = ", ".join(each.alias for each in installed) or "none"
        raise Unsupported(
            f"runtime {wanted}: LM Studio has none for {model_format}; installed: {have}; get it: lms runtime get",
            Cause.RUNTIME_MISSING,
        )
    # The selected one comes first: what need not be changed need not be restored. Versions as numbers: 1.10 is newer
    # than 1.9.
    return max(able, key=lambda each: (each.selected, [int(part) for part in re.findall(r"\d+", each.version)]))


class LmsFailed(AgentError):
    def __init__(self, detail: str) -> None:
        super().__init__(Cause.RUNTIME_MISSING, detail)


@dataclass(frozen=True, slots=True)
class Lms:
    """LM Studio's command line ``program``. ``target``: its options that name the server."""

    program: str
    target: tuple[str, ...] = ()

    def runtimes(self) -> tuple[InstalledRuntime, ...]:
        """The installed runtimes. Raises LmsFailed."""
        return parse_runtimes(self._run("runtime", "ls"))

    def select(self, alias: str) -> None:
        """Selects a runtime, for all model formats that it has. Raises LmsFailed, also where it is not selected
        afterwards."""
        self._run("runtime", "select", alias)
        # An exit code of 0 is no proof that it is selected: the list is.
        if not any(each.selected and each.alias == alias for each in self.runtimes()):
            raise LmsFailed(f"lms runtime select {alias} said nothing against it, and lms runtime ls shows another")

    def _run(self, *arguments: str) -> str:
        call = f"lms {' '.join(arguments)}"
        try:
            done = subprocess.run(
                [self.program, *arguments, *self.target],
                # A question from ``lms`` must fail at once, not wait for LMS_S.
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LMS_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise LmsFailed(f"{call}: {error}") from error
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            # Errors of ``lms`` come on either stream.
            output = _COLOURS.sub("", f"{text} {done.stderr.decode('utf-8', 'replace')}")
            raise LmsFailed(f"{call} ended with {done.returncode}: {' '.join(output.split())[-500:]}")
        return text


def find_lms(entry: EngineEntry, url: str) -> Lms | None:
    """``lms`` as ``device.yaml`` names it, else on the PATH, else where LM Studio puts it. On WSL2 that of Windows
    first.

    Raises Unsupported where ``device.yaml`` names one that is not there.
    """
    # The first one alone: one LM Studio has one ``lms``.
    for named in entry.programs:
        path = shutil.which(str(Path(named).expanduser()))
        if path is None:
            raise Unsupported(f"engines.lmstudio.programs: {named} is no program that can be run here")
        return Lms(path, _target(path, url))
    # Under WSL2 the LM Studio that reaches the GPU is usually the one of Windows.
    names = ("lms.exe", "lms") if _on_wsl() else ("lms",)
    homes = [Path.home() / ".lmstudio/bin/lms", Path.home() / ".lmstudio/bin/lms.exe"]
    # Under WSL2 the user's name on Windows is not known.
    windows = sorted(Path("/mnt/c/Users").glob("*/.lmstudio/bin/lms.exe")) if _on_wsl() else []
    there = (path for path in (*map(shutil.which, names), *map(str, (*windows, *homes))) if path)
    # ``which`` of a whole path checks that it may be executed.
    found = next((path for path in there if shutil.which(path)), None)
    return Lms(found, _target(found, url)) if found else None


def require_lms(lms: Lms | None) -> Lms:
    if lms is None:
        raise Unsupported(f"a runtime is chosen by LM Studio's lms program, which is not here: {_WHERE}")
    return lms


def _target(program: str, url: str) -> tuple[str, ...]:
    """The (hidden) options of ``lms`` that name the server at ``url``. With a port it starts no service of its own. A
    program of Windows sees Windows' loopback."""
    parts = urlsplit(url)
    port = ("--port", str(parts.port or (443 if parts.scheme == "https" else 80)))
    local = parts.hostname in ("127.0.0.1", "localhost", "::1") or program.lower().endswith(".exe")
    return port if local else ("--host", parts.hostname or "", *port)


def _on_wsl() -> bool:
    return "microsoft" in platform.release().lower()


@dataclass(frozen=True, slots=True)
class Selection:
    """The user's selection, kept in ``journal`` while another is in force."""

    lms: Lms | None
    journal: Path

    def change(self, wanted: Runtime, model_format: str) -> InstalledRuntime:
        """Selects a runtime of the kind ``wanted`` for models of ``model_format``. Raises Unsupported, and restores the
        selection then."""
        lms = require_lms(self.lms)
        try:
            installed = lms.runtimes()
            chosen = choose(installed, wanted, model_format)
            if not chosen.selected:
                # A selection replaces that of every format that the runtime has: all of those are noted before it.
                # A journal that is there holds what stood before a crash, and could not be restored: it counts.
                if not self.journal.exists():
                    replaced = [each for each in installed if each.selected and set(each.formats) & set(chosen.formats)]
                    write_atomic(self.journal, json.dumps([each.alias for each in replaced]))
                lms.select(chosen.alias)
        # The call may have changed something before it failed.
        except LmsFailed as error:
            self.restore()
            raise Unsupported(error.detail, error.cause) from error
        return chosen

    def restore(self) -> None:
        """Selects what the journal holds, if there is one. Never raises: what failed is tried again at the next
        load."""
        with suppress(OSError, ValueError, LmsFailed):
            if self.lms is not None and self.journal.exists():
                for alias in json.loads(self.journal.read_text("utf-8")):
                    self.lms.select(str(alias))
                self.journal.unlink()
