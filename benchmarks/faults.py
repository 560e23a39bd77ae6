"""How long a real fleet takes to notice each fault, and to go on. Prints the table of docs/lab/faults.md.

A head and three devices on hosts of their own (network namespaces; needs root), Ray's own settings, a real engine.
Each fault meets device `one`, or the head, while its second job runs; the run is then left alone until it is complete,
and every job must have exactly one row.

    python benchmarks/faults.py [--only WORDS]
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fleet.fleet import DEVICES, LONG, Fleet, Run, lan_of, started_fleet
from tests.fleet.hosts import why_no_clock, why_not
from tests.waiting import until

JOBS = 24
AT_WORK_S = 60.0


@dataclass
class Fault:
    """``strike`` does it, and what an operator or a service would do after it; ``restart``: submit is watched anew."""

    name: str
    strike: Callable[[Fleet, Run], None]
    restart: bool = False


def later(seconds: float, act: Callable[[], None]) -> None:
    began = time.monotonic()
    until(lambda: time.monotonic() - began >= seconds, f"{seconds} s", seconds + 10)
    act()


def cut(seconds: float) -> Callable[[Fleet, Run], None]:
    def strike(fleet: Fleet, _: Run) -> None:
        host = fleet.lan.hosts["one"]
        host.cut()
        later(seconds, host.heal)

    return strike


def head_dies(fleet: Fleet, run: Run) -> None:
    fleet.head.crash()
    run.started.wait()
    fleet.services["head"].wait()
    fleet.start_head()


def head_full(fleet: Fleet, run: Run) -> None:
    fleet.head.fill_disk()
    run.until(lambda: any(event["text"] for event in run.events("trouble")), "trouble")
    later(10.0, fleet.head.free_disk)


def device_full(fleet: Fleet, _: Run) -> None:
    host = fleet.lan.hosts["one"]
    host.fill_disk()
    later(10.0, host.free_disk)


def submit_dies(_: Fleet, run: Run) -> None:
    run.started.signal(signal.SIGKILL, group=True)
    run.started.wait()


FAULTS = (
    Fault("agent killed", lambda fleet, _: fleet.lan.hosts["one"].process("ray::DeviceAgent").kill()),
    Fault("job process killed", lambda fleet, _: fleet.lan.hosts["one"].process("agents.job.runner").kill()),
    Fault("raylet killed", lambda fleet, _: fleet.lan.hosts["one"].process("raylet/raylet").kill()),
    Fault("link down for 20 s", cut(20.0)),
    Fault("link down for 120 s", cut(120.0)),
    Fault("device rebooted", lambda fleet, _: fleet.reboot("one")),
    Fault("device's disk full for 10 s", device_full),
    Fault("device's clock 2 h back", lambda fleet, _: fleet.lan.hosts["one"].jump_clock(-7200)),
    Fault("coordinator killed", lambda fleet, _: fleet.head.process("ray::CoordinatorActor").kill()),
    Fault("submit killed", submit_dies, restart=True),
    Fault("head killed, started again at once", head_dies, restart=True),
    Fault("head's disk full for 10 s", head_full),
)


def row(fleet: Fleet, fault: Fault) -> str:
    fleet.until_free()
    run = fleet.submit(LONG)
    for name in DEVICES:
        run.until_sent(name, 2)
    struck = time.time()
    fault.strike(fleet, run)
    name = run.name
    watched = fleet.watch(name) if fault.restart else run
    watched.completed(600.0)
    noticed = [event for event in run.events("device_lost", "trouble") if event["at"] >= struck]
    noticed += [event for event in run.events("job_ended") if event["at"] >= struck and not event["final"]]
    noticed_at = min((event["at"] for event in noticed), default=None)
    since = struck if noticed_at is None else noticed_at
    ends = [event["at"] for event in watched.events("job_ended") if event["device"] == "one" and event["final"]]
    on = min((at for at in ends if at >= since), default=None)
    fleet.assert_once(name, JOBS)
    fleet.assert_no_orphan()
    again = sum(each["attempt"] > 1 for each in fleet.rows(name))
    texts = (fault.name, _seconds(noticed_at, struck), _seconds(on, struck), str(again), f"{JOBS} of {JOBS}")
    return f"| {' | '.join(texts)} |"


def _seconds(at: float | None, struck: float) -> str:
    return "-" if at is None else f"{at - struck:.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults with these words")
    options = parser.parse_args()
    if reason := why_not():
        print(reason)
        return 1
    clocks = () if why_no_clock() else ("one",)
    print(
        "| fault | noticed after | next result from there after | jobs run again | rows once |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder, lan_of(Path(folder), clocks=clocks) as lan:
        fleet = started_fleet(lan)
        for fault in FAULTS:
            if options.only in fault.name and (clocks or "clock" not in fault.name):
                print(row(fleet, fault), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
