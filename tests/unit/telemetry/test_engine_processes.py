"""Which processes are an engine's, and which one disturbs."""

from __future__ import annotations

import os
import threading

import pytest

from agents.telemetry.processes import busiest_other, engine_pids, names_program


@pytest.mark.parametrize(
    ("name", "words", "begins", "is_it"),
    [
        ("ollama", ("/usr/bin/ollama", "serve"), ("ollama",), True),
        ("ollama.exe", (), ("ollama",), True),
        ("LM Studio Helper", (), ("lm studio",), True),
        ("python3", ("python3", "/opt/ComfyUI/main.py"), ("comfyui",), True),
        ("python3", ("python3", "-s", "C:\\ComfyUI\\main.py"), ("comfyui",), True),
        ("python3", ("python3", "-m", "http.server", "comfyui"), ("comfyui",), False),
        ("vim", ("vim", "ollama.txt"), ("ollama",), False),
        ("", (), ("ollama",), False),
    ],
)
def test_names(name: str, words: tuple[str, ...], begins: tuple[str, ...], is_it: bool) -> None:
    assert names_program(name, words, begins) is is_it


def test_a_sessions_own_processes_count_first() -> None:
    class Session:
        pids = (4711,)

    assert engine_pids("ollama", Session()) == (4711,)
    assert engine_pids("openai", object()) == ()


def test_who_disturbs_is_another_process() -> None:
    found = busiest_other(threading.Event().wait)
    assert found is None or f" {os.getpid()}," not in found
