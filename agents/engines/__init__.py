"""One adapter a file, behind the Protocol in ``base``. A new engine: one file, and one entry in ENGINES."""

from __future__ import annotations

from agents.engines.base import Engine
from agents.engines.embedded import Embedded

ENGINES: tuple[Engine, ...] = (Embedded(),)
