"""Links between the head and its devices go down, for less and for longer than Ray waits for a host."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.fleet.fleet import DEAD_AFTER_S, LONG, LONG_JOBS, Fleet, impatient, lan_of, started_fleet
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)
SHORT_S, LONG_S = DEAD_AFTER_S / 3, DEAD_AFTER_S * 2


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with lan_of(tmp_path_factory.mktemp("fleet")) as lan:
        yield started_fleet(impatient(lan))


def test_short_and_long_cuts_and_coordinator_and_submit_killed(fleet: Fleet) -> None:
    run = fleet.submit(LONG)
    cut_at_s = {}
    for name in run.as_sent(("one", "two")):
        fleet.lan.hosts[name].cut()
        cut_at_s[name] = time.monotonic()

    def wait_since_cut(name: str, seconds: float) -> None:
        until(lambda: time.monotonic() - cut_at_s[name] >= seconds, f"{seconds} s", seconds + 30)

    wait_since_cut("one", SHORT_S)
    fleet.lan.hosts["one"].heal()
    sent = run.sent("one")
    run.until_sent("one", sent + 1)
    for name in ("one", "three"):  # a job that was sent and of which nothing is known would be sent again
        run.until_running(name)
    fleet.head.process("ray::CoordinatorActor").kill()
    run.started.signal(signal.SIGKILL, group=True)
    run.started.wait()
    watched = fleet.watch(run.name)
    wait_since_cut("two", LONG_S)
    fleet.lan.hosts["two"].heal()
    watched.completed()
    fleet.assert_once(run.name, LONG_JOBS)
    assert {event["device"] for event in watched.events("device_there")} >= {"two"}
    attempts = {row["attempt"] for row in fleet.rows(run.name) if row["device"] != "two"}
    assert attempts == {1}, "agents went on while nobody asked them"
    ups = {name: fleet.services[name].out.count(" is up in the cluster ") for name in ("one", "two")}
    assert ups == {"one": 1, "two": 2}, "Ray called the host dead whose link was down for long, and no other"
    fleet.assert_no_orphan()
