"""Which processes are a loaded engine's, and which other one uses most CPU: by psutil, outside of measured time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

from agents.contract.engines import facts_of

LOOK_S = 0.3  # in which the CPU time of each process is compared


def engine_pids(engine: str, session: object) -> tuple[int, ...]:
    """Those that its session started, else those that run under the name of its program.

    Empty where neither is known: then the engine's own part is not read.
    """
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


def busiest_other(pause: Callable[[float], object]) -> str | None:
    """The process, not ours, that uses most CPU just now: ``cc1plus 4711, 0.9 cores``; None where none stands out.

    Looks at every process twice, which takes tens of milliseconds beside the ``pause``.
    """
    ours = {psutil.Process().pid}
    with suppress(psutil.Error):
        ours |= {child.pid for child in psutil.Process().children(recursive=True)}
    before = {process: _cpu_s(process) for process in psutil.process_iter() if process.pid not in ours}
    pause(LOOK_S)
    used = {process: _cpu_s(process) - then_s for process, then_s in before.items()}
    process = max(used, key=lambda each: used[each], default=None)
    if process is None or used[process] <= 0:
        return None
    with suppress(psutil.Error):
        return f"{process.name()} {process.pid}, {used[process] / LOOK_S:.1f} cores"
    return None


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
