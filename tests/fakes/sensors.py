"""Sensors as Linux shows them: small trees of files below what stands for ``/``, and a clock that is set by hand.

Names and units are those of the kernel's documents, named at each; the figures are made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agents.telemetry.sources.base import Quantity, Source
from tests.fakes.sys_tree import write

ALWAYS_EIO = Path("/proc/self/mem")
"""Opens well, and reading its start is an error of input and output."""


class Now:
    """Nanoseconds, put forward by hand."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def __call__(self) -> int:
        return self.ns

    def pass_s(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def read(source: Source) -> dict[Quantity, float | None]:
    """A reading by quantity; no quantity may come twice."""
    values = source.read()
    assert len(values) == len(dict(values))
    return dict(values)


def files(folder: Path, contents: Mapping[str, object]) -> Path:
    for name, content in contents.items():
        write(folder / name, f"{content}\n")
    return folder


def card(root: Path, driver: str, index: int = 0, slot: str = "0000:c5:00.0") -> Path:
    """``/sys/class/drm/cardN`` with its driver's link and its slot (uevent of any PCI device)."""
    folder = root / f"sys/class/drm/card{index}"
    write(folder / "device/uevent", f"DRIVER={driver}\nPCI_CLASS=38000\nPCI_SLOT_NAME={slot}\n")
    home = root / f"sys/bus/pci/drivers/{driver}"
    home.mkdir(parents=True, exist_ok=True)
    (folder / "device/driver").symlink_to(home)
    return folder


def amd_apu(root: Path, index: int = 0) -> Path:
    """Documentation/gpu/amdgpu/thermal.rst: an APU: no mclk, no junction, in1 is vddnb, power is the package's."""
    device = card(root, "amdgpu", index) / "device"
    files(
        device,
        {
            "gpu_busy_percent": 97,
            "mem_info_vram_total": 34359738368,
            "mem_info_vram_used": 20401094656,
            "mem_info_gtt_total": 16106127360,
            "mem_info_gtt_used": 268435456,
            "pp_dpm_sclk": "0: 600Mhz \n1: 2833Mhz *\n2: 2900Mhz ",
            "pp_dpm_mclk": "0: 400Mhz \n1: 937Mhz \n2: 1000Mhz *",
        },
    )
    hwmon = {"name": "amdgpu", "power1_label": "PPT", "power1_average": 68000000, "in1_label": "vddnb"}
    hwmon |= {"temp1_label": "edge", "temp1_input": 61000, "freq1_label": "sclk", "freq1_input": 2833000000}
    files(device / "hwmon/hwmon4", hwmon)
    return device


def amd_card(root: Path, index: int = 0) -> Path:
    """The same of a card with memory of its own."""
    device = card(root, "amdgpu", index, slot="0000:03:00.0") / "device"
    files(device, {"gpu_busy_percent": 12, "mem_busy_percent": 34, "mem_info_vram_used": 5, "mem_info_vram_total": 6})
    hwmon = {"name": "amdgpu", "power1_input": 142000000, "power1_cap": 203000000, "in0_label": "vddgfx"}
    for number, (label, millidegrees) in enumerate({"edge": 55000, "junction": 71000, "mem": 80000}.items(), start=1):
        hwmon |= {f"temp{number}_label": label, f"temp{number}_input": millidegrees}
    hwmon |= {"freq1_label": "sclk", "freq1_input": 2450000000, "freq2_label": "mclk", "freq2_input": 1124000000}
    files(device / "hwmon/hwmon2", hwmon)
    return device


def i915_gpu(root: Path) -> Path:
    """intel_gt_sysfs_pm.c, as of Linux 6.2: an integrated GPU has no hwmon."""
    folder = card(root, "i915", slot="0000:00:02.0")
    reasons = dict.fromkeys(("status", "pl1", "pl2", "pl4", "thermal", "prochot", "ratl", "vr_tdc"), 0)
    files(folder / "gt/gt0", {f"throttle_reason_{name}": flag for name, flag in reasons.items()})
    return files(folder / "gt/gt0", {"rps_act_freq_mhz": 1350, "rc6_residency_ms": 1000})


def xe_card(root: Path) -> Path:
    """xe_gt_freq.c, xe_gt_throttle.c, xe_gt_idle.c, sysfs-driver-intel-xe-hwmon: a card with memory of its own."""
    device = card(root, "xe", slot="0000:03:00.0") / "device"
    reasons = dict.fromkeys(("status", "reason_pl1", "reason_thermal", "reason_vr_tdc"), 0)
    files(device / "tile0/gt0/freq0/throttle", reasons)
    files(device / "tile0/gt0/freq0", {"act_freq": 2400})
    files(device / "tile0/gt0/gtidle", {"idle_residency_ms": 5000})
    hwmon: dict[str, object] = {"name": "xe", "energy1_input": 1000000, "energy2_input": 77, "power1_max": 150000000}
    hwmon |= {"temp2_label": "pkg", "temp2_input": 58000, "temp3_label": "vram", "temp3_input": 66000}
    files(device / "hwmon/hwmon5", hwmon)
    return device


def cpu(root: Path, cores: Mapping[int, int], sensor: Mapping[str, object]) -> None:
    """/proc/stat, cpufreq's kHz by core (Documentation/admin-guide/pm/cpufreq.rst), and a hwmon sensor's files."""
    write(root / "proc/stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 100 0 100 700 100 0 0 0 0 0\nintr 5\n")
    for core, khz in cores.items():
        write(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", f"{khz}\n")
    files(root / "sys/class/hwmon/hwmon0", {"name": "nvme", "temp1_input": 30000})
    files(root / "sys/class/hwmon/hwmon1", sensor)


def process(root: Path, pid: int, parent: int, ticks: int = 0, pages: int = 0, name: str = "llama server) x") -> Path:
    """``/proc/PID/stat``, fields 1 to 24 (man 5 proc_pid_stat)."""
    zeros = " 0" * 9
    text = f"{pid} ({name}) S {parent}{zeros} {ticks} 1{' 0' * 8} {pages}\n"
    write(root / f"proc/{pid}/stat", text)
    return root / f"proc/{pid}"


def gpu_descriptor(root: Path, pid: int, number: int, text: str, leads_to: str = "/dev/dri/renderD128") -> Path:
    """One open file of a process, and what the kernel tells of it."""
    link = root / f"proc/{pid}/fd/{number}"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(leads_to)
    path = root / f"proc/{pid}/fdinfo/{number}"
    write(path, text)
    return path


def rapl_zone(root: Path, zone: str, name: str, energy_uj: int, limit_uw: int | None = None) -> Path:
    """Documentation/power/powercap/powercap.rst; all zones stand flat in the class's folder."""
    folder = root / f"sys/class/powercap/{zone}"
    files(folder, {"name": name, "energy_uj": energy_uj, "max_energy_range_uj": 262143328850})
    if limit_uw is not None:
        files(folder, {"constraint_0_name": "long_term", "constraint_0_power_limit_uw": limit_uw})
    return folder
