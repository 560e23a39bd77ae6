from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psutil
import pytest

from orchestrator.cluster.ray_command import NodeSettings, Role
from orchestrator.cluster.supervisor import SIGNALS, Supervisor, moved_to, pauses
from orchestrator.errors import OrchestrateError
from tests.unit.cluster.conftest import FakeRay
from tests.waiting import ended, until

DEVICE = NodeSettings(Role.DEVICE, "10.0.0.1:6379", "10.0.0.2", "0.1.0")
UP = "say Ray runtime started."


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Run:
    """A supervisor that is stopped when its node is up for the ``ups``-th time, run to its end; what it said."""

    def __init__(self, ray: FakeRay, ups: int = 1, **more: Any) -> None:
        self.said: list[str] = []
        self._ups = itertools.count(1)
        self._last = ups
        self.supervisor = Supervisor(
            more.pop("settings", DEVICE),
            ray.environment,
            notify=self.said.append,
            pauses=lambda: itertools.repeat(0.0),
            after_start=self._is_up,
            **more,
        )

    def _is_up(self) -> None:
        if next(self._ups) == self._last:
            self.stop()

    def stop(self) -> None:
        self.supervisor.stop()

    def to_its_end(self) -> list[str]:
        self.supervisor.run()
        return self.said


def test_a_node_that_ends_is_started_again_until_it_is_stopped(ray: FakeRay) -> None:
    ray.plan(f"{UP}\nfork\nexit 1", f"{UP}\nexit 0", f"{UP}\nfork\nstay")
    said = Run(ray, 3).to_its_end()
    up, ended = "node 10.0.0.2 is up in the cluster 10.0.0.1:6379", "the Ray node ended; it is started again in 0 s"
    assert said == [up, ended, up, ended, up]
    assert len(ray.started()) == 3
    assert all("--block" in words for words in ray.started())
    assert ray.left() == []


def test_what_one_life_of_a_node_left_is_gone_before_the_next(ray: FakeRay) -> None:
    alive: list[int] = []

    class Counted(Run):
        def _is_up(self) -> None:
            alive.append(len(ray.left()))
            super()._is_up()

    ray.plan(f"fork\n{UP}\nexit 1", f"{UP}\nstay")
    Counted(ray, 2).to_its_end()
    assert alive[1] == 1  # itself


def test_a_process_that_lost_its_mark_and_its_parent_is_ended(ray: FakeRay) -> None:
    """As Ray's agents do, which write their titles over their environment, once their raylet is killed."""
    unmarked: list[psutil.Process] = []

    class Noted(Run):
        def _is_up(self) -> None:
            if not unmarked:
                unmarked.append(psutil.Process(int((ray.folder / "unmarked").read_text(encoding="utf-8"))))
            super()._is_up()

    ray.plan(f"unmarked\n{UP}\nexit 1", f"{UP}\nstay")
    Noted(ray, 2).to_its_end()
    try:
        assert ended(unmarked[0])
    finally:
        with suppress(psutil.Error):
            unmarked[0].kill()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_all_of_it(ray: FakeRay, number: signal.Signals) -> None:
    class Signalled(Run):
        def stop(self) -> None:
            os.kill(os.getpid(), number)

    ray.plan(f"fork\n{UP}\nstay")
    Signalled(ray).to_its_end()
    assert len(ray.started()) == 1
    assert ray.left() == []


def test_what_will_not_pass_ends_it_with_the_reason(ray: FakeRay) -> None:
    ray.plan("fork\nsay ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: ...\nexit 1")
    with pytest.raises(OrchestrateError, match="wants another token"):
        Run(ray).to_its_end()
    assert len(ray.started()) == 1
    assert ray.left() == []


def test_what_may_pass_is_tried_again_and_said(ray: FakeRay) -> None:
    ray.plan("say ValueError: not now\nexit 1", f"{UP}\nstay")
    assert Run(ray).to_its_end()[0] == ("the Ray node did not start: ValueError: not now; it is started again in 0 s")


def test_a_token_that_changed_later_is_waited_for(ray: FakeRay) -> None:
    """A head that was made anew: the device goes on trying, for its owner may bring the new token."""
    ray.plan(f"{UP}\nexit 1", "say InvalidAuthToken\nexit 1", f"{UP}\nstay")
    Run(ray, 2).to_its_end()
    assert len(ray.started()) == 3


def test_a_device_waits_for_its_head_and_says_each_reason_once(ray: FakeRay) -> None:
    ray.plan(f"{UP}\nstay")
    answers = iter(["no route", "no route", "refused", "refused", None])
    said = Run(ray, why_not_yet=lambda: next(answers)).to_its_end()
    assert said[:2] == ["no route: waiting", "refused: waiting"]
    assert len(ray.started()) == 1


def test_a_device_can_be_stopped_while_it_waits(ray: FakeRay) -> None:
    reasons: list[Run] = []

    def why_not() -> str:
        reasons[0].stop()
        return "no route"

    reasons.append(Run(ray, why_not_yet=why_not))
    assert reasons[0].to_its_end() == ["no route: waiting"]
    assert ray.started() == []


@pytest.mark.parametrize(
    ("own", "towards", "now"),
    [
        (["10.0.0.2"], "10.0.0.2", None),
        (["10.0.0.2", "10.0.0.7"], "10.0.0.7", None),  # a cable beside the Wi-Fi
        (["10.0.0.7"], "10.0.0.7", "10.0.0.7"),
        ([], None, None),  # no network for now
        (["10.0.0.7"], None, None),
    ],
)
def test_where_a_host_has_moved_to(own: list[str], towards: str | None, now: str | None) -> None:
    assert moved_to("10.0.0.2", own, towards) == now
    assert moved_to("127.0.0.1", own, towards) is None


class MovedRun(Run):
    """Of a host whose address becomes 10.0.0.7 once its node is up for the first time."""

    def __init__(self, ray: FakeRay, ups: int, settings: NodeSettings) -> None:
        self.address = settings.address
        super().__init__(
            ray,
            ups,
            settings=settings,
            own_addresses=lambda: [self.address],
            towards=lambda _: self.address,
            look_s=0.01,
        )

    def _is_up(self) -> None:
        self.address = "10.0.0.7"
        super()._is_up()


def test_a_device_whose_address_changes_is_started_again_with_the_new_one(ray: FakeRay) -> None:
    ray.plan(f"{UP}\nstay", f"{UP}\nstay")
    run = MovedRun(ray, 2, replace(DEVICE, stated_address=False))
    said = run.to_its_end()
    assert "the address of this host is 10.0.0.7 now, and 10.0.0.2 is gone: its node is started again" in said
    assert [line for line in said if "is up" in line] == [
        "node 10.0.0.2 is up in the cluster 10.0.0.1:6379",
        "node 10.0.0.7 is up in the cluster 10.0.0.1:6379",
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [(DEVICE, "was told to use that one"), (replace(DEVICE, role=Role.HEAD), "devices look for it there")],
)
def test_an_address_that_was_stated_is_said_once_and_not_changed(
    ray: FakeRay, settings: NodeSettings, words: str
) -> None:
    ray.plan(f"{UP}\nstay")
    run = MovedRun(ray, 10, settings)

    def stop_when_said() -> None:
        until(lambda: any(words in line for line in run.said), words)
        run.stop()

    thread = threading.Thread(target=stop_when_said)
    thread.start()
    said = run.to_its_end()
    thread.join()
    assert len([line for line in said if words in line]) == 1
    assert len([line for line in said if "is up" in line]) == 1


def test_pauses_grow_to_half_a_minute() -> None:
    assert list(itertools.islice(pauses(), 8)) == [1, 2, 4, 8, 16, 30, 30, 30]
