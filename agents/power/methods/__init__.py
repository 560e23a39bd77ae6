"""Controls of power limits and profiles: one a file, behind the Protocols in ``base``. A new one: a file, an entry."""

from __future__ import annotations

from agents.power.methods.amdgpu_cap import AMDGPU_CAP
from agents.power.methods.base import MethodKind, ProfileKind
from agents.power.methods.nvml import NVML
from agents.power.methods.platform_profile import PLATFORM_PROFILE
from agents.power.methods.pmset import PMSET
from agents.power.methods.powerprofilesctl import POWERPROFILESCTL
from agents.power.methods.rapl import RAPL
from agents.power.methods.ryzenadj import RYZENADJ
from agents.power.methods.xe_cap import XE_CAP

METHODS: tuple[MethodKind, ...] = (RYZENADJ, NVML, AMDGPU_CAP, XE_CAP, RAPL)
"""Every control of watts that this version knows, in the order in which they are tried: what holds a whole APU, then
graphics cards, then processors. Off unless the owner's device.yaml names it under ``allow: power``."""

PROFILES: tuple[ProfileKind, ...] = (PLATFORM_PROFILE, POWERPROFILESCTL, PMSET)
"""Every control of named profiles, likewise; they hold no watts."""
