"""The processes of a node: known by a mark in their environment, whoever their parents are now; ended all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

import psutil

from orchestrator.cluster.ray_command import NODE_VARIABLE
from orchestrator.errors import OrchestrateError

END_S = 8.0
KILLS = 10
"""So many times what remains is killed, with a second between; only the kernel could hold a process longer."""
RAYLET, HEAD_SERVER = "raylet", "gcs_server"


def processes_of(node: str) -> set[psutil.Process]:
    """All that carry the node's mark; not this process."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(NODE_VARIABLE) == node:
                found.add(process)
    return _running(found)


def members_of(session: int) -> set[psutil.Process]:
    """The processes of a session of the operating system; not this process. None on Windows, which has no sessions."""
    found = set()
    if hasattr(os, "getsid"):
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == session:
                    found.add(process)
    return _running(found)


def end_all(node: str, within_s: float = END_S, *, session: int | None = None) -> None:
    """Asks all that belongs to a node to end, then ends what remains. Raises OrchestrateError where something stays.

    ``session``: one that was made for the node alone; its processes belong to the node as well. Ray's agents write
    their titles over the mark, and once their raylet is gone no parent shows whose they are.
    The raylet first, as long as there is a head for it to leave; the head's server last.
    """
    known = _belonging(node, session)
    names = {process: _name(process) for process in known}
    raylet = {process for process, name in names.items() if name == RAYLET}
    server = {process for process, name in names.items() if name == HEAD_SERVER}
    for group in (raylet, known - raylet - server, server):
        for process in group:
            with suppress(psutil.Error):
                process.terminate()
        _wait(group, within_s)
    for _ in range(KILLS):
        known = _running(known) | _belonging(node, session)
        if not known:
            return
        for process in known:
            with suppress(psutil.Error):
                process.kill()
        _wait(known, 1.0)
    if remaining := _running(known):
        raise OrchestrateError(f"these processes do not end: {', '.join(str(each.pid) for each in remaining)}")


def _belonging(node: str, session: int | None) -> set[psutil.Process]:
    return _with_descendants(processes_of(node) | (set() if session is None else members_of(session)))


def _with_descendants(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Some of Ray's processes write their titles over their environment: their parents show whose they are."""
    found = set(processes)
    for process in tuple(found):
        with suppress(psutil.Error):
            found.update(process.children(recursive=True))
    return _running(found)


def _running(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Not this process, and none that has ended and only waits for its parent to notice."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


def _wait(processes: Iterable[psutil.Process], within_s: float) -> None:
    """Until all have ended, but no longer than that."""
    remaining, waited_s = _running(processes), 0.0
    while remaining and waited_s < within_s:
        psutil.wait_procs(remaining, timeout=0.1)
        remaining, waited_s = _running(remaining), waited_s + 0.1


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""
