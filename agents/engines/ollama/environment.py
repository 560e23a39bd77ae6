"""The environment of an Ollama server: runtime, KV type and flash attention stand there, and a restart changes them.

Only where the owner names ``restart`` and ``environment_file`` in ``device.yaml``. What the file held is kept beside it
until it is back: at the session's close, or at the next start of an agent after a crash. Variables: envconfig/config.go
and docs/gpu.mdx of Ollama 0.33.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from agents.clock import Clock, SystemClock
from agents.contract.job import LoadSettings, Runtime
from agents.contract.report import Cause
from agents.device_file import EngineEntry
from agents.engines.ollama.api import version_of
from agents.engines.server.api import POLL_S, Api, ApiError
from agents.errors import LoadFailed, Unsupported
from agents.files import write_atomic

RESTART_S = 60.0
KV_TYPES = ("f16", "q8_0", "q4_0")  # docs/faq.mdx
_RUNTIMES = {  # directories of the libraries carry versions (cuda_v13, rocm_v7_2): the others are taken away instead
    Runtime.VULKAN: {"OLLAMA_LLM_LIBRARY": "vulkan", "OLLAMA_VULKAN": "1"},
    Runtime.ROCM: {"OLLAMA_LLM_LIBRARY": "", "OLLAMA_VULKAN": "0", "CUDA_VISIBLE_DEVICES": "-1"},
    Runtime.CUDA: {"OLLAMA_LLM_LIBRARY": "", "OLLAMA_VULKAN": "0", "ROCR_VISIBLE_DEVICES": "-1"},
}


def environment_for(settings: LoadSettings) -> dict[str, str]:
    """What the server's environment must hold for a cell; empty where nothing is asked of it. PURE

    The CPU needs none: no layer on the GPU is an option of the load. Raises Unsupported.
    """
    wanted = dict(_RUNTIMES.get(settings.runtime, {})) if settings.runtime is not None else {}
    kinds = {kind for kind in (settings.kv_type_k, settings.kv_type_v) if kind is not None}
    # One of the two alone is refused as well: it would set the other, which the cell does not name.
    if len(kinds) > 1 or (kinds and None in (settings.kv_type_k, settings.kv_type_v)):
        raise Unsupported(
            "Ollama has one type for the K and the V cache: give kv_type_k and kv_type_v the same value"
            f" (asked for: {settings.kv_type_k} and {settings.kv_type_v})"
        )
    for kind in kinds:
        if kind not in KV_TYPES:
            raise Unsupported(f"KV type {kind}: Ollama has {', '.join(KV_TYPES)}")
        wanted["OLLAMA_KV_CACHE_TYPE"] = kind
    if settings.flash_attention is not None:
        wanted["OLLAMA_FLASH_ATTENTION"] = "1" if settings.flash_attention else "0"
    return wanted


def changed_text(text: str, wanted: Mapping[str, str]) -> str:
    """An environment file's text with ``wanted`` in it; all else stays as it is. PURE"""
    kept = [line for line in text.splitlines() if line.partition("=")[0].strip() not in wanted]
    return "\n".join([*kept, *(f"{name}={value}" for name, value in sorted(wanted.items()))]) + "\n"


class ServerEnvironment:
    """The server's environment file, and the command that makes the server read it."""

    def __init__(self, entry: EngineEntry, api: Api, clock: Clock | None = None) -> None:
        self._command = entry.restart
        self._file = Path(entry.environment_file).expanduser() if entry.environment_file else None
        self._api = api
        self._clock = clock or SystemClock()

    def refuse(self, wanted: Mapping[str, str]) -> None:
        """Raises Unsupported, with what to write into device.yaml, where the owner has not allowed a restart."""
        if wanted and (not self._command or self._file is None):
            values = " ".join(f"{name}={value}" for name, value in sorted(wanted.items()))
            raise Unsupported(
                f"Ollama takes {values} from its environment when it starts, and may not be restarted from here: set in"
                " device.yaml  engines: {ollama: {restart: [systemctl, restart, ollama], environment_file: FILE}}  with"
                " a FILE that its service reads (systemd: EnvironmentFile=-FILE) and the agent may write"
            )

    def apply(self, wanted: Mapping[str, str]) -> None:
        """Raises Unsupported where the file cannot be written, LoadFailed where the server does not come back with it.
        ``restore`` undoes what was changed by then."""
        if not wanted:
            return
        self.refuse(wanted)
        assert self._file is not None
        try:
            old = self._file.read_text("utf-8") if self._file.exists() else None
            # A journal that is there holds the owner's own text, and ``old`` what an earlier cell has written.
            if not self._journal.exists():
                # The start beside the number: the system uses numbers of processes again.
                note = {"text": old, "pid": os.getpid(), "started": psutil.Process().create_time()}
                # Before the file is changed: a crash between the two must not lose the owner's text.
                _write(self._journal, json.dumps(note))
            _write(self._file, changed_text(old or "", wanted))
        except (OSError, UnicodeDecodeError) as error:
            raise Unsupported(f"{self._file}: Ollama's environment cannot be written: {error}") from error
        self._restart(wanted)

    def restore(self) -> None:
        """Writes the file as it was, and restarts the server; nothing where this process changed nothing. Raises
        LoadFailed: the next start tries again."""
        # What another agent has changed may be in use by its job.
        if self._file is not None and self._journal.exists() and self._owner() == os.getpid():
            self._take_back()

    def restore_after_crash(self) -> None:
        """Does the same for a process that changed the file and has ended. Raises LoadFailed."""
        if self._file is not None and self._journal.exists() and self._owner() is None:
            self._take_back()

    def _take_back(self) -> None:
        assert self._file is not None
        try:
            text = json.loads(self._journal.read_text("utf-8"))["text"]
            if text is None:
                self._file.unlink(missing_ok=True)
            else:
                _write(self._file, text)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LoadFailed(Cause.LOAD_FAILED, f"{self._journal}: cannot be taken back: {error}") from error
        # The journal goes last: where the restart fails, the next start tries once more.
        self._restart({})
        self._journal.unlink(missing_ok=True)

    @property
    def _journal(self) -> Path:
        assert self._file is not None
        return self._file.with_name(f"{self._file.name}.before-orchestrate")

    def _owner(self) -> int | None:
        """The process that changed the file, if it still runs."""
        try:
            note = json.loads(self._journal.read_text("utf-8"))
            pid = int(note["pid"])
            # psutil derives the start from the clock of the day, which may have been set meanwhile.
            return pid if abs(psutil.Process(pid).create_time() - float(note["started"])) < 1.0 else None
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return None

    def _restart(self, wanted: Mapping[str, str]) -> None:
        command = " ".join(self._command)
        try:
            done = subprocess.run(
                # Without a stdin: a command that asks for a password shall fail, not wait.
                self._command,
                check=False,
                capture_output=True,
                timeout=RESTART_S,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LoadFailed(Cause.LOAD_FAILED, f"Ollama was not restarted by {command!r}: {error}") from error
        if done.returncode:
            output = " ".join((done.stderr or done.stdout).decode("utf-8", "replace").split())[-500:]
            raise LoadFailed(Cause.LOAD_FAILED, f"Ollama was not restarted by {command!r}: {output or done.returncode}")
        # A service manager returns before the server answers.
        deadline = self._clock.monotonic_ns() + int(RESTART_S * 1e9)
        while why := self._why_not_up(wanted):
            if self._clock.monotonic_ns() > deadline:
                raise LoadFailed(Cause.LOAD_FAILED, f"{RESTART_S:g} s after {command!r}: {why}")
            self._clock.sleep(POLL_S)

    def _why_not_up(self, wanted: Mapping[str, str]) -> str:
        """ "" when the server answers and, as far as it can be seen, has ``wanted`` in its environment."""
        try:
            version_of(self._api)
        except ApiError as error:
            return error.detail
        seen = _environments()
        # Nothing is seen where the server is another user's: then its answer has to do.
        if not seen or any(all(one.get(name, "") == value for name, value in wanted.items()) for one in seen):
            return ""
        return f"the server runs without {', '.join(sorted(wanted))}: does its service read {self._file}?"


def _environments() -> list[dict[str, str]]:
    """Environments of the Ollama servers on this machine whose processes we may look into."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        arguments = process.info["cmdline"] or []
        if (process.info["name"] or "").startswith("ollama") and "serve" in arguments:
            try:
                # Of another user's process, or one that ends just now, nothing can be read.
                found.append(process.environ())
            except (psutil.Error, OSError):
                continue
    return found


def _write(path: Path, text: str) -> None:
    """With the mode that the file has, so that the server can still read it. Its folder is the owner's to make."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    write_atomic(path, text, mode=path.stat().st_mode & 0o777 if path.exists() else None)
