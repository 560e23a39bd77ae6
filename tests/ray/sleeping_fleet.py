"""A coordinator's fleet that sleeps and is roused, in a cluster that runs; prints a line of JSON for each step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from orchestrator.dispatch.fleet import DeviceGreeted, DeviceUnreachable, FleetEvent
from orchestrator.dispatch.nodes.node import NodePhase
from orchestrator.dispatch.on_ray.connect import Connection
from orchestrator.dispatch.on_ray.fleet import RayFleet

LIMIT_S = 60.0


def news_until(fleet: RayFleet, holds: Callable[[], bool]) -> list[FleetEvent]:
    news: list[FleetEvent] = []
    deadline = time.monotonic() + LIMIT_S
    while not holds() and time.monotonic() < deadline:
        news += fleet.listen(0.2)
    return news


def is_asleep(fleet: RayFleet) -> bool:
    return all(node.phase is NodePhase.ASLEEP for node in fleet._machine.nodes.values())


def print_step(step: str, news: list[FleetEvent]) -> None:
    joined = [each.device.device_id for each in news if isinstance(each, DeviceGreeted)]
    silent = [each.detail for each in news if isinstance(each, DeviceUnreachable)]
    sys.stdout.write(json.dumps({"step": step, "joined": joined, "silent": silent}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


def main() -> None:
    connection = Connection(join_only=True)
    fleet = RayFleet(detached=True)
    fleet.begin(1)
    print_step("settled", news_until(fleet, lambda: fleet.settled))
    for number in (1, 2):
        fleet.sleep_devices()
        print_step(f"asleep {number}", news_until(fleet, lambda: is_asleep(fleet)))
        fleet.wake_devices()
        print_step(f"roused {number}", news_until(fleet, lambda: fleet.settled))
    connection.close()


if __name__ == "__main__":
    main()
