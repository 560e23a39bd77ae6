"""A home with its processes: commands run in it, and nothing outlives it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orchestrator.results.store import Store
from tests.waiting import until

DEADLINE_S = 90.0
POLL_S = 0.05  # each look goes through all processes of the machine
MAIN = "from orchestrator.cli import main; main()"


@dataclass
class Sandbox:
    folder: Path
    ray_folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return Path(self.variables.get("ORCHESTRATE_HOME", self.folder / "home"))

    def environment(self) -> dict[str, str]:
        left_out = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_TMPDIR")
        inherited = {name: value for name, value in os.environ.items() if name not in left_out}
        user = self.folder / "user"
        user.mkdir(exist_ok=True)
        own = {"ORCHESTRATE_HOME": str(self.home), "HOME": str(user), "RAY_TMPDIR": str(self.ray_folder)}
        return inherited | own | {"ORCHESTRATE_TEST_SANDBOX": str(self.folder)} | self.variables

    def write(self, text: str, name: str = "m.yaml") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *arguments: str | Path) -> Command:
        """In a process group of its own, as a shell does it."""
        command = Command(self, [str(each) for each in arguments])
        self.commands.append(command)
        return command

    def run(self, *arguments: str | Path) -> Command:
        command = self.start(*arguments)
        command.wait()
        return command

    def processes(self) -> list[psutil.Process]:
        """All that were started here and still run, whoever their parent is now."""
        return [each for each in psutil.process_iter() if each.pid != os.getpid() and self._is_here(each)]

    def _is_here(self, process: psutil.Process) -> bool:
        try:
            here = process.environ().get("ORCHESTRATE_TEST_SANDBOX") == str(self.folder)
            return here and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def process(self, words: str) -> psutil.Process:
        """The one process with ``words`` in its command line."""
        found = [each for each in self.processes() if words in " ".join(_command_line(each))]
        assert len(found) == 1, [(each.pid, _command_line(each)) for each in self.processes()]
        return found[0]

    def assert_nothing_runs(self, but: frozenset[int] = frozenset()) -> None:
        """``but``: ids of processes that were there before."""

        def remaining() -> list[psutil.Process]:
            return [each for each in self.processes() if each.pid not in but]

        until(
            lambda: not remaining(),
            lambda: f"the end of {[_command_line(each) for each in remaining()]}",
            DEADLINE_S,
            POLL_S,
        )

    def assert_no_engine_runs(self) -> None:
        """No job process and no engine; a cluster may keep what is its own: its agents and its coordinator."""
        until(lambda: not self._ours(), lambda: f"the end of {self._ours()}", DEADLINE_S, POLL_S)

    def _ours(self) -> list[str]:
        lines = (" ".join(_command_line(each)) for each in self.processes())
        return [line for line in lines if "agents." in line]

    def rows(self, run: str) -> list[dict[str, Any]]:
        """Rows of the measured trials, and of the attempts that have none."""
        return [row for row in Store(self.home).load(run, all_attempts=True).to_pylist() if not row["warmup"]]

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        until(lambda: not self.processes(), "the end of all processes", DEADLINE_S, POLL_S)
        for command in self.commands:
            command.release()
        shutil.rmtree(self.ray_folder, ignore_errors=True)


class Command:
    """A running ``orchestrate``; its output is read as it comes."""

    def __init__(self, sandbox: Sandbox, arguments: list[str]) -> None:
        self.arguments = arguments
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._errors = (sandbox.folder / f"stderr-{len(sandbox.commands)}.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments],
            env=sandbox.environment(),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        with self._changed:
            return list(self._lines)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def errors(self) -> str:
        return Path(self._errors.name).read_text()

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What ``--json`` printed, of these names (none: of all). Every line must be JSON."""
        events: Iterator[dict[str, Any]] = map(json.loads, self.lines)
        return [event for event in events if not names or event["event"] in names]

    @property
    def run_name(self) -> str:
        name: str = self.events("begin")[0]["run"]
        return name

    def until(self, holds: Callable[[Command], bool]) -> None:
        """Waits for output. Fails where the command ends before ``holds``."""
        deadline = time.monotonic() + DEADLINE_S
        with self._changed:
            while not holds(self):
                assert self._reader.is_alive(), f"ended too early: {self._describe()}"
                assert time.monotonic() < deadline, f"no sign in {DEADLINE_S} s: {self._describe()}"
                self._changed.wait(0.5)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        if group:  # as a terminal does it: everything in the foreground gets it
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def wait(self) -> int:
        try:
            code = self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end: {self._describe()}") from None
        self._reader.join(DEADLINE_S)
        return code

    @property
    def code(self) -> int:
        return self.wait()

    def _describe(self) -> str:
        return f"{self.arguments}\n{self.text}\n{self.errors}"

    def release(self) -> None:
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
