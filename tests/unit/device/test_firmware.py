from __future__ import annotations

from pathlib import Path

import pytest

from agents.device.firmware import bios_of, gpu_firmware, modules_of, npus_of, product_of
from tests.fakes.sys_tree import write


def modules(root: Path, *each: dict[str, str], more: str = "") -> Path:
    """udev's database as systemd 257 writes it: ``E:`` lines among others."""
    lines = ["I:2093441", "E:ID_VENDOR=ASUSTeK", "E:MEMORY_ARRAY_NUM_DEVICES=8", more]
    for number, facts in enumerate(each):
        lines += [f"E:MEMORY_DEVICE_{number}_{key}={value}" for key, value in facts.items()]
    write(root / "run/udev/data/+dmi:id", "\n".join(lines) + "\nV:1\n")
    return root


LPDDR5 = {
    "TOTAL_WIDTH": "32",
    "DATA_WIDTH": "32",
    "SIZE": "8589934592",
    "TYPE": "LPDDR5",
    "SPEED_MTS": "8533",
    "CONFIGURED_SPEED_MTS": "8000",
}
EMPTY = {"PRESENT": "0", "LOCATOR": "DIMM 1"}


def test_modules_of_a_soldered_memory(tmp_path: Path) -> None:
    found = modules_of(modules(tmp_path, *[LPDDR5] * 8))
    assert found is not None
    assert found.words == "8 x LPDDR5 at 8000 MT/s"
    assert found.bandwidth_bytes_per_s == 256e9


def test_slots_without_a_module_do_not_count_and_the_slowest_sets_the_pace(tmp_path: Path) -> None:
    slow = LPDDR5 | {"CONFIGURED_SPEED_MTS": "6400"}
    found = modules_of(modules(tmp_path, LPDDR5, EMPTY, slow))
    assert found is not None
    assert (found.count, found.speed_mts, found.bandwidth_bytes_per_s) == (2, 6400, 51.2e9)


def test_a_rated_speed_stands_where_no_other_is_told(tmp_path: Path) -> None:
    facts = {key: value for key, value in LPDDR5.items() if key != "CONFIGURED_SPEED_MTS"}
    found = modules_of(modules(tmp_path, facts))
    assert found is not None and found.speed_mts == 8533


@pytest.mark.parametrize(
    "facts",
    [
        [],
        [EMPTY],
        [{"SIZE": "0", "SPEED_MTS": "1"}],
        [LPDDR5 | {"CONFIGURED_SPEED_MTS": "Unknown", "SPEED_MTS": ""}],
    ],
)
def test_what_tells_no_speed_is_not_told(facts: list[dict[str, str]], tmp_path: Path) -> None:
    assert modules_of(modules(tmp_path, *facts)) is None


def test_without_a_width_there_is_no_bandwidth(tmp_path: Path) -> None:
    found = modules_of(modules(tmp_path, LPDDR5, LPDDR5 | {"DATA_WIDTH": "garbage"}))
    assert found is not None and found.bandwidth_bytes_per_s is None


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    assert (product_of(tmp_path), bios_of(tmp_path), modules_of(tmp_path), npus_of(tmp_path)) == (None, None, None, ())
    assert gpu_firmware(tmp_path / "card0") is None


@pytest.mark.parametrize(
    ("vendor", "product", "said"),
    [
        ("ASUSTeK COMPUTER INC.", "ROG Flow Z13 GZ302EA", "ASUSTeK COMPUTER INC. ROG Flow Z13 GZ302EA"),
        ("Framework", "Framework Desktop", "Framework Desktop"),
        ("To Be Filled By O.E.M.", "System Product Name", None),
        ("GMKtec", "Default string", "GMKtec"),
    ],
)
def test_the_product(vendor: str, product: str, said: str | None, tmp_path: Path) -> None:
    write(tmp_path / "sys/class/dmi/id/sys_vendor", f"{vendor}\n")
    write(tmp_path / "sys/class/dmi/id/product_name", f"{product}\n")
    assert product_of(tmp_path) == said


def test_bios_npu_and_the_cards_firmware(tmp_path: Path) -> None:
    write(tmp_path / "sys/class/dmi/id/bios_version", "GZ302EA.309\n")
    write(tmp_path / "sys/class/dmi/id/bios_date", "07/15/2026\n")
    assert bios_of(tmp_path) == "GZ302EA.309 07/15/2026"
    (tmp_path / "sys/bus/pci/drivers/amdxdna").mkdir(parents=True)
    (tmp_path / "sys/class/accel/accel0/device").mkdir(parents=True)
    (tmp_path / "sys/class/accel/accel0/device/driver").symlink_to(tmp_path / "sys/bus/pci/drivers/amdxdna")
    assert npus_of(tmp_path) == ("AMD XDNA",)
    write(tmp_path / "sys/class/drm/card0/device/vbios_version", "113-STRXLGEN-001\n")
    assert gpu_firmware(tmp_path / "sys/class/drm/card0") == "113-STRXLGEN-001"
