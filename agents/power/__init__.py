"""Power limits and profiles: one control a file, behind the Protocols in ``base``; ``holding`` is what every one goes
through. A new control: one file, and one entry here."""

from agents.power.amdgpu_cap import AMDGPU_CAP
from agents.power.base import Kind, ProfileKind
from agents.power.nvml import NVML
from agents.power.platform_profile import PLATFORM_PROFILE
from agents.power.pmset import PMSET
from agents.power.powerprofilesctl import POWERPROFILESCTL
from agents.power.rapl import RAPL
from agents.power.ryzenadj import RYZENADJ
from agents.power.xe_cap import XE_CAP

METHODS: tuple[Kind, ...] = (RYZENADJ, NVML, AMDGPU_CAP, XE_CAP, RAPL)
"""Every control of watts that this version knows, in the order in which they are tried: what holds a whole APU, then
graphics cards, then processors. Off unless the owner's device.yaml names it under ``allow: power``."""

PROFILES: tuple[ProfileKind, ...] = (PLATFORM_PROFILE, POWERPROFILESCTL, PMSET)
"""Every control of named profiles, likewise; they hold no watts."""
