"""What the device does while a job runs. One source a file, and one entry in SOURCES."""

from __future__ import annotations

from agents.telemetry.sources.amdgpu import AmdGpus
from agents.telemetry.sources.base import Kind
from agents.telemetry.sources.battery import PowerSupplies
from agents.telemetry.sources.cpu import CpuKind
from agents.telemetry.sources.drm_fdinfo import DrmFdinfos
from agents.telemetry.sources.elsewhere import Elsewhere
from agents.telemetry.sources.intel import IntelGpus
from agents.telemetry.sources.macmon import MacmonKind
from agents.telemetry.sources.memory import MemoryKind
from agents.telemetry.sources.nvml import NvmlKind
from agents.telemetry.sources.rapl import RaplKind
from agents.telemetry.sources.windows import WindowsKind

SOURCES: tuple[Kind, ...] = (
    *(CpuKind(), MemoryKind(), Elsewhere(), RaplKind(), PowerSupplies()),
    *(AmdGpus(), IntelGpus(), DrmFdinfos(), NvmlKind(), WindowsKind(), MacmonKind()),
)
