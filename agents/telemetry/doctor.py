"""What telemetry this machine shows, and what not, why, and what to do about it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agents.telemetry.sources.base import FollowsEngine, Missing


@dataclass(frozen=True, slots=True)
class Readable:
    """A source, and what it tells; a rate has its first value with the second reading."""

    source: str
    quantities: tuple[str, ...]


def readable(root: Path = Path("/")) -> tuple[tuple[Readable, ...], tuple[Missing, ...]]:
    """The sources that are there, and what is missing. Takes as long as the drivers need to wake up."""
    from agents.telemetry import SOURCES
    from agents.telemetry.sampler import find

    sources, missing = find(SOURCES, root)
    found = []
    for source in sources:
        try:
            if isinstance(source, FollowsEngine):
                source.watch([os.getpid()])  # in an engine's place
            found.append(Readable(source.name, tuple(str(quantity) for quantity, _ in source.read())))
        except Exception as error:  # a source must not; it is told of, and the others are asked
            missing.append(Missing(source.name, f"{type(error).__name__}: {error}", "please report it"))
        finally:
            with suppress(Exception):
                source.close()
    return tuple(found), tuple(missing)
