"""One adapter a file, behind the Protocol in ``base``. A new engine: one file, and one line in ``engines_of``."""

from __future__ import annotations

from agents.device_file import DeviceFile
from agents.engines.base import Engine
from agents.engines.comfyui import ComfyUI
from agents.engines.embedded import Embedded
from agents.engines.ollama import Ollama


def engines_of(own: DeviceFile) -> tuple[Engine, ...]:
    """Adapters, told by the owner's ``device.yaml`` where their engines are."""
    return (Embedded(), Ollama(own.engine(Ollama.name)))
