"""Whose turn it is: tables of answers, and every order in which two or three devices can act."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from agents.contract.model_peers import Peer
from agents.models.lan.election import AwaitDecision, FetchFromInternet, Step, TakeFrom, WaitFor, next_step
from agents.models.lan.protocol import Answer, FileStatus


def answer(device_id: str, state: FileStatus) -> Answer:
    return Answer(Peer(device_id, f"http://{device_id}"), state)


def answers_of(**states: FileStatus) -> list[Answer]:
    return [answer(device_id, state) for device_id, state in states.items()]


HAS, SERVES, MEASURES, FETCHES = FileStatus.HAS, FileStatus.SERVES, FileStatus.MEASURES, FileStatus.FETCHES
INTENDS, WAITS, READS, LACKS = FileStatus.INTENDS, FileStatus.WAITS, FileStatus.READS, FileStatus.LACKS


@pytest.mark.parametrize(
    ("answers", "given_up", "expected"),
    [
        ({}, (), FetchFromInternet()),
        ({"a": LACKS, "z": WAITS}, (), FetchFromInternet()),
        ({"a": FETCHES, "b": HAS, "z": HAS}, (), TakeFrom((answer("b", HAS), answer("z", HAS)))),
        ({"a": INTENDS}, (), WaitFor(answer("a", INTENDS))),
        ({"z": INTENDS}, (), AwaitDecision(answer("z", INTENDS))),
        ({"z": FETCHES}, (), WaitFor(answer("z", FETCHES))),
        ({"a": INTENDS, "b": INTENDS, "z": FETCHES}, (), WaitFor(answer("z", FETCHES))),
        ({"a": INTENDS, "b": INTENDS, "z": INTENDS}, (), WaitFor(answer("a", INTENDS))),
        ({"a": FETCHES, "z": SERVES}, (), WaitFor(answer("z", SERVES))),
        ({"a": MEASURES, "z": FETCHES}, (), WaitFor(answer("z", FETCHES))),
        ({"a": MEASURES, "z": INTENDS}, (), WaitFor(answer("a", MEASURES))),
        ({"z": READS}, (), WaitFor(answer("z", READS))),
        # those that were waited for in vain count no more, but where they have it
        ({"a": FETCHES}, ("a",), FetchFromInternet()),
        ({"a": FETCHES, "z": INTENDS}, ("a", "z"), FetchFromInternet()),
        ({"a": MEASURES, "b": MEASURES}, ("a",), WaitFor(answer("b", MEASURES))),
        ({"a": HAS}, ("a",), TakeFrom((answer("a", HAS),))),
        ({"a": SERVES}, ("a",), WaitFor(answer("a", SERVES))),
    ],
)
def test_what_a_device_does_next(answers: dict[str, FileStatus], given_up: tuple[str, ...], expected: Step) -> None:
    assert next_step(answers_of(**answers), "m", set(given_up)) == expected


@dataclass(frozen=True)
class Device:
    """One device of the model: what it has announced, what it has read of the others since, what it does next."""

    shown: FileStatus = LACKS
    read: tuple[FileStatus, ...] = ()
    doing: str = "begins"  # begins, asks, goes, fetches, ends


Cluster = tuple[Device, ...]


def acts(cluster: Cluster, at: int, *, can_fail: bool) -> Iterator[tuple[Cluster, int]]:
    """What can come next when device ``at`` acts once, and how many files then cross the line."""

    def then(device: Device, crossed: int = 0) -> tuple[Cluster, int]:
        return (*cluster[:at], device, *cluster[at + 1 :]), crossed

    device = cluster[at]
    others = [other for other in range(len(cluster)) if other != at]
    match device.doing:
        case "begins":
            yield then(Device(INTENDS, (), "asks"))
        case "asks" if len(device.read) < len(others):
            yield then(replace(device, read=(*device.read, cluster[others[len(device.read)]].shown)))
        case "asks":
            answers = [answer(str(other), state) for other, state in zip(others, device.read, strict=True)]
            match next_step(answers, str(at), set()):
                case TakeFrom():
                    yield then(Device(HAS, (), "ends"))
                case WaitFor():
                    yield then(Device(WAITS, (), "begins"))
                case AwaitDecision():
                    yield then(Device(INTENDS, (), "asks"))
                case FetchFromInternet():
                    yield then(Device(INTENDS, (), "goes"))
        case "goes":
            yield then(Device(FETCHES, (), "fetches"))
        case "fetches":
            yield then(Device(HAS, (), "ends"), 1)
            if can_fail:
                yield then(Device(LACKS, (), "ends"))


@pytest.mark.parametrize(("devices", "can_fail"), [(2, False), (2, True), (3, False), (3, True)])
def test_in_no_order_of_events_does_a_file_cross_the_line_twice(devices: int, can_fail: bool) -> None:
    begin: tuple[Cluster, int] = ((Device(),) * devices, 0)
    seen = {begin}
    left = [begin]
    came_from: dict[tuple[Cluster, int], set[tuple[Cluster, int]]] = {}
    while left:
        now = left.pop()
        cluster, crossed = now
        assert crossed <= 1, cluster
        assert sum(device.shown is FETCHES for device in cluster) <= 1, cluster
        for at in range(devices):
            for following, more in acts(cluster, at, can_fail=can_fail):
                state = (following, crossed + more)
                came_from.setdefault(state, set()).add(now)
                if state not in seen:
                    seen.add(state)
                    left.append(state)
    # and from each state there is a way to the end: no two wait for each other
    ended = [state for state in seen if all(device.doing == "ends" for device in state[0])]
    assert ended
    reach, left = set(ended), list(ended)
    while left:
        for before in came_from.get(left.pop(), ()):
            if before not in reach:
                reach.add(before)
                left.append(before)
    assert reach == seen
    assert len(seen) > 20
