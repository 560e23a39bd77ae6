from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.device import Device, EngineFound, Gpu, MemoryKind, StateSource
from agents.device.inventory import boot_id, cpu_name, device_id_of, drm_gpus, fingerprint_of, inventory, memory_kind
from agents.device_file import Stated, keep_stated
from agents.power.methods.base import MethodKind, ProfileKind
from tests.fakes.power_method import FakePower, FakeProfiles, kind_of
from tests.fakes.sys_tree import (
    AMD_APU,
    AMD_CARD,
    INTEL_CARD,
    INTEL_CPU,
    NVIDIA_CARD,
    OLD_CARD,
    Card,
    firmware,
    machine,
    write,
)

GIB = 2**30
ENGINE = EngineFound("embedded", "xllamacpp 1", ("cpu",), "PyPI package in this environment")


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
    cards: tuple[Card, ...],
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
        replace(device, power_limit_w=45.0),
        replace(device, ram_bytes=GIB),
        replace(device, cpu="other"),
        replace(device, engines=(replace(ENGINE, version="xllamacpp 2"),)),
        replace(device, engines=()),
        replace(device, agent_version="99"),
        replace(device, device_id=str(uuid.uuid4())),
    ]
    prints = [fingerprint_of(each) for each in changed]
    assert len({device.fingerprint, *prints}) == len(changed) + 1


def test_a_name_a_label_a_reboot_and_what_the_owner_allows_do_not(device: Device) -> None:
    for same in (
        replace(device, name="other"),
        replace(device, boot_id="b-2"),
        replace(device, labels=(("a", "b"),)),
        replace(device, sets_split=True),
        replace(device, power_methods=("fake",)),
        replace(device, fingerprint="x"),
    ):
        assert fingerprint_of(same) == device.fingerprint


def at(root: Path, *cards: Card, own: str = "", said: Stated | None = None) -> Device:
    """The device that a machine with these cards is, with this ``device.yaml`` and this word of the operator."""
    folder = root / "device"
    write(folder / "device.yaml", own)
    if said is not None:
        keep_stated(folder, said)
    return inventory(folder, [], machine(root / "at", AMD_APU if AMD_CARD in cards else INTEL_CPU, *cards))


OWN = "dedicated_vram: 8GiB\npower_limit: 45W\n"
SEEN, STATED = StateSource.SEEN, StateSource.STATED


@pytest.mark.parametrize(
    ("card", "own", "said", "split", "kind"),
    [
        (None, "", None, (None, None), MemoryKind.NONE),
        (None, OWN, None, (8 * GIB, STATED), MemoryKind.CARVE_OUT),
        (None, "", Stated(16 * GIB), (16 * GIB, STATED), MemoryKind.CARVE_OUT),
        (None, OWN, Stated(16 * GIB), (16 * GIB, STATED), MemoryKind.CARVE_OUT),
        (AMD_CARD, "", None, (32 * GIB, SEEN), MemoryKind.CARVE_OUT),
        (AMD_CARD, OWN, Stated(16 * GIB), (32 * GIB, SEEN), MemoryKind.CARVE_OUT),
        (INTEL_CARD, OWN, None, (8 * GIB, STATED), MemoryKind.UNIFIED),
        (INTEL_CARD, "memory: carve-out\n", None, (None, None), MemoryKind.CARVE_OUT),
        (NVIDIA_CARD, "", Stated(power_limit_w=80.0), (None, None), MemoryKind.DISCRETE),
    ],
)
def test_what_is_seen_counts_more_than_what_was_said_and_the_latest_word_more_than_the_file(
    tmp_path: Path,
    card: Card | None,
    own: str,
    said: Stated | None,
    split: tuple[int | None, StateSource | None],
    kind: MemoryKind,
) -> None:
    device = at(tmp_path, *filter(None, [card]), own=own, said=said)
    assert (device.dedicated_vram_bytes, device.split_source) == split
    assert device.memory_kind is kind


@pytest.mark.parametrize(
    ("own", "said", "power"),
    [
        ("", None, (None, None)),
        (OWN, None, (45.0, STATED)),
        (OWN, Stated(power_limit_w=80.0), (80.0, STATED)),
        ("", Stated(dedicated_vram_bytes=GIB), (None, None)),
    ],
)
def test_a_power_limit_is_what_was_said(
    tmp_path: Path, own: str, said: Stated | None, power: tuple[float | None, StateSource | None]
) -> None:
    device = at(tmp_path, own=own, said=said)
    assert (device.power_limit_w, device.power_source) == power


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("offered", [False, True])
def test_the_split_is_set_where_the_firmware_offers_it_and_the_owner_allows_it(
    tmp_path: Path, offered: bool, allowed: bool
) -> None:
    if offered:
        firmware(tmp_path / "at", "0: Minimum (512 MB)\n9: High (32 GB)\n")
    device = at(tmp_path, AMD_CARD, own=f"allow: {{set_dedicated_vram: {str(allowed).lower()}}}\n")
    assert device.carveout_options_bytes == ((GIB // 2, 32 * GIB) if offered else ())
    assert device.sets_split is (offered and allowed)


def test_power_methods_are_those_that_the_owner_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [kind_of(FakePower(name)) for name in ("one", "two", "three")]
    monkeypatch.setattr("agents.power.state.METHODS", (MethodKind("absent", lambda root, most_w: "not here"), *kinds))
    monkeypatch.setattr("agents.power.state.PROFILES", ())
    assert at(tmp_path).power_methods == ()
    assert at(tmp_path, own="allow: {power: [absent, two]}\n").power_methods == ("two",)
    assert at(tmp_path, own="allow: {power: [three, one]}\n").power_methods == ("one", "three")
    with pytest.raises(ValueError, match=r"allow\.power: 'four' is no method .* there is absent, one, two, three"):
        at(tmp_path, own="allow: {power: [one, four]}\n")


def test_a_limit_that_the_machine_shows_counts_more_than_a_stated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that shows one; nothing has to be allowed for it."""
    kinds = [
        replace(kind_of(FakePower(name)), look=look)
        for name, look in (("blind", lambda _: None), ("sees", lambda _: 60.0))
    ]
    monkeypatch.setattr("agents.power.state.METHODS", (kind_of(FakePower()), *kinds))
    device = at(tmp_path, own="power_limit: 45W\n")
    assert (device.power_limit_w, device.power_source, device.power_methods) == (60.0, SEEN, ())


@pytest.mark.parametrize("allowed", [True, False])
def test_a_profile_is_a_fact_and_is_chosen_only_where_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    profiles = FakeProfiles()
    kinds = (ProfileKind("absent", lambda root: "not here"), ProfileKind("fake-profile", lambda root: profiles))
    monkeypatch.setattr("agents.power.state.PROFILES", kinds)
    device = at(tmp_path, own="allow: {power: [fake-profile]}\n" if allowed else "")
    assert (device.power_profile, device.power_profiles) == ("balanced", profiles.names)
    assert device.sets_profile is allowed and device.power_methods == ()
    assert fingerprint_of(replace(device, power_profile="performance")) != device.fingerprint
    assert fingerprint_of(replace(device, power_profiles=(), sets_profile=not allowed)) == device.fingerprint


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
