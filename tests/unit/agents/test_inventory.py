from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.device import Device, EngineFound, Gpu, MemoryKind
from agents.inventory import (
    boot_id,
    cpu_name,
    device_id_of,
    drm_gpus,
    fingerprint_of,
    inventory,
    memory_kind,
    read_device_file,
)

AMD_APU = "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S"
INTEL_CPU = "Intel(R) Core(TM) Ultra 7 258V"
GIB = 2**30
ENGINE = EngineFound("embedded", "xllamacpp 1", ("cpu",), "PyPI package in this environment")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine(
    root: Path, cpu: str, *cards: tuple[str, str, str, int | None], carve_out: bool = False, boot: str = "b-1"
) -> Path:
    """A tree as Linux has it. ``cards``: PCI vendor, PCI device, driver, bytes of VRAM where the driver tells."""
    write(root / "proc/cpuinfo", f"processor\t: 0\nvendor_id\t: x\nmodel name\t: {cpu}\nprocessor\t: 1\n")
    write(root / "proc/sys/kernel/random/boot_id", f"{boot}\n")
    drm = root / "sys/class/drm"
    drm.mkdir(parents=True, exist_ok=True)
    write(drm / "version", "drm 1.1.0 20060810\n")
    for index, (vendor, device, driver, vram) in enumerate(cards):
        device_dir = drm / f"card{index}/device"
        write(device_dir / "vendor", f"{vendor}\n")
        write(device_dir / "device", f"{device}\n")
        write(drm / f"card{index}-eDP-1/status", "connected\n")  # an output of the card, not a card
        write(drm / f"renderD{128 + index}/dev", "226:128\n")
        (root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True)
        (device_dir / "driver").symlink_to(root / f"sys/bus/pci/drivers/{driver}")
        if vram is not None:
            write(device_dir / "mem_info_vram_total", f"{vram}\n")
        if carve_out:
            write(device_dir / "uma/carveout", "3\n")
    return root


AMD_CARD = ("0x1002", "0x1586", "amdgpu", 32 * GIB)
NVIDIA_CARD = ("0x10de", "0x2820", "nvidia", None)
INTEL_CARD = ("0x8086", "0x64a0", "xe", None)
OLD_CARD = ("0x1a03", "0x2000", "ast", None)


@pytest.mark.parametrize(
    ("cpu", "cards", "carve_out", "gpus", "kind"),
    [
        (AMD_APU, (AMD_CARD,), True, (Gpu("amd 0x1586", "amd", "amdgpu", 32 * GIB),), MemoryKind.CARVE_OUT),
        (AMD_APU, (AMD_CARD,), False, (Gpu("amd 0x1586", "amd", "amdgpu", 32 * GIB),), MemoryKind.CARVE_OUT),
        (
            "AMD Ryzen 9 9950X 16-Core Processor",
            (AMD_CARD,),
            False,
            (Gpu("amd 0x1586", "amd", "amdgpu", 32 * GIB),),
            MemoryKind.DISCRETE,
        ),
        (INTEL_CPU, (NVIDIA_CARD,), False, (Gpu("nvidia 0x2820", "nvidia", "nvidia"),), MemoryKind.DISCRETE),
        (INTEL_CPU, (INTEL_CARD,), False, (Gpu("intel 0x64a0", "intel", "xe"),), MemoryKind.UNIFIED),
        (INTEL_CPU, (OLD_CARD,), False, (Gpu("0x1a03 0x2000", "0x1a03", "ast"),), MemoryKind.DISCRETE),
        (INTEL_CPU, (), False, (), MemoryKind.NONE),
    ],
)
def test_gpus_and_how_they_get_their_memory(
    tmp_path: Path,
    cpu: str,
    cards: tuple[tuple[str, str, str, int | None], ...],
    carve_out: bool,
    gpus: tuple[Gpu, ...],
    kind: MemoryKind,
) -> None:
    root = machine(tmp_path, cpu, *cards, carve_out=carve_out)
    assert drm_gpus(root) == gpus
    assert memory_kind(gpus, root) is kind
    assert cpu_name(root) == cpu


def test_two_cards_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    cards = (INTEL_CARD, NVIDIA_CARD, *[OLD_CARD] * 8, AMD_CARD)
    root = tmp_path
    for index, card in enumerate(cards):
        one = machine(tmp_path / f"at{index}", INTEL_CPU, card)
        (root / "sys/class/drm").mkdir(parents=True, exist_ok=True)
        (one / "sys/class/drm/card0").rename(root / f"sys/class/drm/card{index}")
    assert [gpu.vendor for gpu in drm_gpus(root)] == ["intel", "nvidia", *["0x1a03"] * 8, "amd"]


def test_a_machine_without_these_files(tmp_path: Path) -> None:
    assert drm_gpus(tmp_path) == ()
    assert boot_id(tmp_path).startswith("boot-")
    assert cpu_name(tmp_path)


def test_a_device(tmp_path: Path) -> None:
    root, folder = machine(tmp_path / "root", AMD_APU, AMD_CARD, carve_out=True), tmp_path / "device"
    folder.mkdir()
    (folder / "device.yaml").write_text("name: bosgame\nlabels: {desk: left, cooling: stock}\n")
    device = inventory(folder, [ENGINE], root)
    assert device.name == "bosgame"
    assert device.labels == (("cooling", "stock"), ("desk", "left"))
    assert (device.boot_id, device.cpu, device.memory_kind) == ("b-1", AMD_APU, MemoryKind.CARVE_OUT)
    assert device.dedicated_vram_bytes == 32 * GIB
    assert device.engines == (ENGINE,)
    assert device.ram_bytes > 0 and device.python and device.agent_version and device.kernel
    assert device.fingerprint == fingerprint_of(device)
    assert inventory(folder, [ENGINE], root) == device


def test_without_a_device_file_the_host_names_the_device(tmp_path: Path) -> None:
    device = inventory(tmp_path / "new", [], machine(tmp_path / "root", INTEL_CPU))
    assert device.name and device.labels == () and device.dedicated_vram_bytes is None


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return inventory(tmp_path / "d", [ENGINE], machine(tmp_path / "root", AMD_APU, AMD_CARD))


def test_what_can_change_a_figure_changes_the_fingerprint(device: Device) -> None:
    (gpu,) = device.gpus
    changed = [
        replace(device, kernel="6.99.0"),
        replace(device, gpus=(replace(gpu, driver="other"),)),
        replace(device, gpus=(replace(gpu, vram_bytes=GIB),)),
        replace(device, dedicated_vram_bytes=GIB),
        replace(device, ram_bytes=GIB),
        replace(device, cpu="other"),
        replace(device, engines=(replace(ENGINE, version="xllamacpp 2"),)),
        replace(device, engines=()),
        replace(device, agent_version="99"),
        replace(device, device_id=str(uuid.uuid4())),
    ]
    prints = [fingerprint_of(each) for each in changed]
    assert len({device.fingerprint, *prints}) == len(changed) + 1


def test_a_name_a_label_and_a_reboot_do_not(device: Device) -> None:
    for same in (
        replace(device, name="other"),
        replace(device, boot_id="b-2"),
        replace(device, labels=(("a", "b"),)),
        replace(device, fingerprint="x"),
    ):
        assert fingerprint_of(same) == device.fingerprint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nam: x\n", "nam"),
        ("name: [a]\n", "name"),
        ("labels: {desk: [1]}\n", "labels.desk"),
        ("- a\n", "device.yaml"),
        ("just words\n", "device.yaml"),
        ("a: b: c\n", "device.yaml"),
        ("name: 'open\n", "device.yaml"),
        ("\x00", "device.yaml"),
    ],
)
def test_a_bad_device_file_is_told_with_its_name_and_what_is_allowed(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "device.yaml").write_text(text)
    with pytest.raises(ValueError, match="Allowed keys: name, labels") as caught:
        read_device_file(tmp_path)
    assert str(tmp_path / "device.yaml") in str(caught.value)
    assert words in str(caught.value)


def test_a_device_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "device.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ValueError, match="Allowed keys"):
        read_device_file(tmp_path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n"])
def test_an_empty_device_file_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "device.yaml").write_text(text)
    assert read_device_file(tmp_path).name is None


def test_the_devices_id_is_made_once(tmp_path: Path) -> None:
    first = device_id_of(tmp_path / "d")
    assert str(uuid.UUID(first)) == first
    assert device_id_of(tmp_path / "d") == first
    assert device_id_of(tmp_path / "other") != first


def test_first_use_by_many_at_once_makes_one_id(tmp_path: Path) -> None:
    found: list[str] = []
    together = threading.Barrier(8)

    def use() -> None:
        together.wait()
        found.append(device_id_of(tmp_path / "d"))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


@pytest.mark.parametrize("text", ["", "not a uuid", "\x00\x00"])
def test_a_damaged_id_is_told_and_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "device-id").write_text(text)
    with pytest.raises(ValueError, match="should hold a UUID") as caught:
        device_id_of(tmp_path)
    assert str(tmp_path / "device-id") in str(caught.value)
    assert (tmp_path / "device-id").read_text() == text
