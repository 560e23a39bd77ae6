"""The processes of a loaded engine: its session's, or those that run under the name of its program."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

from agents.contract.engines import facts_of


def engine_pids(engine: str, session: object) -> tuple[int, ...]:
    """Empty where it cannot be told: then nothing is said of the engine's own part."""
    own: tuple[int, ...] = tuple(getattr(session, "pids", ()))  # of sessions that started a process
    return own or _running(facts_of(engine).programs)


def _running(begins: tuple[str, ...]) -> tuple[int, ...]:
    if not begins:
        return ()
    return tuple(
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if names_program(process.info["name"] or "", process.info["cmdline"] or (), begins)
    )


def names_program(name: str, words: Iterable[str], begins: tuple[str, ...]) -> bool:
    """Whether a process is one of these programs: by its name, or by the folder of the script that it runs. PURE"""
    if name.lower().startswith(begins):
        return True
    script = next((word for word in list(words)[1:3] if word.endswith(".py")), "")
    return any(part.lower().startswith(begins) for part in script.replace("\\", "/").split("/"))
