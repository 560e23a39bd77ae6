"""Idle devices have no agent, are still devices, and have one again when they are needed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.ray.sandbox import Sandbox
from tests.waiting import until


def test_a_device_sleeps_and_is_roused(cluster: Sandbox) -> None:
    program = [sys.executable, "-m", "tests.ray.sleeping_fleet"]
    with subprocess.Popen(
        program, env=cluster.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        out, into = child.stdout, child.stdin
        assert out is not None
        assert into is not None

        def go_on() -> None:
            into.write("\n")
            into.flush()

        def step() -> dict[str, Any]:
            line: dict[str, Any] = json.loads(out.readline())
            return line

        settled = step()
        (device_id,) = settled["joined"]
        cluster.process("ray::DeviceAgent")
        for number in (1, 2):
            go_on()
            assert step() == {"step": f"asleep {number}", "joined": [], "silent": []}
            until(lambda: not agents(cluster), "the agent's end")
            go_on()
            assert step() == {"step": f"roused {number}", "joined": [device_id], "silent": []}
            cluster.process("ray::DeviceAgent")
        go_on()
        assert child.wait(timeout=60) == 0


def agents(sandbox: Sandbox) -> list[str]:
    return [each.name() for each in sandbox.processes() if each.name().startswith("ray::DeviceAgent")]
