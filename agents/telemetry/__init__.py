"""What the device does while a job runs. One source a file, and one entry in SOURCES."""

from __future__ import annotations

from agents.telemetry.base import Kind

SOURCES: tuple[Kind, ...] = ()
