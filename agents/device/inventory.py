"""What this machine is: identity, CPU, memory, GPUs, engines. Reads files and psutil; runs nothing on a GPU."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import socket
import uuid
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import psutil
from filelock import FileLock

from agents.contract.device import Device, EngineFound, Gpu, MemoryKind, StateSource
from agents.device.bandwidth import peak_bandwidth
from agents.device.carveout import options_of
from agents.device.firmware import Modules, bios_of, gpu_firmware, modules_of, npus_of, product_of
from agents.device_file import Stated, read_device_file, read_stated
from agents.files import write_atomic
from agents.nvidia import NvidiaCard, nvidia_cards
from agents.power.state import PowerControls, find_power

VENDORS = {"0x1002": "amd", "0x10de": "nvidia", "0x8086": "intel"}


def device_id_of(folder: Path) -> str:
    """The UUID in ``device-id``, made on first use and never changed after. Raises ValueError where it holds none."""
    path = folder / "device-id"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "device-id.lock"):
        if not path.exists():
            write_atomic(path, str(uuid.uuid4()))
    text = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise ValueError(f"{path} should hold a UUID and holds {text[:60]!a}: delete it for a new one") from error


def inventory(
    folder: Path, engines: Iterable[EngineFound], sys_root: Path = Path("/"), power: PowerControls | None = None
) -> Device:
    """This machine as a Device; ``sys_root`` stands for ``/`` so that recorded trees can be read.

    Raises ValueError where ``device.yaml`` is not right.
    """
    own = read_device_file(folder)
    stated = read_stated(folder, own)
    nvidia = nvidia_cards() if sys_root == Path("/") else ()  # a recorded machine has no driver to ask
    gpus = with_nvidia(drm_gpus(sys_root), nvidia)
    kind = own.memory or memory_kind(gpus, sys_root)
    if kind is MemoryKind.NONE and stated.dedicated_vram_bytes is not None:
        kind = MemoryKind.CARVE_OUT  # Linux under Windows, say: the operator knows what nothing here shows
    split, split_source = _split(kind, gpus, stated)
    power = power or find_power(own.allow, sys_root)
    limit_w, limit_source = _power_limit(power, stated)
    modules = modules_of(sys_root)
    options = tuple(option.size_bytes for option in options_of(sys_root))
    device = replace(
        _machine(device_id_of(folder), own.name or socket.gethostname(), kind, gpus, sys_root),
        dedicated_vram_bytes=split,
        split_source=split_source,
        power_limit_w=limit_w,
        power_source=limit_source,
        memory_bandwidth_bytes_per_s=own.memory_bandwidth or _bandwidth(kind, gpus, nvidia, modules, sys_root),
        ram_modules=modules.words if modules else None,
        carveout_options_bytes=options,
        sets_split=bool(options) and own.allow.set_dedicated_vram,
        power_methods=tuple(method.name for method in power.methods),
        power_profile=power.seen_profile(),
        power_profiles=power.profile_choices(),
        sets_profile=bool(power.profiles),
        labels=tuple(sorted(own.labels.items())),
        engines=tuple(engines),
    )
    return replace(device, fingerprint=fingerprint_of(device))


def _machine(device_id: str, name: str, kind: MemoryKind, gpus: tuple[Gpu, ...], root: Path) -> Device:
    """Hardware, firmware and system, before anything that the owner allows or the operator states."""
    return Device(
        device_id=device_id,
        name=name,
        boot_id=boot_id(root),
        os=_os_name(),
        kernel=platform.release(),
        arch=platform.machine(),
        cpu=cpu_name(root),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count(logical=True),
        ram_bytes=psutil.virtual_memory().total,
        memory_kind=kind,
        product=product_of(root),
        bios=bios_of(root),
        npus=npus_of(root),
        gpus=gpus,
        python=platform.python_version(),
        agent_version=importlib.metadata.version("orchestrate-bench"),
    )


def _bandwidth(
    kind: MemoryKind, gpus: tuple[Gpu, ...], nvidia: tuple[NvidiaCard, ...], modules: Modules | None, root: Path
) -> float | None:
    """Of the fastest memory: what NVIDIA's driver reports, the makers' figures, what the modules add up to."""
    if kind is MemoryKind.DISCRETE:
        by_name = {card.gpu.name: card.bandwidth_bytes_per_s for card in nvidia}
        cards = [by_name.get(gpu.name) or peak_bandwidth([gpu.name]) for gpu in gpus]
        return None if None in cards else max(filter(None, cards), default=None)
    return peak_bandwidth([cpu_name(root)]) or (modules.bandwidth_bytes_per_s if modules else None)


def with_nvidia(gpus: tuple[Gpu, ...], nvidia: tuple[NvidiaCard, ...]) -> tuple[Gpu, ...]:
    """The kernel's list, with what NVIDIA's driver says of its cards; those that the kernel does not show come last.

    PURE
    """
    of_driver = [card.gpu for card in nvidia]
    merged = [of_driver.pop(0) if gpu.vendor == "nvidia" and of_driver else gpu for gpu in gpus]
    return (*merged, *of_driver)


def _split(kind: MemoryKind, gpus: tuple[Gpu, ...], stated: Stated) -> tuple[int | None, StateSource | None]:
    """What the machine shows counts more than what the operator states; a card's own memory is no split."""
    seen = next((gpu.vram_bytes for gpu in gpus if gpu.vram_bytes), None)
    if seen is not None and kind is MemoryKind.CARVE_OUT:
        return seen, StateSource.SEEN
    stated_bytes = stated.dedicated_vram_bytes
    return stated_bytes, None if stated_bytes is None else StateSource.STATED


def _power_limit(power: PowerControls, stated: Stated) -> tuple[float | None, StateSource | None]:
    """As with the split: what the machine shows counts more than what the operator states."""
    seen_w = power.seen_w()
    if seen_w is not None:
        return seen_w, StateSource.SEEN
    return stated.power_limit_w, None if stated.power_limit_w is None else StateSource.STATED


def fingerprint_of(device: Device) -> str:
    """Hash of all that can change a figure: the same machine after a driver update is another fingerprint. PURE"""
    named = replace(device, fingerprint="", boot_id="", name="", labels=())
    facts = asdict(replace(named, sets_split=False, power_methods=(), power_profiles=(), sets_profile=False))
    return hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]


def boot_id(sys_root: Path) -> str:
    """Differs after each boot."""
    path = sys_root / "proc/sys/kernel/random/boot_id"
    return path.read_text().strip() if path.exists() else f"boot-{int(psutil.boot_time())}"


def cpu_name(sys_root: Path) -> str:
    path = sys_root / "proc/cpuinfo"
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def drm_gpus(sys_root: Path) -> tuple[Gpu, ...]:
    """GPUs that the kernel's DRM subsystem knows, in the order of their cards."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return (Gpu(name="Apple GPU", vendor="apple"),)
    found = []
    cards = (sys_root / "sys/class/drm").glob("card[0-9]*")
    for card in sorted(cards, key=lambda each: (len(each.name), each.name)):  # card2 before card10
        if "-" in card.name or not (card / "device/vendor").exists():
            continue
        vendor = _text(card / "device/vendor")
        driver = card / "device/driver"
        vram = _text(card / "device/mem_info_vram_total")
        name = _text(card / "device/product_name") or f"{VENDORS.get(vendor, vendor)} {_text(card / 'device/device')}"
        found.append(
            Gpu(
                name=name,
                vendor=VENDORS.get(vendor, vendor),
                driver=driver.resolve().name if driver.exists() else None,
                vram_bytes=int(vram) if vram.isdigit() else None,
                firmware=gpu_firmware(card),
            )
        )
    return tuple(found)


def memory_kind(gpus: tuple[Gpu, ...], sys_root: Path) -> MemoryKind:
    """How the first GPU gets its memory. An AMD APU is known by its firmware's carve-out or its CPU's name."""
    if not gpus:
        return MemoryKind.NONE
    if gpus[0].vendor == "apple":
        return MemoryKind.UNIFIED
    carve_out = any((sys_root / "sys/class/drm").glob("card[0-9]*/device/uma/carveout"))
    if carve_out or (gpus[0].vendor == "amd" and len(gpus) == 1 and "Radeon" in cpu_name(sys_root)):
        return MemoryKind.CARVE_OUT
    return MemoryKind.UNIFIED if gpus[0].vendor == "intel" else MemoryKind.DISCRETE


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _os_name() -> str:
    if platform.system() == "Linux":
        try:
            return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
        except OSError:
            return "Linux"
    return f"{platform.system()} {platform.release()}"
