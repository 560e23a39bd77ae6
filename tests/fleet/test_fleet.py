"""A real fleet in all its troubles: every job once, nothing left running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.fleet import (
    ASK_S,
    COMMAND,
    DEVICES,
    LONG,
    LONG_JOBS,
    SHORT,
    SPLITS,
    Fleet,
    Run,
    impatient,
    lan_of,
    started_fleet,
    whole,
)
from tests.fleet.hosts import Host, why_no_clock
from tests.fleet.machines import GIB, MIB
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)
SPLIT_JOBS = 24
INDEX_8_GIB, INDEX_32_GIB = 5, 9  # in the firmware's menu


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    clocks = () if why_no_clock() else ("three",)
    with lan_of(tmp_path_factory.mktemp("fleet"), "late", clocks=clocks) as lan:
        yield started_fleet(impatient(lan))


@pytest.fixture
def fleet(running: Fleet) -> Iterator[Fleet]:
    with whole(running) as ready:
        yield ready


def test_splits_and_reboots(fleet: Fleet) -> None:
    """One device sets its split itself; of one the operator gets it right, of one wrong at first."""
    for name in DEVICES:
        if fleet.lan.hosts[name].machine.vram_bytes != 512 * MIB:
            fleet.reboot(name, 0)
    fleet.until_free()
    run = fleet.submit(SPLITS)
    asked = fleet.lan.hosts["one"].home / "reboot-asked"
    run.until(asked.exists, "one reboots itself")
    asked.unlink()
    fleet.reboot("one")

    def asks(name: str) -> list[str]:
        return [event["text"] for event in run.events("operator_asked") if event["device"] == name]

    run.until(lambda: asks("two") and asks("three"), "operators are asked")
    assert asks("two") == ["set dedicated VRAM of two to 32 GiB and reboot"]
    assert "set dedicated VRAM of two to 32 GiB and reboot" in fleet.command("status")
    fleet.reboot("two", INDEX_32_GIB)
    fleet.reboot("three", INDEX_8_GIB)
    run.until(lambda: len(asks("three")) == 2, "a wrong split is reported")
    assert asks("three")[1] == "set dedicated VRAM of three to 32 GiB and reboot (it came back with 8 GiB)"
    fleet.reboot("three", INDEX_32_GIB)
    run.completed()
    fleet.assert_once(run.name, SPLIT_JOBS)
    seen = {(row["dedicated_vram_bytes"], row["dedicated_vram_seen_bytes"]) for row in fleet.rows(run.name)}
    assert seen == {(512 * MIB, 512 * MIB), (32 * GIB, 32 * GIB)}
    assert {row["dedicated_vram_source"] for row in fleet.rows(run.name)} == {"seen"}
    assert len({row["boot_id"] for row in fleet.rows(run.name)}) == 6, "each device ran in two boots"
    fleet.assert_no_orphan()


def test_agent_raylet_and_job_process_are_killed(fleet: Fleet) -> None:
    run = fleet.submit(LONG)
    hosts = fleet.lan.hosts
    for name in run.as_sent(DEVICES):
        match name:
            case "one":
                hosts[name].process("ray::DeviceAgent").kill()
            case "two":
                hosts[name].process("raylet/raylet").kill()
            case _:
                kill_at_its_job(run, name, hosts[name])
    run.completed()
    fleet.assert_once(run.name, LONG_JOBS)
    lost = {event["device"] for event in run.events("device_lost")}
    assert lost == {"one", "two"}
    assert has_lost_an_engine(run, "three")
    fleet.assert_no_orphan()


def kill_at_its_job(run: Run, device: str, host: Host) -> None:
    """Kills the job process while it has a job. One that is hit between two jobs is made again, and nobody hears of
    it: then the next one."""
    for _ in range(5):
        run.until_running(device)
        sent = run.sent(device) + 1
        host.process("agents.job.runner").kill()
        run.until_sent(device, sent)
        if has_lost_an_engine(run, device):
            return


def has_lost_an_engine(run: Run, device: str) -> bool:
    again = [event for event in run.events("job_ended") if not event["final"]]
    return (device, "engine_lost") in {(event["device"], event["cause"]) for event in again}


def test_the_head_is_killed_and_starts_again(fleet: Fleet) -> None:
    run = fleet.submit(LONG)
    for name in DEVICES:
        run.until_sent(name, 2)
    fleet.head.crash()  # its processes; the devices see their connections end
    run.started.wait()
    fleet.services["head"].wait()
    fleet.start_head()
    watched = fleet.watch(run.name)
    watched.completed()
    fleet.assert_once(run.name, LONG_JOBS)
    fleet.assert_no_orphan()


def test_disks_are_full_and_a_clock_jumps(fleet: Fleet) -> None:
    """What the head cannot write waits until it can; what a device cannot keep is reported all the same."""
    run = fleet.submit(LONG)
    for name in DEVICES:
        run.until_sent(name, 2)
    if not why_no_clock():
        fleet.lan.hosts["three"].jump_clock(-7200)
    fleet.lan.hosts["two"].fill_disk()
    fleet.head.fill_disk()
    run.until(lambda: any(event["text"] for event in run.events("trouble")), "trouble is reported")
    done = len(run.events("job_ended"))
    fleet.head.free_disk()
    run.until(lambda: len(run.events("job_ended")) > done, "it goes on")
    fleet.lan.hosts["two"].free_disk()
    run.completed()
    fleet.assert_once(run.name, LONG_JOBS)
    fleet.assert_no_orphan()


def test_two_hosts_with_one_identity_are_both_refused(fleet: Fleet) -> None:
    """A copied disk. Which of them would a result be of?"""
    late, one = fleet.lan.hosts["late"], fleet.lan.hosts["one"]
    fleet.bring_token("late")
    (late.home / "device").mkdir(exist_ok=True)
    (late.home / "device/device-id").write_text((one.home / "device/device-id").read_text())
    fleet.start_device("late")

    def refused() -> bool:
        if not any("two nodes claim to be device" in line for line in fleet.log()):
            return False
        return sum("two nodes claim to be device" in words for words in fleet.devices().values()) == 2

    until(refused, lambda: f"{fleet.devices()} {fleet.services['late'].describe()}", 60, ASK_S)
    words = next(words for words in fleet.devices().values() if "two nodes claim" in words)
    assert one.address in words and late.address in words
    late.run(*COMMAND, "leave")
    fleet.services.pop("late").wait()
    until(lambda: not late.processes(), lambda: f"the end of {late.processes()}")
    fleet.until_free()
    run = fleet.submit(SHORT)
    run.completed()
    fleet.assert_once(run.name, 6)
