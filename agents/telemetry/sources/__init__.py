"""Sources of readings: one a file, behind the Protocols in ``base``. A new one: a file and an entry."""

from __future__ import annotations

from agents.telemetry.sources.amdgpu import AmdGpuFinder
from agents.telemetry.sources.base import SourceFinder
from agents.telemetry.sources.battery import PowerSupplyFinder
from agents.telemetry.sources.cpu import CpuFinder
from agents.telemetry.sources.drm_fdinfo import DrmFdinfoFinder
from agents.telemetry.sources.intel import IntelGpuFinder
from agents.telemetry.sources.macmon import MacmonFinder
from agents.telemetry.sources.memory import MemoryFinder
from agents.telemetry.sources.nvml import NvmlFinder
from agents.telemetry.sources.psutil import PsutilFinder
from agents.telemetry.sources.rapl import RaplFinder
from agents.telemetry.sources.windows import WindowsFinder

SOURCES: tuple[SourceFinder, ...] = (
    *(CpuFinder(), MemoryFinder(), PsutilFinder(), RaplFinder(), PowerSupplyFinder()),
    *(AmdGpuFinder(), IntelGpuFinder(), DrmFdinfoFinder(), NvmlFinder(), WindowsFinder(), MacmonFinder()),
)
