"""Machines with the controls of power that real ones have, made of files, of small programs on the PATH, and of a
library that stands for NVML. What is set lies in files or in the library: it outlives every process, as hardware does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agents.power.methods import (
    amdgpu_cap,
    nvml,
    platform_profile,
    pmset,
    powerprofilesctl,
    rapl,
    ryzenadj,
    sysfs,
    xe_cap,
)
from agents.power.methods.base import PowerMethod, ProfileMethod
from tests.fakes.sys_tree import AMD_CARD, INTEL_CARD, machine, write

Own = Mapping[str, float | str]

RYZENADJ = """\
#!/bin/sh
cd {folder}
if [ "$1" = -i ]; then
  echo "PM Table Version: 64020c"
  [ -e notable ] && echo "Unable to init power metric table: -5" && exit 0
  echo "|        Name         |   Value   |     Parameter      |"
  for limit in stapm-limit fast-limit slow-limit; do
    printf '| %-19s | %9s | %-18s |\\n' X "$(cat $limit)" $limit
    printf '| %-19s | %9s | %-18s |\\n' VALUE 20.293 ""
  done
  printf '| %-19s | %9s | %-18s |\\n' StapmTimeConst nan stapm-time
  exit 0
fi
[ -e rejects ] && echo "set_fast_limit is rejected by SMU" && exit 255
for word in "$@"; do
  name=${{word%%=*}}; name=${{name#--}}; mw=${{word#*=}}
  [ -e deaf ] || printf '%d.%03d' $((mw / 1000)) $((mw % 1000)) >$name
  echo "Sucessfully set $name to $mw"
done
"""

POWERPROFILESCTL = """\
#!/bin/sh
cd {folder}
case "$1" in
get) cat profile ;;
set) [ -e denied ] && echo "Failed to communicate: Not authorized" >&2 && exit 1; printf '%s\\n' "$2" >profile ;;
list)
  for name in performance balanced power-saver; do
    mark=" "; [ "$name" = "$(cat profile)" ] && mark="*"
    printf '%s %s:\\n    CpuDriver:\\tamd_pstate\\n    Degraded:   no\\n\\n' "$mark" $name
  done ;;
esac
"""

PMSET = """\
#!/bin/sh
cd {folder}
if [ "$1 $2" = "-g custom" ]; then
  for source in "Battery Power" "AC Power"; do
    printf '%s:\\n Sleep On Power Button 1\\n powermode            %s\\n' "$source" "$(cat "$source")"
  done
elif [ "$1" = -g ]; then
  printf 'Currently in use:\\n standby              1\\n powermode            %s\\n' "$(cat "AC Power")"
else
  while [ $# -gt 0 ]; do
    [ "$1" = -c ] && source="AC Power" || source="Battery Power"
    printf '%s' "$3" >"$source"; shift 3
  done
fi
"""


def program(folder: Path, name: str, text: str, patch: pytest.MonkeyPatch) -> Path:
    """Puts a program first on the PATH; its state lies in the folder that comes back."""
    state, place = folder / f"{name}-state", folder / "bin"
    state.mkdir()
    place.mkdir(exist_ok=True)
    (place / name).write_text(text.format(folder=state))
    (place / name).chmod(0o755)
    patch.setenv("PATH", f"{place}:/usr/bin:/bin")
    return state


@dataclass
class Gpu:
    uuid: str
    limit_mw: int
    range_mw: tuple[int, int] = (100_000, 450_000)


@dataclass
class FakeNvml:
    """As much of pynvml as a limit needs; ``supported`` False: a laptop."""

    gpus: list[Gpu] = field(default_factory=list)
    root: bool = True
    supported: bool = True
    driver: bool = True

    class NVMLError(Exception):
        pass

    class NVMLError_NoPermission(NVMLError):
        pass

    def _may(self, allowed: bool, words: str) -> None:
        if not allowed:
            raise self.NVMLError(words)

    def nvmlInit(self) -> None:
        self._may(self.driver, "NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetPowerManagementLimit(self, gpu: Gpu) -> int:
        self._may(self.supported, "Not Supported")
        return gpu.limit_mw

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: Gpu) -> int:
        return gpu.limit_mw

    def nvmlDeviceGetPowerManagementLimitConstraints(self, gpu: Gpu) -> list[int]:
        return list(gpu.range_mw)

    def nvmlDeviceSetPowerManagementLimit(self, gpu: Gpu, limit_mw: int) -> None:
        if not self.root:
            raise self.NVMLError_NoPermission("Insufficient Permissions")
        gpu.limit_mw = limit_mw


@dataclass(frozen=True)
class Machine:
    """``stands``: what the hardware has, looked at without the method. ``writes``: by which its method sets it."""

    find: Callable[[float | None], PowerMethod | str]
    stands: Callable[[], Own]
    own: Own
    writes: tuple[Any, str]  # an object and the name of its function
    limits_w: tuple[float, float] = (40.0, 60.0)  # two that it takes

    def method(self, most_w: float | None = None) -> PowerMethod:
        found = self.find(most_w)
        assert not isinstance(found, str), found
        return found


@dataclass(frozen=True)
class Profiled:
    find: Callable[[], ProfileMethod | str]
    stands: Callable[[], Own]
    own: Own
    writes: tuple[Any, str]
    profiles: tuple[str, str]

    def method(self) -> ProfileMethod:
        found = self.find()
        assert not isinstance(found, str), found
        return found


def texts(*paths: Path) -> Callable[[], Own]:
    return lambda: {path.name: path.read_text().strip() for path in paths}


def ryzen(folder: Path, patch: pytest.MonkeyPatch) -> Machine:
    """An APU whose firmware set three different limits."""
    state = program(folder, "ryzenadj", RYZENADJ, patch)
    files = [state / name for name in ryzenadj.LIMITS]
    for path, text in zip(files, ("71.000", "85.500", "65.001"), strict=True):
        path.write_text(text)
    stands = texts(*files)
    return Machine(lambda most: ryzenadj.find(folder, most), stands, stands(), (ryzenadj, "output_of"))


def intel_cpu(folder: Path, patch: pytest.MonkeyPatch) -> Machine:
    """A laptop whose firmware leaves the limit to the memory-mapped registers."""
    powercap = folder / "sys/class/powercap"
    files = []
    for zone, long_w, short_w in (("intel-rapl:0", 200, 107), ("intel-rapl-mmio:0", 45, 90)):
        place = powercap / zone
        write(place / "name", "package-0\n")
        write(place / "enabled", "1\n")
        write(place / "constraint_0_max_power_uw", "55000000\n")
        names = ("long_term", "short_term", "peak_power")
        for index, (name, watts) in enumerate(zip(names, (long_w, short_w, 235), strict=True)):
            write(place / f"constraint_{index}_name", f"{name}\n")
            write(place / f"constraint_{index}_power_limit_uw", f"{watts}000000\n")
            files.append(place / f"constraint_{index}_power_limit_uw")
    for zone, name in (("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):  # limits that are none of a package
        write(powercap / zone / "name", f"{name}\n")
        write(powercap / zone / "constraint_0_name", "long_term\n")
        write(powercap / zone / "constraint_0_power_limit_uw", "0\n")

    def stands() -> Own:
        return {f"{path.parent.name}/{path.name}": path.read_text().strip() for path in files}

    return Machine(lambda most: rapl.find(folder, most), stands, stands(), (sysfs, "write_w"), (40.0, 30.0))


def hwmon(folder: Path, card: tuple[str, str, str, int | None], values_w: Mapping[str, float]) -> Path:
    machine(folder, "a processor", card)
    place = folder / "sys/class/drm/card0/device/hwmon/hwmon4"
    for name, watts in values_w.items():
        write(place / name, f"{round(watts * 1e6)}\n")
    return place


def amd_card(folder: Path, patch: pytest.MonkeyPatch) -> Machine:
    """The Steam Deck's two caps, with bounds as a card has them."""
    caps = {"power1_cap": 303.0, "power1_cap_min": 0.0, "power1_cap_max": 349.0, "power2_cap": 312.0}
    place = hwmon(folder, AMD_CARD, caps)
    stands = texts(place / "power1_cap", place / "power2_cap")
    return Machine(lambda most: amdgpu_cap.find(folder, most), stands, stands(), (sysfs, "write_w"))


def intel_card(folder: Path, patch: pytest.MonkeyPatch) -> Machine:
    values = {"power1_max": 190.0, "power1_rated_max": 190.0, "power2_max": 120.0, "power1_cap": 380.0}
    place = hwmon(folder, INTEL_CARD, values)
    stands = texts(*(place / name for name in ("power1_max", "power2_max", "power1_cap")))
    return Machine(lambda most: xe_cap.find(folder, most), stands, stands(), (sysfs, "write_w"))


def nvidia(folder: Path, patch: pytest.MonkeyPatch) -> Machine:
    """Two cards, one of which its owner had limited already."""
    library = FakeNvml([Gpu("GPU-a", 450_000), Gpu("GPU-b", 300_000)])

    def stands() -> Own:
        return {gpu.uuid: gpu.limit_mw for gpu in library.gpus}

    find = nvml.finder(lambda: library)
    writes = (library, "nvmlDeviceSetPowerManagementLimit")
    return Machine(lambda most: find(Path("/"), most), stands, stands(), writes, (150.0, 200.0))


def firmware_profile(folder: Path, patch: pytest.MonkeyPatch) -> Profiled:
    place = folder / "sys/firmware/acpi"
    write(place / "platform_profile_choices", "low-power balanced performance\n")
    write(place / "platform_profile", "balanced\n")
    stands = texts(place / "platform_profile")
    writes = (platform_profile.PlatformProfile, "write")
    return Profiled(lambda: platform_profile.find(folder), stands, stands(), writes, ("performance", "low-power"))


def daemon_profile(folder: Path, patch: pytest.MonkeyPatch) -> Profiled:
    state = program(folder, "powerprofilesctl", POWERPROFILESCTL, patch)
    (state / "profile").write_text("balanced\n")
    stands = texts(state / "profile")
    writes = (powerprofilesctl, "output_of")
    find = powerprofilesctl.find
    return Profiled(lambda: find(Path("/")), stands, stands(), writes, ("performance", "power-saver"))


def mac_profile(folder: Path, patch: pytest.MonkeyPatch) -> Profiled:
    """Low power on battery alone, as many have it."""
    state = program(folder, "pmset", PMSET, patch)
    (state / "AC Power").write_text("0")
    (state / "Battery Power").write_text("1")
    stands = texts(state / "AC Power", state / "Battery Power")
    return Profiled(lambda: pmset.find(Path("/")), stands, stands(), (pmset, "output_of"), ("high-power", "low-power"))


MACHINES = {
    "ryzenadj": ryzen,
    "rapl": intel_cpu,
    "amdgpu_cap": amd_card,
    "xe_cap": intel_card,
    "nvml": nvidia,
}
PROFILED = {"platform_profile": firmware_profile, "powerprofilesctl": daemon_profile, "pmset": mac_profile}
