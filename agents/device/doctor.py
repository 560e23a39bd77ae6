"""What an agent finds on this machine, and what not, why, and what to do about it. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agents.contract.device import Device, EngineFound
from agents.device.inventory import inventory
from agents.device_file import DEVICE_FILE, Allow, read_device_file
from agents.engines import engines_of
from agents.engines.base import Engine
from agents.errors import AgentError
from agents.power.methods import METHODS, PROFILES
from agents.telemetry.sampler import find
from agents.telemetry.sources import SOURCES
from agents.telemetry.sources.base import FollowsEngine, Missing


@dataclass(frozen=True, slots=True)
class EngineSeen:
    """``found`` is None where ``why`` says why the engine cannot be used here, and what to do."""

    name: str
    found: EngineFound | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class SensorSeen:
    """A source, and the quantities that it reads. Rates are among them, though they have no value before the second
    reading."""

    source: str
    quantities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ControlSeen:
    """A control of the machine's power. ``why`` says why it cannot be used; empty: it can, if it is ``allowed``."""

    name: str
    allowed: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """``device_file``: the path that is read for what only the owner knows; ``has_device_file``: it is there."""

    device_file: str
    has_device_file: bool
    device: Device
    engines: tuple[EngineSeen, ...]
    sensors: tuple[SensorSeen, ...]
    missing: tuple[Missing, ...]
    controls: tuple[ControlSeen, ...]


def examine(folder: Path, root: Path = Path("/")) -> Examined:
    """This machine, with the ``device.yaml`` in ``folder``. Raises ValueError where that file is not right."""
    own = read_device_file(folder)
    engines = look_for(engines_of(own))
    device = inventory(folder, found_of(engines))
    sensors, missing = sensors_of(root)
    path = folder / DEVICE_FILE
    return Examined(str(path), path.exists(), device, engines, sensors, missing, controls_of(own.allow, root))


def sensors_of(root: Path = Path("/")) -> tuple[tuple[SensorSeen, ...], tuple[Missing, ...]]:
    """The sources that are there, and what is missing. Takes as long as the drivers need to wake up."""

    sources, missing = find(SOURCES, root)
    found = []
    for source in sources:
        try:
            if isinstance(source, FollowsEngine):
                source.follow([os.getpid()])  # in an engine's place
            found.append(SensorSeen(source.name, tuple(str(quantity) for quantity, _ in source.read())))
        except Exception as error:  # a source must not; it is reported, and the others are read
            missing.append(Missing(source.name, f"{type(error).__name__}: {error}", "please report it"))
        finally:
            with suppress(Exception):
                source.close()
    return tuple(found), tuple(missing)


def controls_of(allow: Allow, root: Path) -> tuple[ControlSeen, ...]:
    """Each power method and profile that this version knows."""
    found = [
        *((kind.name, kind.find(root, allow.power_most)) for kind in METHODS),
        *((kind.name, kind.find(root)) for kind in PROFILES),
    ]
    return tuple(ControlSeen(name, name in allow.power, each if isinstance(each, str) else "") for name, each in found)


def look_for(engines: Iterable[Engine]) -> tuple[EngineSeen, ...]:
    """Each engine, asked at once: a server that does not answer costs its time once."""
    several = list(engines)
    with ThreadPoolExecutor(max_workers=max(len(several), 1)) as pool:
        return tuple(pool.map(_seen, several))


def found_of(engines: Sequence[EngineSeen]) -> list[EngineFound]:
    return [each.found for each in engines if each.found is not None]


def _seen(engine: Engine) -> EngineSeen:
    try:
        return EngineSeen(engine.name, engine.find())
    except AgentError as error:
        return EngineSeen(engine.name, None, error.detail)
