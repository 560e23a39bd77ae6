"""A head and its devices, each on a host of its own, kept up as by services: what tests and benchmarks drive."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orchestrator.results.store import Store
from tests.fleet.hosts import Host, Lan, Started
from tests.fleet.machines import NO_GPU
from tests.waiting import until

DEVICES = ("one", "two", "three")
COMMAND = (sys.executable, "-m", "orchestrator")
UP_S = 120.0
RUN_S = 300.0
POLL_S = 0.05  # between two looks at a command's output, all of which is parsed each time
ASK_S = 1.0  # between two commands that ask the head: each starts Python, and takes a second of a core
# Ray gives up a peer sooner than it does by itself, or tests would wait minutes for nothing: a host whose link is down
# after (1 s + 2 s) x 4 instead of (3 s + 10 s) x 5, a head that does not answer after 8 s instead of 60 s.
IMPATIENT_RAY = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "8",
}
DEAD_AFTER_S = 12.0

SHORT = """
name: short
defaults: {engine: embedded, runtime: cpu, threads: 1, model: tiny:llama, quantisation: Q8_0, workload: pp8+tg8}
axes: {context: [512, 1K]}
measure: {repeats: 1, warmups: 0, quiet: off, again: 0}
"""
LONG = """
name: long
defaults: {engine: embedded, runtime: cpu, threads: 1, model: tiny:llama, quantisation: Q8_0, workload: pp8+tg700}
axes: {context: [2K, 3K]}
measure: {repeats: 4, warmups: 0, quiet: off, again: 0}
"""
LONG_JOBS = 24  # on three devices
SPLITS = """
name: splits
defaults: {engine: embedded, runtime: cpu, threads: 1, model: tiny:llama, quantisation: Q8_0, workload: pp8+tg8}
axes: {context: [512, 1K], dedicated_vram: [512MiB, 32GiB]}
measure: {repeats: 2, warmups: 0, quiet: off, again: 0}
"""
SETS_ITS_SPLIT = """
allow:
  set_dedicated_vram: true
  reboot: [sh, -c, 'touch "$ORCHESTRATE_HOME/reboot-asked"']
"""


@dataclass
class Run:
    """A ``submit --json``, or ``watch --json``, on the head."""

    started: Started
    fleet: Fleet

    def events(self, *names: str) -> list[dict[str, Any]]:
        lines = self.started.out.splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if not names or event["event"] in names]

    @property
    def name(self) -> str:
        return str(self.events("begin")[0]["run"])

    def until(self, holds: Callable[[], Any], what: str, deadline_s: float = RUN_S) -> None:
        def held() -> bool:
            if holds():
                return True
            assert self.started.poll() is None, f"{what}: over before: {self.started.describe()}"
            return False

        until(held, lambda: f"{what}: {self.started.describe()}", deadline_s, POLL_S)

    def until_sent(self, device: str, count: int = 1) -> None:
        """Until ``count`` jobs have begun on a device: so many are running or done there."""
        self.until(lambda: self.sent(device) >= count, f"{count} jobs sent to {device}")

    def sent(self, device: str) -> int:
        return sum(event["device"] == device for event in self.events("job_sent"))

    def as_sent(self, devices: Sequence[str], count: int = 2) -> Iterator[str]:
        """Each device as soon as ``count`` jobs have begun on it: one may be done before another begins."""
        waiting = list(devices)
        while waiting:
            self.until(lambda: any(self.sent(name) >= count for name in waiting), f"{count} jobs sent to {waiting}")
            for name in [name for name in waiting if self.sent(name) >= count]:
                waiting.remove(name)
                yield name

    def until_running(self, device: str) -> None:
        """Until the device itself has reported that it works at the job that was sent last, or has done it."""

        def reported() -> bool:
            sent = [event["job_id"] for event in self.events("job_sent") if event["device"] == device]
            at = [event["job_id"] for event in self.events("progress", "job_ended") if event["device"] == device]
            return bool(sent) and sent[-1] in at

        self.until(reported, f"{device} is at its job")

    def completed(self, deadline_s: float = RUN_S) -> None:
        until(
            lambda: self.started.poll() is not None, lambda: f"its end: {self.started.describe()}", deadline_s, POLL_S
        )
        assert self.started.returncode == 0, self.started.describe()
        assert self.events("end")[0]["complete"] is True


@dataclass
class Fleet:
    """``services`` are what systemd would keep up: of each host, where one is meant to run."""

    lan: Lan
    services: dict[str, Started] = field(default_factory=dict)
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def head(self) -> Host:
        return self.lan.hosts["head"]

    @property
    def cluster(self) -> str:
        return f"{self.head.address}:6379"

    def start_head(self) -> None:
        """Returns when the cluster takes commands."""
        service = self.head.start(*COMMAND, "head", "--address", self.head.address, "--block")
        self.services["head"] = service
        until(lambda: "the coordinator (version" in service.out, service.describe, UP_S)

    def bring_token(self, name: str) -> None:
        text = (self.head.folder / "user/.ray/auth_token").read_text()
        folder = self.lan.hosts[name].folder / "user/.ray"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "auth_token").write_text(text)
        (folder / "auth_token").chmod(0o600)

    def start_device(self, name: str, *, device_file: str = "") -> None:
        """As a service does at boot; does not wait."""
        host = self.lan.hosts[name]
        folder = host.home / "device"
        folder.mkdir(parents=True, exist_ok=True)
        if device_file:
            (folder / "device.yaml").write_text(device_file)
        self.services[name] = host.start(*COMMAND, "join", self.cluster, "--block", *self.options.get(name, ()))

    def until_free(self, *names: str, deadline_s: float = UP_S) -> None:
        """Until these devices are there, and nothing runs on them."""

        def free() -> bool:
            # the log first: a command that asks takes a second of a core from those that it waits for
            if not self.joined() >= set(names or DEVICES):
                return False
            doing = self.devices()
            return all(doing.get(name) == "free" for name in names or DEVICES)

        def describe() -> str:
            return f"devices: {self.devices()}; {[each.describe() for each in self.services.values()]}"

        until(free, describe, deadline_s, ASK_S)

    def log(self) -> list[str]:
        """The lines of the coordinator that runs now."""
        path = self.head.home / "coordinator.log"
        lines = path.read_text().splitlines() if path.exists() else []
        starts = [number for number, line in enumerate(lines) if " CoordinatorStarted " in line]
        return lines[starts[-1] :] if starts else []

    def joined(self) -> set[str]:
        """Names of the devices that are there, by the coordinator's log."""
        names, present = {}, set()
        for line in self.log():
            device = line.partition(" device=")[2].partition(" ")[0]
            if " DeviceJoined " in line:
                names[device] = line.partition(" name=")[2].partition(" ")[0]
                present.add(device)
            elif " DeviceLost " in line:
                present.discard(device)
        return {names[device] for device in present}

    def devices(self) -> dict[str, str]:
        """What each does, by name; hosts that are refused by their address, with the reason."""
        views = json.loads(self.command("devices", "--json"))
        return {view["device"]["name"] if view["device"] else view["address"]: view["doing"] for view in views}

    def command(self, *arguments: str | Path) -> str:
        """Its output. Fails where it does."""
        return self.head.run(*COMMAND, *arguments).stdout

    def submit(self, matrix: str, *options: str) -> Run:
        path = self.head.folder / "matrix.yaml"
        path.write_text(matrix)
        return Run(self.head.start(*COMMAND, "submit", path, "--json", *options), self)

    def watch(self, run: str) -> Run:
        return Run(self.head.start(*COMMAND, "watch", run, "--json"), self)

    def rows(self, run: str) -> list[dict[str, Any]]:
        return [row for row in Store(self.head.home).load(run, all_attempts=True).to_pylist() if not row["warmup"]]

    def assert_once(self, run: str, jobs: int, status: str = "ok") -> None:
        """Every job has one row, and it is a good one."""
        rows = self.rows(run)
        counts = Counter(row["job_id"] for row in rows)
        assert len(counts) == jobs, f"{len(counts)} of {jobs} jobs have rows"
        assert set(counts.values()) == {1}, f"more than one row: {[key for key, count in counts.items() if count > 1]}"
        assert {row["status"] for row in rows} == {status}, [row for row in rows if row["status"] != status][:2]

    def assert_no_orphan(self) -> None:
        """No job process and no engine once a run is over: agents rest."""
        until(lambda: not self._at_work(), lambda: f"the end of {self._at_work()}", poll_s=POLL_S)

    def _at_work(self) -> list[str]:
        lines = []
        for host in self.lan.hosts.values():
            for process in host.processes():
                try:
                    line = " ".join(process.cmdline())
                except psutil.Error:
                    continue
                if "agents.job.runner" in line or "embedded_child" in line:
                    lines.append(f"{host.name}: {line}")
        return lines

    def power_on(self, name: str) -> None:
        """Its service starts at boot."""
        self.lan.hosts[name].power_on()
        self.start_device(name)

    def reboot(self, name: str, carveout_index: int | None = None) -> None:
        """``carveout_index``: what somebody sets in the firmware before."""
        host = self.lan.hosts[name]
        if carveout_index is not None:
            (host.folder / "machine/drm/card0/device/uma/carveout").write_text(f"{carveout_index}\n")
        host.power_off()
        self.power_on(name)


def started_fleet(lan: Lan, devices: tuple[str, ...] = DEVICES) -> Fleet:
    """Device `one` may choose its split by itself."""
    fleet = Fleet(lan)
    fleet.start_head()
    for name in devices:
        fleet.bring_token(name)
        fleet.start_device(name, device_file=SETS_ITS_SPLIT if name == "one" else "")
    fleet.until_free(*devices)
    return fleet


def impatient(lan: Lan) -> Lan:
    """Before anything is started there."""
    for host in lan.hosts.values():
        host.variables |= IMPATIENT_RAY
    return lan


@contextmanager
def whole(running: Fleet) -> Iterator[Fleet]:
    """A fleet that is whole at the start of a test, whatever the one before did; its runs are cancelled at the end."""
    for name in DEVICES:
        host = running.lan.hosts[name]
        host.heal()
        host.free_disk()
        if running.services[name].poll() is not None:
            running.start_device(name)
    running.head.free_disk()
    running.until_free()
    yield running
    for view in json.loads(running.command("status", "--json"))["runs"]:
        if view["left"]:
            running.command("cancel", view["id"])


def lan_of(folder: Path, *more: str, clocks: tuple[str, ...] = ()) -> Lan:
    return Lan(folder / "lan", ["head", *DEVICES, *more], machines={"head": NO_GPU}, clocks=clocks)
