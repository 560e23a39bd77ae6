"""GPUs on Windows, also from Linux under it (WSL2): busy engines and memory, as the Task Manager shows them.

A PowerShell started once asks Windows's own classes again and again and prints lines. ``typeperf`` and ``Get-Counter``
would not do: they look for their counters once, so an engine started later is not seen, and the names of counters are
translated on a Windows that is not English, while those of classes are the same everywhere. One source for all
adapters: the busiest counts, memory is summed.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.child_lines import ChildLines
from agents.telemetry.sources.files import first_line

_CLASS = "Win32_PerfFormattedData_GPUPerformanceCounters_"
SCRIPT = (
    "$ErrorActionPreference='Stop';"
    "while ($true) {"
    f" Get-CimInstance {_CLASS}GPUEngine -Property Name,UtilizationPercentage |"
    " Where-Object { $_.UtilizationPercentage -gt 0 } |"
    " ForEach-Object { [Console]::Out.WriteLine('E,{0},{1}' -f $_.Name, $_.UtilizationPercentage) };"
    f" Get-CimInstance {_CLASS}GPUAdapterMemory |"
    " ForEach-Object { [Console]::Out.WriteLine('M,{0},{1},{2}' -f $_.Name, $_.DedicatedUsage, $_.SharedUsage) };"
    " [Console]::Out.WriteLine('.'); [Console]::Out.Flush();"
    " Start-Sleep -Milliseconds 500 }"
)
_END = "."
_WHOLE = re.compile(r"\d{1,20}", re.ASCII)
_ENGINE = re.compile(r"(?:pid_\d+_)?(?P<engine>luid_\w+?_phys_\d+_eng_\d+)_engtype_(?P<type>.*)", re.IGNORECASE)
_TYPES = (  # the first that is part of the type's name counts: "High Priority Compute", "Compute 0", "VideoDecode"
    ("copy", Quantity.COPY_BUSY),
    ("compute", Quantity.COMPUTE_BUSY),
    ("3d", Quantity.GRAPHICS_BUSY),
    ("video", Quantity.VIDEO_BUSY),
)
_WORDS = (*(quantity for _, quantity in _TYPES), Quantity.GPU_BUSY)
_MEMORY = (Quantity.VRAM_USED, Quantity.GTT_USED)


def values_of(lines: Iterable[str]) -> list[Value]:
    """An engine is as busy as all processes keep it; a type, and the GPU, as its busiest engine. PURE

    Nothing is known where no adapter has counters of its memory: then Windows has no such counters.
    """
    engines: dict[tuple[str, str], float] = {}
    dedicated, shared, adapters = 0, 0, 0
    for line in lines:
        match line.split(","):
            case ["E", name, busy] if (found := _ENGINE.fullmatch(name)) and _WHOLE.fullmatch(busy):
                key = found["engine"].lower(), found["type"].lower()
                engines[key] = engines.get(key, 0.0) + int(busy)
            case ["M", _, in_vram, in_ram] if _WHOLE.fullmatch(in_vram) and _WHOLE.fullmatch(in_ram):
                dedicated, shared, adapters = dedicated + int(in_vram), shared + int(in_ram), adapters + 1
    if not adapters:
        return [(quantity, None) for quantity in (*_WORDS, *_MEMORY)]
    busiest = dict.fromkeys(_WORDS, 0.0)
    for (_, kind), busy_share in engines.items():
        word = next((quantity for part, quantity in _TYPES if part in kind), Quantity.GPU_BUSY)
        for quantity in (word, Quantity.GPU_BUSY):
            busiest[quantity] = max(busiest[quantity], min(100.0, busy_share))
    return [*busiest.items(), (Quantity.VRAM_USED, float(dedicated)), (Quantity.GTT_USED, float(shared))]


class WindowsGpus:
    name = "windows"

    def __init__(self, child: ChildLines) -> None:
        self._child = child
        self.at_ns: int | None = None

    def read(self) -> Sequence[Value]:
        sample = self._child.sample()
        self.at_ns = sample.at_ns if sample else None
        return values_of(sample.lines if sample else ())

    def close(self) -> None:
        self._child.close()


class WindowsFinder:
    """``argv``: the program and its arguments, where it is not to be looked for."""

    name = "windows"

    def __init__(self, argv: Sequence[str] = ()) -> None:
        self._argv = tuple(argv)

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        under_windows = "microsoft" in first_line(root / "proc/version").lower()
        if not (self._argv or under_windows or platform.system() == "Windows"):
            return (), (Missing(self.name, "no Windows, and no Linux under it"),)
        argv = self._argv or _powershell(root)
        if not argv:
            todo = "let WSL start Windows programs: [interop] enabled=true in /etc/wsl.conf"
            return (), (Missing(self.name, "powershell.exe is not found", todo),)
        try:
            return (WindowsGpus(ChildLines(argv, lambda line: line == _END)),), ()
        except OSError as error:
            return (), (Missing(self.name, f"{argv[0]} does not start: {error.strerror or error}"),)


def _powershell(root: Path) -> tuple[str, ...]:
    usual = root / "mnt/c/Windows/System32/WindowsPowerShell/v1.0/powershell.exe"
    program = shutil.which("powershell.exe") or (str(usual) if usual.exists() else None)
    return (program, "-NoProfile", "-NonInteractive", "-Command", SCRIPT) if program else ()
