from __future__ import annotations

import os
import subprocess
import sys
import uuid

import psutil

from orchestrator.cluster.processes import end_all, processes_of
from orchestrator.cluster.ray_command import NODE_VARIABLE
from tests.waiting import ended, until

WAITS = "import signal; print('ready', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"
# It leaves a process behind whose parent is gone, and says which.
ORPHAN = """
import os
if child := os.fork():
    print(child, flush=True)
    os._exit(0)
os.setsid()
import signal
signal.pause()
"""


def started(code: str, mark: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {NODE_VARIABLE: mark}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_all_that_carry_the_mark_end_and_nothing_else() -> None:
    mark, other = uuid.uuid4().hex, uuid.uuid4().hex
    polite, _ = started(WAITS, mark)
    stubborn, _ = started(STUBBORN, mark)
    parent, orphan = started(ORPHAN, mark)
    parent.wait()
    bystander, _ = started(WAITS, other)
    try:
        left = psutil.Process(int(orphan))
        assert {process.pid for process in processes_of(mark)} == {polite.pid, stubborn.pid, left.pid}
        end_all(mark, within_s=0.3)
        assert processes_of(mark) == set()
        until(lambda: ended(left), "the orphan's end")
        assert bystander.poll() is None
    finally:
        for process in (polite, stubborn, bystander):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        assert parent.stdout is not None
        parent.stdout.close()


def test_where_nothing_carries_the_mark_nothing_happens() -> None:
    end_all(uuid.uuid4().hex)
