"""Hosts are machines of their own, fail as such, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fleet.hosts import MARK, SHORT, Host, Lan, Started, why_no_clock
from tests.fleet.machines import AIMAX_64, GIB, MIB, NO_GPU, OLD_FIRMWARE
from tests.waiting import ended, until

INVENTORY = """
import dataclasses, json, os, pathlib, time
from agents.device.inventory import inventory
device = inventory(pathlib.Path(os.environ["ORCHESTRATE_HOME"]), ())
print(json.dumps(dataclasses.asdict(device) | {"monotonic": time.monotonic()}))
"""
# A server that answers each caller; a caller that prints the answer, or why there is none, and the connection's end.
SERVER = """
import socket
server = socket.create_server(("", 7000))
print("ready", flush=True)
callers = []
while True:
    callers.append(server.accept()[0])
    callers[-1].sendall(socket.gethostname().encode())
"""
CALLER = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 7000), timeout=0.5) as server:
        print(server.recv(100).decode(), flush=True)
        if sys.argv[2:]:
            server.settimeout(None)
            print("end" if not server.recv(100) else "more")
except OSError as error:
    print(type(error).__name__)
"""
CLOCK = "import time\nwhile True: print(round(time.time() - time.monotonic()), flush=True); time.sleep(0.01)"
DAEMON = "import os, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(1000)"
SESSION = f"""
import pathlib, sys, time
from tests.fleet.hosts import Lan
with Lan(pathlib.Path(sys.argv[1]), ["one"]) as lan:
    lan.hosts["one"].run(sys.executable, "-c", {DAEMON!r})
    print("ready", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    clocks = [] if why_no_clock() else ["one"]
    with Lan(tmp_path / "lan", ["head", "one"], machines={"head": NO_GPU}, clocks=clocks) as made:
        yield made


@pytest.fixture
def head(lan: Lan) -> Host:
    return lan.hosts["head"]


@pytest.fixture
def one(lan: Lan) -> Host:
    return lan.hosts["one"]


def seen(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run("python", "-c", INVENTORY).stdout)
    return found


def answer(caller: Host, to: str) -> str:
    return caller.run("python", "-c", CALLER, to).stdout.strip()


def serve(host: Host) -> Started:
    server = host.start("python", "-c", SERVER)
    until(lambda: "ready" in server.out, lambda: f"the server: {server.describe()}")
    return server


class TestNetwork:
    def test_hosts_reach_each_other_by_address_and_by_name(self, head: Host, one: Host) -> None:
        serve(one)
        assert answer(head, one.address) == answer(head, "one") == "one"
        assert answer(head, head.address) == "ConnectionRefusedError"

    def test_nothing_passes_a_cut(self, head: Host, one: Host) -> None:
        serve(one)
        serve(head)
        for _ in range(2):  # it may be cut and healed again
            one.cut()
        assert answer(head, one.address) not in ("one", "ConnectionRefusedError")
        assert answer(one, head.address) not in ("head", "ConnectionRefusedError")
        assert answer(one, one.address) == "one"
        for _ in range(2):
            one.heal()
        until(lambda: answer(head, one.address) == "one", "an answer")
        assert answer(one, head.address) == "head"

    def test_a_reboot_does_not_heal(self, head: Host, one: Host) -> None:
        one.cut()
        one.reboot()
        serve(one)
        assert answer(head, one.address) != "one"
        one.heal()
        until(lambda: answer(head, one.address) == "one", "an answer")

    def test_peers_notice_a_crash_and_no_power_failure(self, head: Host, one: Host) -> None:
        calls = []
        for fail in (one.power_off, one.crash):
            serve(one)
            calls.append(head.start("python", "-c", CALLER, one.address, "stay"))
            until(lambda: "one" in calls[-1].out, lambda: f"an answer: {calls[-1].describe()}")
            fail()
            if fail == one.power_off:
                one.power_on()
        until(lambda: "end" in calls[1].out or "Error" in calls[1].out, lambda: f"an end: {calls[1].describe()}")
        assert calls[0].out == "one\n"


class TestMachine:
    def test_each_has_its_own_name_memory_gpu_and_clock(self, tmp_path: Path) -> None:
        machines = {"bare": NO_GPU, "old": OLD_FIRMWARE, "new": AIMAX_64}
        with Lan(tmp_path / "lan", list(machines), machines=machines) as lan:
            found = {name: seen(host) for name, host in lan.hosts.items()}
        assert [device["name"] for device in found.values()] == ["bare", "old", "new"]
        assert [device["ram_bytes"] for device in found.values()] == [16 * GIB, 28 * GIB, 64 * GIB - 512 * MIB]
        assert [[gpu["vram_bytes"] for gpu in device["gpus"]] for device in found.values()] == [
            [],
            [4 * GIB],
            [512 * MIB],
        ]
        assert [device["memory_kind"] for device in found.values()] == ["none", "carve-out", "carve-out"]
        assert [gpu["driver"] for gpu in found["new"]["gpus"]] == ["amdgpu"]
        for differs in ("boot_id", "device_id", "fingerprint"):
            assert len({device[differs] for device in found.values()}) == 3, differs
        ages = sorted(device["monotonic"] for device in found.values())
        assert ages[1] - ages[0] > 1000 < ages[2] - ages[1]

    def test_carveout_options_are_as_the_kernel_prints_them(self, one: Host) -> None:
        options = one.run("cat", "/sys/class/drm/card0/device/uma/carveout_options").stdout.splitlines()
        assert options[:2] == ["0: Minimum (512 MB)", "1:  (1 GB)"]
        assert options[7:] == ["7: Medium (16 GB)", "8:  (24 GB)", "9: High (32 GB)", "10:  (48 GB)"]

    def test_a_carveout_holds_from_the_next_boot(self, one: Host) -> None:
        carveout = "/sys/class/drm/card0/device/uma/carveout"
        before = seen(one)
        one.run("sh", "-c", f"echo 7 > {carveout}")
        one.crash()
        pending = seen(one)
        assert one.run("cat", carveout).stdout == "7\n"
        assert (pending["boot_id"], pending["ram_bytes"]) == (before["boot_id"], 64 * GIB - 512 * MIB)
        one.reboot()
        after = seen(one)
        assert after["boot_id"] != before["boot_id"]
        assert after["device_id"] == before["device_id"]
        assert (after["gpus"][0]["vram_bytes"], after["ram_bytes"]) == (16 * GIB, 48 * GIB)
        assert after["monotonic"] < 1000 < before["monotonic"]

    def test_no_boot_with_a_carveout_that_a_kernel_refuses(self, one: Host) -> None:
        one.run("sh", "-c", "echo 11 > /sys/class/drm/card0/device/uma/carveout")
        with pytest.raises(ValueError, match="refuses"):
            one.reboot()

    def test_a_full_disk_is_full_for_its_host_alone(self, head: Host, one: Host) -> None:
        (one.home / "before").write_bytes(bytes(MIB))
        one.fill_disk()
        writing = ("sh", "-c", "head -c 100000 /dev/zero > $ORCHESTRATE_HOME/file")
        assert "No space left" in one.run(*writing, check=False).stderr
        head.run(*writing)
        (one.home / "before").unlink()
        one.run(*writing)
        one.fill_disk()
        one.free_disk()
        one.run("sh", "-c", "head -c 10000000 /dev/zero > $ORCHESTRATE_HOME/file")

    def test_two_lans_do_not_meet(self, tmp_path: Path, lan: Lan, one: Host) -> None:
        serve(one)
        with Lan(tmp_path / "other", list(lan.hosts)) as other:
            assert answer(other.hosts["head"], one.address) == "ConnectionRefusedError"
        assert answer(lan.hosts["head"], one.address) == "one"


@pytest.mark.skipif(why_no_clock() is not None, reason=str(why_no_clock()))
class TestClock:
    def test_it_jumps_for_running_programs_of_its_host_alone(self, head: Host, one: Host) -> None:
        running = one.start("python", "-c", CLOCK)

        def shown() -> list[int]:
            return [int(line) for line in running.out.splitlines()]

        until(lambda: len(shown()) > 1, lambda: f"its time: {running.describe()}")
        one.jump_clock(-86400)
        until(lambda: abs(shown()[-1] - shown()[0] + 86400) <= 1, lambda: f"the jump: {shown()}")
        one.jump_clock(2 * 86400)
        dates = [int(host.run("date", "+%s").stdout) for host in (head, one)]
        assert abs(dates[1] - dates[0] - 86400) <= 5

    def test_waits_end_in_time_whatever_it_says(self, one: Host) -> None:
        one.jump_clock(3600)
        waits = "threading.Event().wait(0.1); time.sleep(0.1); subprocess.run(['sleep', '0.1'])"
        one.run("python", "-c", f"import subprocess, threading, time; {waits}", timeout=30)


class TestProcesses:
    def test_all_are_found_and_end_in_a_crash(self, head: Host, one: Host) -> None:
        head.start("sleep", "1000")
        foreground = one.start("sleep", "1001")
        one.run("env", "--ignore-environment", sys.executable, "-c", DAEMON)
        until(lambda: len(one.processes()) == 2, lambda: f"two processes: {one.processes()}")
        daemon = one.process("os.setsid()")
        assert daemon.ppid() != os.getpid()
        with pytest.raises(AssertionError, match=r"0 processes with 'nonsense' on one, of .*sleep 1001"):
            one.process("nonsense")
        one.crash()
        assert one.processes() == []
        assert ended(daemon)
        assert foreground.returncode == -signal.SIGKILL
        assert head.process("sleep 1000").is_running()
        assert one.run("echo", "here").stdout == "here\n"

    def test_a_command_gets_its_input_and_reports_its_failure(self, one: Host) -> None:
        assert one.run("cat", input="some text").stdout == "some text"
        with pytest.raises(AssertionError, match="No such file"):
            one.run("ls", "/nonsense")
        assert one.run("false", check=False).returncode == 1

    def test_a_command_that_does_not_end_is_ended(self, one: Host) -> None:
        with pytest.raises(AssertionError, match=r"0\.2 s"):
            one.run("sh", "-c", "sleep 1000; true", timeout=0.2)
        until(lambda: not one.processes(), lambda: f"the end of {one.processes()}")

    @pytest.mark.parametrize("group", [False, True])
    def test_a_signal_reaches_the_command(self, one: Host, group: bool) -> None:
        command = one.start("sh", "-c", "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.1; done")
        until(lambda: "ready" in command.out, lambda: f"its start: {command.describe()}")
        command.signal(signal.SIGINT, group=group)
        assert command.wait(30) == 3
        assert command.out == "ready\ninterrupted\n"


def remains_of(owner: str) -> list[str]:
    """What there is of a session in the machine outside, whose id begins with ``owner``."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    folders = [each for each in SHORT.glob("orch-lan-*/owner") if each.read_text().startswith(owner)]
    return [line for line in mounts if f"{MARK}-{owner}" in line] + [*map(str, folders), *map(str, marked(owner))]


def marked(owner: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(owner):
                found.append(process)
    return found


class TestNothingRemains:
    def test_after_a_with_block_that_failed(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), Lan(tmp_path / "lan", ["head", "one"]) as lan:
            lan.hosts["one"].run(sys.executable, "-c", DAEMON)
            lan.hosts["one"].start("sleep", "1000")
            lan.hosts["head"].fill_disk()
            lan.hosts["head"].power_off()
            during = remains_of(lan.owner)
            links = set(psutil.net_if_addrs())
            raise KeyboardInterrupt
        assert len(during) > 4  # two disks, a folder, processes
        assert links.isdisjoint({"bridge0", "port1", "port2"})
        assert remains_of(lan.owner) == []

    def test_after_a_session_that_was_killed(self, tmp_path: Path) -> None:
        folder = str(tmp_path / "killed")
        root = Path(__file__).parents[2]
        session = subprocess.Popen([sys.executable, "-c", SESSION, folder], stdout=subprocess.PIPE, text=True, cwd=root)
        owner = f"{session.pid}-"
        with session:
            assert session.stdout is not None
            assert session.stdout.readline() == "ready\n"
            assert marked(owner)
            session.kill()
        until(lambda: not marked(owner), lambda: f"the end of {marked(owner)}")
        assert len(remains_of(owner)) == 2  # a disk and a folder
        with Lan(tmp_path / "next", ["one"]):
            assert remains_of(owner) == []
