"""One folder an engine, behind the Protocol in ``base``; the list of them is ``agents.contract.engines.ENGINES``."""

from __future__ import annotations

from pkgutil import resolve_name

from agents.contract.engines import ENGINES
from agents.device_file import DeviceFile
from agents.engines.base import Engine


def engines_of(device_file: DeviceFile) -> tuple[Engine, ...]:
    """An adapter of each engine, made from its entry in the owner's ``device.yaml``."""
    return tuple(resolve_name(facts.adapter)(device_file.engine(facts.name)) for facts in ENGINES)
