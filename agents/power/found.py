"""The power methods and profiles of this machine, as far as its owner allows them and they are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.device_file import Allow
from agents.power import METHODS, PROFILES
from agents.power.base import PowerMethod, ProfileMethod


@dataclass(frozen=True, slots=True)
class PowerFound:
    """``missing``: what the owner allows and this machine does not have, ``NAME: why``.

    ``methods`` and ``profiles`` may be set; ``profile`` may be read, whether it may be set or not.
    """

    root: Path
    methods: tuple[PowerMethod, ...] = ()
    profiles: tuple[ProfileMethod, ...] = ()
    missing: tuple[str, ...] = ()
    profile: ProfileMethod | None = None

    def seen_w(self) -> float | None:
        """The limit that the machine shows to anybody: the first of METHODS that has one. Never raises."""
        looks = (kind.look for kind in METHODS if kind.look is not None)
        return next((watts for look in looks if (watts := look(self.root)) is not None), None)

    def profile_choices(self) -> tuple[str, ...]:
        """Of all controls that may be set; where none may, of the one that is read."""
        controls = self.profiles or (() if self.profile is None else (self.profile,))
        return tuple(dict.fromkeys(name for each in controls for name in each.choices()))

    def seen_profile(self) -> str | None:
        return None if self.profile is None else self.profile.profile()


def find_power(allow: Allow, root: Path) -> PowerFound:
    """Raises ValueError where the owner's file names a method that is none."""
    known = [*(kind.name for kind in METHODS), *(kind.name for kind in PROFILES)]
    for name in allow.power:
        if name not in known:
            raise ValueError(
                f"device.yaml: allow.power: {name!r} is no method to hold power; there is {', '.join(known)}"
            )
    missing = []
    methods: list[PowerMethod] = []
    for kind in METHODS:
        if kind.name in allow.power:
            method = kind.find(root, allow.power_most)
            if isinstance(method, str):
                missing.append(f"{kind.name}: {method}")
            else:
                methods.append(method)
    profiles: list[ProfileMethod] = []
    profile: ProfileMethod | None = None
    for each in PROFILES:
        allowed = each.name in allow.power
        if not allowed and profile is not None:
            continue
        found = each.find(root)
        if isinstance(found, str):
            missing += [f"{each.name}: {found}"] if allowed else []
            continue
        if allowed:
            profiles.append(found)
        profile = profile or found
    return PowerFound(root, tuple(methods), tuple(profiles), tuple(missing), profiles[0] if profiles else profile)
