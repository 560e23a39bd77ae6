"""Apple Silicon, by the program ``macmon pipe``: GPU, power and temperatures without root.

Keys as in macmon's readme of 2026, an object a line. Its older versions have ``gpu_usage`` instead, which is scaled by
the clock and so no busy share: GPU_BUSY is then not known. CPU and RAM come from psutil.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.child_lines import ChildLines

INTERVAL_MS = 200

_KEYS: tuple[tuple[Quantity, tuple[str, ...], float], ...] = (
    (Quantity.GPU_BUSY, ("gpu_active_ratio",), 100),
    (Quantity.GPU_CLOCK, ("gpu_freq_mhz",), 1e6),
    (Quantity.CPU_CLOCK_TOP, ("pcpu_freq_mhz",), 1e6),
    (Quantity.GPU_POWER, ("gpu_power",), 1),
    (Quantity.PACKAGE_POWER, ("all_power",), 1),  # CPU, GPU and neural engine; RAM is not in it
    (Quantity.SYSTEM_POWER, ("sys_power",), 1),
    (Quantity.CPU_TEMPERATURE, ("temp", "cpu_temp_avg"), 1),
    (Quantity.GPU_TEMPERATURE, ("temp", "gpu_temp_avg"), 1),
)
_ZERO_IS_NONE = (Quantity.SYSTEM_POWER, Quantity.CPU_TEMPERATURE, Quantity.GPU_TEMPERATURE)  # no such sensor


def values_of(line: str) -> list[Value]:
    """PURE"""
    try:
        sample = json.loads(line)
    except ValueError:
        sample = None
    values: list[Value] = []
    for quantity, path, scale in _KEYS:
        number = _number(sample, path)
        absent = number is None or (number == 0 and quantity in _ZERO_IS_NONE)
        values.append((quantity, None if number is None or absent else number * scale))
    return values


def _number(sample: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        sample = sample.get(key) if isinstance(sample, dict) else None
    if isinstance(sample, bool) or not isinstance(sample, int | float) or not -1e30 < sample < 1e30:  # nor NaN
        return None
    return float(sample)


class Macmon:
    name = "macmon"
    averages_power: Literal[True] = True

    def __init__(self, child: ChildLines) -> None:
        self._child = child
        self.at_ns: int | None = None

    def read(self) -> Sequence[Value]:
        sample = self._child.sample()
        self.at_ns = sample.at_ns if sample else None
        return values_of(sample.lines[-1] if sample else "")

    def close(self) -> None:
        self._child.close()


class MacmonFinder:
    """``argv``: the program and its arguments, where it is not to be looked for."""

    name = "macmon"

    def __init__(self, argv: Sequence[str] = ()) -> None:
        self._argv = tuple(argv)

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:  # noqa: ARG002 no files are read
        if not self._argv and (platform.system(), platform.machine()) != ("Darwin", "arm64"):
            return (), (Missing(self.name, "no Apple Silicon"),)
        program = shutil.which("macmon")
        argv = self._argv or ((program, "pipe", "-s", "0", "-i", str(INTERVAL_MS)) if program else ())
        if not argv:
            return (), (Missing(self.name, "the program macmon is not installed", "brew install macmon"),)
        try:
            return (Macmon(ChildLines(argv, lambda line: line.startswith("{"))),), ()
        except OSError as error:
            return (), (Missing(self.name, f"{argv[0]} does not start: {error.strerror or error}"),)
