"""The package's energy counter and the power supplies, on trees of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.telemetry.sources.base import Quantity as Q
from agents.telemetry.sources.battery import PowerSupplyFinder, signed
from agents.telemetry.sources.rapl import RaplFinder
from tests.fakes.sensors import Now, files, rapl_zone, read

NOBODY = 65534
RANGE_UJ = 262143328850


def test_two_packages_add_up_and_their_parts_do_not(tmp_path: Path) -> None:
    first = rapl_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000, limit_uw=45_000_000)
    second = rapl_zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000, limit_uw=45_000_000)
    rapl_zone(tmp_path, "intel-rapl:0:0", "core", 9)
    rapl_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 9)
    now = Now()
    (source,), missing = RaplFinder(now).find(tmp_path)
    assert (read(source), missing) == ({Q.PACKAGE_POWER: None, Q.POWER_LIMIT: 90.0}, [])
    now.pass_s(2)
    files(first, {"energy_uj": 61_000_000})
    files(second, {"energy_uj": 25_000_000})
    assert read(source)[Q.PACKAGE_POWER] == 40.0
    now.pass_s(1)
    files(first, {"energy_uj": ""})
    files(second, {"energy_uj": 35_000_000})
    assert read(source)[Q.PACKAGE_POWER] is None  # one package is not the whole
    source.close()


def test_amd_and_the_whole_platform(tmp_path: Path) -> None:
    package = rapl_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    platform = rapl_zone(tmp_path, "intel-rapl:1", "psys", 0)
    now = Now()
    (source,), _ = RaplFinder(now).find(tmp_path)
    read(source)
    now.pass_s(1)
    files(package, {"energy_uj": 30_000_000})
    files(platform, {"energy_uj": 44_000_000})
    assert read(source) == {Q.PACKAGE_POWER: 30.0, Q.SYSTEM_POWER: 44.0}


def test_the_counter_wraps_and_a_gap_is_bridged(tmp_path: Path) -> None:
    folder = rapl_zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 10_000_000)
    now = Now()
    (source,), _ = RaplFinder(now).find(tmp_path)
    read(source)
    now.pass_s(1)
    files(folder, {"energy_uj": "garbage"})
    assert read(source) == {Q.PACKAGE_POWER: None}
    now.pass_s(1)
    files(folder, {"energy_uj": 50_000_000})
    assert read(source) == {Q.PACKAGE_POWER: 30.0}


def test_no_range_means_no_guess_at_a_wrap(tmp_path: Path) -> None:
    folder = rapl_zone(tmp_path, "intel-rapl:0", "package-0", 100)
    (folder / "max_energy_range_uj").unlink()
    now = Now()
    (source,), _ = RaplFinder(now).find(tmp_path)
    read(source)
    now.pass_s(1)
    files(folder, {"energy_uj": 50})
    assert read(source) == {Q.PACKAGE_POWER: None}


@contextmanager
def without_root() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_roots_counter_says_what_to_do(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        root = Path(name)
        root.chmod(0o755)
        for zone in ("intel-rapl:0", "intel-rapl:1"):
            (rapl_zone(root, zone, "package-0", 1) / "energy_uj").chmod(0o400 if os.geteuid() == 0 else 0)
        with without_root():
            sources, missing = RaplFinder().find(root)
    assert sources == ()
    assert [("root's alone" in each.why, "udev" in each.todo) for each in missing] == [(True, True)]


def test_a_counter_that_is_not_there(tmp_path: Path) -> None:
    (rapl_zone(tmp_path, "intel-rapl:0", "package-0", 1) / "energy_uj").unlink()
    sources, (missing,) = RaplFinder().find(tmp_path)
    assert (sources, "No such file" in missing.why) == ((), True)


@pytest.mark.parametrize(("linux", "todo"), [(True, True), (False, False)])
def test_no_counters(tmp_path: Path, linux: bool, todo: bool) -> None:
    if linux:
        files(tmp_path / "proc", {"stat": "cpu"})
    sources, (missing,) = RaplFinder().find(tmp_path)
    assert (sources, bool(missing.todo)) == ((), todo)


BATTERY = {"type": "Battery", "present": 1, "status": "Discharging", "capacity": 81}


def supplies(root: Path, **by_name: dict[str, object]) -> None:
    for name, contents in by_name.items():
        files(root / f"sys/class/power_supply/{name}", contents)


@pytest.mark.parametrize(
    ("figures", "watts"),
    [
        ({"power_now": 15_250_000}, 15.25),
        ({"current_now": 1_500_000, "voltage_now": 12_000_000}, 18.0),
        ({"current_now": -1_500_000, "voltage_now": 12_000_000}, 18.0),
        ({"current_now": 1_500_000}, None),
        ({"power_now": ""}, None),
        ({}, None),
    ],
)
def test_a_battery(tmp_path: Path, figures: dict[str, object], watts: float | None) -> None:
    supplies(tmp_path, BAT0={**BATTERY, **figures})
    (source,), missing = PowerSupplyFinder().find(tmp_path)
    assert (source.name, missing) == ("battery:BAT0", ())
    assert read(source) == {Q.BATTERY_POWER: watts, Q.BATTERY_CHARGE: 81}
    source.close()


@pytest.mark.parametrize(
    ("status", "watts", "out"),
    [
        (b"Discharging", 20.0, 20.0),
        (b"Charging", 20.0, -20.0),
        (b"Charging", -20.0, -20.0),
        (b"Full", 0.0, 0.0),
        (b"Not charging", 3.0, None),
        (b"Unknown", 3.0, None),
        (b"", 3.0, None),
        (b"Discharging", None, None),
    ],
)
def test_the_sign_of_power(status: bytes, watts: float | None, out: float | None) -> None:
    assert signed(status, watts) == out


@pytest.mark.parametrize(
    ("plug", "usb_c", "on_mains"), [(1, 0, 1.0), (0, 1, 1.0), (0, 0, 0.0), ("", 0, 0.0), ("", "", None)]
)
def test_mains(tmp_path: Path, plug: object, usb_c: object, on_mains: float | None) -> None:
    supplies(
        tmp_path,
        AC={"type": "Mains", "online": plug},
        ucsi={"type": "USB", "online": usb_c},
        mouse={"type": "Battery", "scope": "Device", "capacity": 50},
        slot={"type": "Battery", "present": 0},
    )
    (source,), _ = PowerSupplyFinder().find(tmp_path)
    assert (source.name, read(source)) == ("mains", {Q.ON_MAINS: on_mains})


def test_a_mini_pc_has_none(tmp_path: Path) -> None:
    sources, (missing,) = PowerSupplyFinder().find(tmp_path)
    assert (sources, missing.todo) == ([], "")
