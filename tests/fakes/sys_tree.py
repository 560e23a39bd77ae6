"""A tree of files as Linux shows a machine's processor, graphics cards and firmware."""

from __future__ import annotations

from pathlib import Path

Card = tuple[str, str, str, int | None]
"""PCI vendor, PCI device, driver, bytes of VRAM where the driver tells."""

AMD_APU = "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S"
INTEL_CPU = "Intel(R) Core(TM) Ultra 7 258V"
AMD_CARD: Card = ("0x1002", "0x1586", "amdgpu", 32 * 2**30)
NVIDIA_CARD: Card = ("0x10de", "0x2820", "nvidia", None)
INTEL_CARD: Card = ("0x8086", "0x64a0", "xe", None)
OLD_CARD: Card = ("0x1a03", "0x2000", "ast", None)

CARVEOUT_OPTIONS = """\
0: Minimum (512 MB)
1:  (1 GB)
2:  (2 GB)
3:  (4 GB)
4:  (6 GB)
5:  (8 GB)
6:  (12 GB)
7: Medium (16 GB)
8:  (24 GB)
9: High (32 GB)
"""
"""The example of the kernel's documents (drivers/gpu/drm/amd/amdgpu, "uma/carveout_options"), to the letter."""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine(root: Path, cpu: str, *cards: Card, carve_out: bool = False, boot: str = "b-1") -> Path:
    """``root`` filled with what stands for ``/``; ``carve_out``: a firmware that lets the system choose, on card0."""
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
        firmware(root)
    return root


def firmware(root: Path, options: str = CARVEOUT_OPTIONS, chosen: str = "9\n", card: int = 0) -> Path:
    """Has a card's firmware offer carve-outs; the folder ``uma``."""
    uma = root / f"sys/class/drm/card{card}/device/uma"
    write(uma / "carveout_options", options)
    write(uma / "carveout", chosen)
    return uma
