"""The engines, one line each: what the coordinator and the rest of a device need to know of them. PURE

A new engine is a folder (or one file) under ``agents/engines/`` with its adapter, one line here, and one entry in
``tests/contract/test_engine_adapters.py`` (and a column and a page in ``docs/engines``). The matrix takes its name,
``device.yaml`` its section, telemetry its programs, and a plan its files from the line here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """``adapter``: ``module:callable`` that makes the adapter from the engine's entry in ``device.yaml``. It is text,
    since the coordinator reads this file too, and must not import what drives an engine.

    ``programs``: what the names of its processes, or of the script or folder that Python runs, begin with, in lower
    case. Empty where telemetry cannot know: the engine may be anything, or on another machine.
    """

    name: str  # in matrices, in device.yaml and in results
    adapter: str
    programs: tuple[str, ...] = ()
    takes_files: bool = False  # of the device's store; other engines hold models of their own
    has_catalogue: bool = True  # knows models by names of its own


_LM_STUDIO = ("lm studio", "lm-studio", "lmstudio", "llmster")

ENGINES: tuple[EngineFacts, ...] = (
    EngineFacts("embedded", "agents.engines.llama.embedded:Embedded", takes_files=True, has_catalogue=False),
    EngineFacts("llama-server", "agents.engines.llama.server:llama_server", ("llama-server",), takes_files=True),
    EngineFacts("lmstudio", "agents.engines.lmstudio.adapter:LMStudio", _LM_STUDIO),
    EngineFacts("ollama", "agents.engines.ollama.adapter:Ollama", ("ollama",)),
    EngineFacts("lemonade", "agents.engines.lemonade.adapter:Lemonade", ("lemonade", "lemond")),
    EngineFacts("openai", "agents.engines.openai.adapter:OpenAIServer"),
    EngineFacts("comfyui", "agents.engines.comfyui.adapter:ComfyUI", ("comfyui",)),
)


def engine_names() -> tuple[str, ...]:
    return tuple(facts.name for facts in ENGINES)


def facts_of(name: str) -> EngineFacts:
    """Of an engine without a line here, such as one of another version's job: nothing is known but its name."""
    return next((facts for facts in ENGINES if facts.name == name), EngineFacts(name, adapter=""))
