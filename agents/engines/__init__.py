"""One adapter a file, behind the Protocol in ``base``. A new engine: one file, and one line in ``engines_of``."""

from __future__ import annotations

from agents.device_file import DeviceFile
from agents.engines.base import Engine
from agents.engines.comfyui.adapter import ComfyUI
from agents.engines.lemonade.adapter import Lemonade
from agents.engines.llama.embedded import Embedded
from agents.engines.llama.running import LlamaRunning
from agents.engines.llama.server import LlamaServer
from agents.engines.lmstudio.adapter import LMStudio
from agents.engines.ollama.adapter import Ollama
from agents.engines.openai.adapter import OpenAIServer


def engines_of(own: DeviceFile) -> tuple[Engine, ...]:
    """Adapters, told by the owner's ``device.yaml`` where their engines are."""
    llama = own.engine(LlamaServer.name)
    return (
        Embedded(),
        LlamaRunning(llama) if llama.url else LlamaServer(llama),
        Ollama(own.engine(Ollama.name)),
        LMStudio(own.engine(LMStudio.name)),
        Lemonade(own.engine(Lemonade.name)),
        OpenAIServer(own.engine(OpenAIServer.name)),
        ComfyUI(own.engine(ComfyUI.name)),
    )
