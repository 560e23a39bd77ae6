"""Hosts on one machine, for tests of what only several hosts can do wrong. Each is a set of Linux namespaces: its own
network, processes, mounts, host name, shared memory and monotonic clock; a switch, a set as well, joins them.

A set lives as long as its first process. That dies with the session that started it and takes all else along:
processes, whatever became of their parents, links, mounts. The machine's own lists of links and namespaces show nothing
of it, so that sessions can run side by side, with the same addresses. What a killed session leaves (a mounted disk, a
temporary folder) tells whose it was, and the next session removes it.

Hosts share the processor, and the file system but for each one's ``home``, HOME, TMPDIR and /dev/shm.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar

import psutil

from tests.fleet.machines import AIMAX_64, CLOCK_C, MIB, Machine
from tests.waiting import DEADLINE_S, ended, until

DISK_BYTES = 300 * MIB
MARK = "ORCHESTRATE_TEST_LAN"  # in the environment of all that runs in a host, and of what holds it: whose it is
NOT_INHERITED = ("RAY_", "ORCHESTRATE_", "XDG_", "LD_PRELOAD")
SHORT = Path("/tmp")  # Ray's sockets lie 75 characters below, and a socket's path must stay under 107
TOOLS = ("ip", "mount", "nsenter", "setpriv", "unshare")

SWITCH = "ip link add bridge0 type bridge; ip link set bridge0 up"
# $1 the machine's files, $2 an empty /sys/class, $3 the name, $4 what $5 is here
BOOT = """
ip link set lo up
mount -t sysfs sysfs /sys
[ -d /sys/class/drm ] || mount -t overlay overlay -o "lowerdir=$2:/sys/class" /sys/class
mount --bind "$1/drm" /sys/class/drm
mount --bind "$1/boot_id" /proc/sys/kernel/random/boot_id
mount --bind "$1/meminfo" /proc/meminfo
mount --bind "$1/cpuinfo" /proc/cpuinfo
mount --bind "$1/hosts" /etc/hosts
[ ! -e /etc/machine-id ] || mount --bind "$1/machine-id" /etc/machine-id
mount -t tmpfs tmpfs /dev/shm
mount --bind "$4" "$5"
echo "$3" > /proc/sys/kernel/hostname
"""


@functools.cache
def why_not() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are Linux namespaces, and only root may make them"
    if lacking := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"hosts need {', '.join(lacking)}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Lan(Path(folder), ["probe"]) as lan:
                lan.hosts["probe"].run("true")
        except AssertionError as error:
            return f"hosts cannot be made here: {error}"
    return None


def why_no_clock() -> str | None:
    """Why ``Lan(clocks=...)`` cannot be had here."""
    return None if shutil.which("cc") else "a clock of a host's own needs a C compiler"


class Lan:
    """Hosts on one switch, from the start of its ``with`` to the end. They are AIMAX_64 but for those in ``machines``;
    those in ``clocks`` have a wall clock that can jump."""

    _count: ClassVar[int] = 0

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        machines: Mapping[str, Machine] | None = None,
        clocks: Collection[str] = (),
        disk_bytes: int = DISK_BYTES,
    ) -> None:
        Lan._count += 1
        self.owner = f"{_identity(os.getpid())}-{Lan._count}"
        of = {name: (machines or {}).get(name, AIMAX_64) for name in names}
        self.hosts = {
            name: Host(self, number, folder / name, machine, disk_bytes, own_clock=name in clocks)
            for number, (name, machine) in enumerate(of.items(), 1)
        }

    def __enter__(self) -> Lan:
        _remove_leftovers()
        with ExitStack() as stack:
            self.short = Path(tempfile.mkdtemp(prefix="orch-lan-", dir=SHORT))
            stack.callback(shutil.rmtree, self.short, ignore_errors=True)
            (self.short / "owner").write_text(self.owner)
            (self.short / "class" / "drm").mkdir(parents=True)
            self.temporary.mkdir()
            self.switch = Namespaces(SWITCH, [], os.environ | {MARK: self.owner})
            stack.callback(self.switch.end)
            for host in self.hosts.values():
                stack.callback(host._remove)
                host._set_up()
            self._at_end = stack.pop_all()
        return self

    @property
    def temporary(self) -> Path:
        """TMPDIR on all hosts, as all machines have a /tmp: Ray wants the folder of its head on all of them."""
        return self.short / "t"

    def __exit__(self, *_: object) -> None:
        self._at_end.close()


class Host:
    """One machine of a Lan. ``variables`` go over the test's own environment in its commands; a test may add some."""

    def __init__(
        self, lan: Lan, number: int, folder: Path, machine: Machine, disk_bytes: int, *, own_clock: bool
    ) -> None:
        self.name, self.folder, self.machine = folder.name, folder, machine
        self.address = f"10.77.0.{number}"
        self.home = folder / "home"
        self.variables: dict[str, str] = {}
        self._started: list[Started] = []
        self._lan, self._number, self._disk_bytes, self._own_clock = lan, number, disk_bytes, own_clock
        self._port = f"port{number}"
        self._ahead_s = 0.0
        self._is_cut = False
        self._kernel: Namespaces | None = None

    # Commands

    def run(
        self, *argv: str | Path, timeout: float = 120, check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """To its end, which nothing delays that it leaves running in the background."""
        command = self._start(argv, subprocess.DEVNULL if input is None else subprocess.PIPE)
        try:
            command.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end within {timeout:g} s: {command.describe()}") from None
        finally:
            command.signal(signal.SIGKILL, group=True)
            command.wait()
        assert not check or command.returncode == 0, command.describe()
        return subprocess.CompletedProcess(command.argv, command.returncode, command.out, command.err)

    def start(self, *argv: str | Path) -> Started:
        return self._start(argv, subprocess.DEVNULL)

    def _start(self, argv: Sequence[str | Path], stdin: int) -> Started:
        assert self._kernel, f"{self.name} is off"
        preload = [f"LD_PRELOAD={self._clock_library}", f"{MARK}_CLOCK={self._clock}"] if self._own_clock else []
        words = [str(each) for each in argv]
        inside = self._kernel.command("setsid", "env", f"--chdir={self.folder}", *preload, *words)
        stem = self.folder / "output" / f"{len(self._started):03d}-{Path(words[0]).name}"
        self._started.append(Started(words, inside, stem, self._environment(), stdin))
        return self._started[-1]

    def _environment(self) -> dict[str, str]:
        return {
            name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)
        } | self.variables

    # Processes

    def processes(self) -> list[psutil.Process]:
        """All that run here, whatever their parent and their environment are now."""
        return self._kernel.processes() if self._kernel else []

    def process(self, words: str) -> psutil.Process:
        """The one process with ``words`` in its command line."""
        lines = {each: " ".join(_command_line(each)) for each in self.processes()}
        found = [process for process, line in lines.items() if words in line]
        assert len(found) == 1, f"{len(found)} processes with {words!r} on {self.name}, of {list(lines.values())}"
        return found[0]

    def crash(self) -> None:
        """SIGKILL to all processes at once. The kernel goes on, and ends their connections towards their peers."""

        def gone() -> bool:
            if self._kernel and self.processes():
                self._kernel.do("sh", "-c", "kill -s KILL -- -1", check=False)
            return not self.processes()

        until(gone, lambda: f"the end of {self.processes()}")
        self._reap()

    # Power

    def power_off(self) -> None:
        """As when the mains fail: no process can do anything about it. What is on disk stays."""
        if self._kernel:
            self._set_port("down")
            self._kernel.end()
            self._kernel = None
            self._lan.switch.do("ip", "link", "delete", self._port, check=False)  # it may have gone with its other end
            self._reap()

    def power_on(self, uptime_s: float = 10) -> None:
        """A new boot. An index in ``uma/carveout`` has become the split."""
        assert not self._kernel, f"{self.name} is on"
        pending = self._machine_folder / "drm/card0/device/uma/carveout"
        if pending.exists():
            self.machine = self.machine.booted_with(pending.read_text())
        self._write_machine()
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()
        places = (self._machine_folder, self._lan.short / "class", self.name, self.temporary, self._lan.temporary)
        self._kernel = Namespaces(BOOT, [str(each) for each in places], self._environment(), uptime_s)
        mac = f"02:00:00:00:00:{self._number:02x}"  # the same after each boot, or neighbours would look for the old one
        self._lan.switch.ip(
            f"link add {self._port} type veth peer name eth0 address {mac} netns {self._kernel.pid}",
            f"link set {self._port} master bridge0 {'down' if self._is_cut else 'up'}",
        )
        self._kernel.ip(f"address add {self.address}/24 brd + dev eth0", "link set eth0 up")

    def reboot(self) -> None:
        self.power_off()
        self.power_on()

    # Faults

    def cut(self) -> None:
        """No packet in or out until healed, also after a reboot."""
        self._is_cut = True
        self._set_port("down")

    def heal(self) -> None:
        self._is_cut = False
        self._set_port("up")

    def _set_port(self, state: str) -> None:
        if self._kernel:
            self._lan.switch.do("ip", "link", "set", self._port, state)

    def fill_disk(self) -> None:
        """Not a block is left in ``home`` (of an empty one: a page). What is deleted makes room."""

        def full() -> bool:
            disk = os.statvfs(self.home)
            used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
            return self._resize_disk(max(used, disk.f_frsize))  # refused where more has been written since

        until(full, f"a full disk on {self.name}")

    def free_disk(self) -> None:
        assert self._resize_disk(self._disk_bytes), f"the disk of {self.name} does not grow"

    def _resize_disk(self, size: int) -> bool:
        command = ["mount", "-o", f"remount,size={size}", str(self.home)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def jump_clock(self, seconds: float) -> None:
        """The wall clock goes ahead by ``seconds`` (or back), at once, for running programs too; and stays so."""
        assert self._own_clock, f"{self.name} has no clock of its own: Lan(..., clocks=[{self.name!r}])"
        self._ahead_s += seconds
        with self._clock.open("r+b") as file:  # programs have it mapped
            file.write(struct.pack("=q", round(self._ahead_s * 1e9)))

    # How it is made

    @property
    def _machine_folder(self) -> Path:
        return self.folder / "machine"

    @property
    def temporary(self) -> Path:
        """Where its TMPDIR lies outside. Empty after each boot."""
        return self._lan.short / f"t-{self.name}"

    @property
    def _clock(self) -> Path:
        return self._machine_folder / "clock"

    @property
    def _clock_library(self) -> Path:
        return self._lan.short / "clock.so"

    def _set_up(self) -> None:
        for each in (self.home, self.folder / "user", self.folder / "output", self._machine_folder / "drm"):
            each.mkdir(parents=True)
        disk = f"{MARK}-{self._lan.owner}-{self.name}"
        _do(["mount", "-t", "tmpfs", "-o", f"size={self._disk_bytes},mode=755", disk, str(self.home)])
        self.variables |= {
            MARK: self._lan.owner,
            "ORCHESTRATE_HOME": str(self.home),
            "HOME": str(self.folder / "user"),
            "TMPDIR": str(self._lan.temporary),
            "RAY_TMPDIR": str(self._lan.temporary),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        (self._machine_folder / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        if self._own_clock:
            self._clock.write_bytes(bytes(8))
            if not self._clock_library.exists():
                _do(["cc", "-shared", "-fPIC", "-O2", "-o", str(self._clock_library), "-x", "c", "-"], CLOCK_C)
        self.power_on(uptime_s=3600.0 * self._number)  # no two hosts have the same monotonic clock

    def _remove(self) -> None:
        with ExitStack() as stack:
            stack.callback(subprocess.run, ["umount", "--lazy", str(self.home)], check=False, capture_output=True)
            stack.callback(self._reap)
            if self._kernel:
                stack.callback(self._kernel.end)
        self._kernel = None

    def _reap(self) -> None:
        for command in self._started:
            command.wait(DEADLINE_S)

    def _write_machine(self) -> None:
        hosts = "".join(f"{each.address} {each.name}\n" for each in self._lan.hosts.values())
        drm = self.machine.drm()
        texts = {f"drm/{path}": text for path, text in drm.items()} | {
            "boot_id": f"{uuid.uuid4()}\n",
            "meminfo": self.machine.meminfo(),
            "cpuinfo": self.machine.cpuinfo(Path("/proc/cpuinfo").read_text()),
            "hosts": f"127.0.0.1 localhost\n{hosts}",
        }
        for path, text in texts.items():
            (self._machine_folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self._machine_folder / path).write_text(text)
        driver = self._machine_folder / "drm/card0/device/driver"
        if drm and not driver.is_symlink():
            (self._machine_folder / "drm/.drivers/amdgpu").mkdir(parents=True)
            driver.symlink_to("../../.drivers/amdgpu")


class Started(subprocess.Popen[str]):
    """A command on a host, leader of a process group of its own. What it prints goes to files."""

    def __init__(self, argv: list[str], inside: list[str], stem: Path, environment: dict[str, str], stdin: int) -> None:
        self.argv = argv
        self._files = Path(f"{stem}.out"), Path(f"{stem}.err")
        with self._files[0].open("wb") as its_out, self._files[1].open("wb") as its_err:
            super().__init__(
                inside, stdin=stdin, stdout=its_out, stderr=its_err, env=environment, text=True, start_new_session=True
            )

    @property
    def out(self) -> str:
        return self._files[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._files[1].read_text(errors="replace")

    def describe(self) -> str:
        return f"{self.argv}: {self.returncode}\n{self.out}\n{self.err}"

    def inside(self) -> psutil.Process | None:
        """The command itself: what was started is nsenter, which waits for it outside. None when it has ended."""
        found: list[psutil.Process] = []

        def seen() -> bool:
            if self.poll() is None:
                found.extend(psutil.Process(self.pid).children())
            return bool(found) or self.returncode is not None

        until(seen, f"the start of {self.argv}")
        return found[0] if found else None

    def signal(self, number: int, *, group: bool = False) -> None:
        """To the command, or to all in its foreground, as a terminal does. Nothing where it has ended."""
        if inside := self.inside():
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(os.getpgid(inside.pid) if group else inside.pid, number)

    def send_signal(self, sig: int) -> None:
        self.signal(sig)


class Namespaces:
    """What makes a host, or a switch. Its first process ends with the thread that made it, if not before."""

    KINDS = ("--net", "--mount", "--uts", "--ipc", "--pid", "--time")

    def __init__(self, script: str, arguments: list[str], environment: dict[str, str], uptime_s: float = 10) -> None:
        """``script`` runs in it first."""
        ahead = [
            f"--{name}={round(uptime_s - time.clock_gettime(clock))}"
            for name, clock in (("monotonic", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME))
        ]
        unshare = ["unshare", *self.KINDS, *ahead, "--fork", "--kill-child", "--mount-proc", "--propagation=private"]
        first = f"{script}\necho up\nexec env --ignore-signal=CHLD sleep infinity"  # ignored: the kernel reaps orphans
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", *unshare, "sh", "-ec", first, "boot", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            start_new_session=True,
        )
        try:
            self.pid = self._wait_for_first()
        except BaseException:
            self._holder.kill()
            self._holder.wait()
            raise
        self._id = _pid_namespace(self.pid)

    def _wait_for_first(self) -> int:
        assert self._holder.stdout is not None
        with self._holder.stdout as lines_of_boot:
            lines = []
            for line in lines_of_boot:
                if line == "up\n":
                    return psutil.Process(self._holder.pid).children()[0].pid
                lines.append(line)
        raise AssertionError(f"no namespaces: {''.join(lines)}")

    def command(self, *argv: str) -> list[str]:
        assert self._holder.poll() is None, "its first process was killed"
        return ["nsenter", f"--target={self.pid}", *self.KINDS, "--", *argv]

    def do(self, *argv: str, check: bool = True) -> None:
        _do(self.command(*argv), check=check)

    def ip(self, *lines: str) -> None:
        """With the ids of processes that hold outside."""
        _do(["nsenter", f"--target={self.pid}", "--net", "ip", "-batch", "-"], "\n".join(lines))

    def processes(self) -> list[psutil.Process]:
        """All but the first."""
        inside = [pid for pid in psutil.pids() if pid != self.pid and _pid_namespace(pid) == self._id]
        found = []
        for pid in inside:
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return [process for process in found if not ended(process)]

    def end(self) -> None:
        """The kernel lets the first process go when all others are gone."""
        if self._holder.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._holder.wait(DEADLINE_S)


def _do(argv: list[str], input: str | None = None, *, check: bool = True) -> None:
    done = subprocess.run(argv, input=input, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _pid_namespace(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return None


def _identity(pid: int) -> str:
    """Of a process for all time: its id and when it started. Only the id where it is gone."""
    try:
        return f"{pid}-{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return str(pid)


def _is_orphaned(owner: str) -> bool:
    """Whether the session that made something, ``owner``, has ended."""
    identity, _, _ = owner.rpartition("-")
    pid = identity.partition("-")[0]
    return pid.isdecimal() and identity != _identity(int(pid))


def _remove_leftovers() -> None:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _is_orphaned(process.environ().get(MARK, "")):
                process.kill()
    mount = re.compile(rf"\S+ \S+ \S+ \S+ (?P<point>\S+) .* - tmpfs {MARK}-(?P<owner>\d+-\d+-\d+)-.*")
    for found in filter(None, map(mount.fullmatch, Path("/proc/self/mountinfo").read_text().splitlines())):
        if _is_orphaned(found["owner"]):
            point = found["point"].encode().decode("unicode_escape")
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    for owner in SHORT.glob("orch-lan-*/owner"):
        with suppress(FileNotFoundError):  # another session does the same, or ends
            if _is_orphaned(owner.read_text()):
                shutil.rmtree(owner.parent, ignore_errors=True)
