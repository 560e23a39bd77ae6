"""What the device does while a job runs. One source a file, and one entry in SOURCES."""

from __future__ import annotations

from agents.telemetry.amdgpu import AmdGpus
from agents.telemetry.base import Kind
from agents.telemetry.battery import PowerSupplies
from agents.telemetry.cpu import CpuKind
from agents.telemetry.drm_fdinfo import DrmFdinfos
from agents.telemetry.elsewhere import Elsewhere
from agents.telemetry.intel import IntelGpus
from agents.telemetry.macmon import MacmonKind
from agents.telemetry.memory import MemoryKind
from agents.telemetry.nvml import NvmlKind
from agents.telemetry.rapl import RaplKind
from agents.telemetry.windows import WindowsKind

SOURCES: tuple[Kind, ...] = (
    *(CpuKind(), MemoryKind(), Elsewhere(), RaplKind(), PowerSupplies()),
    *(AmdGpus(), IntelGpus(), DrmFdinfos(), NvmlKind(), WindowsKind(), MacmonKind()),
)
