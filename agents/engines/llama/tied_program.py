"""A program that dies with its parent: ``python -I tied_program.py PROGRAM ARGUMENT ...``. The standard library alone.

On Linux this process becomes the program, and the kernel ends it with its parent. Elsewhere it stays, with the
program as its child, until either stdin ends, which then ends the program, or the program, whose end it repeats.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def die_with_parent() -> None:
    """Linux: SIGKILL for this process when its parent ends, and first in line for the out-of-memory killer."""
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
    with suppress(OSError):  # a model that does not fit must not take the agent with it
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    command = sys.argv[1:]
    die_with_parent()
    if sys.platform == "linux":
        try:
            os.execv(command[0], command)
        except OSError as error:
            sys.exit(f"{command[0]} cannot be started: {error.strerror}")
    _watch(command)


def _watch(command: list[str]) -> None:
    import signal
    import subprocess
    import threading

    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")

    def end_with_stdin() -> None:
        while os.read(0, 4096):
            pass
        program.kill()

    threading.Thread(target=end_with_stdin, daemon=True).start()
    ended = program.wait()
    if ended < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-ended, signal.SIG_DFL)
        os.kill(os.getpid(), -ended)
    os._exit(ended)


if __name__ == "__main__":
    main()
