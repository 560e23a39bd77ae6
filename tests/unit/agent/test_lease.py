from __future__ import annotations

import pytest

from agents.agent.lease import Fenced, Lease


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(clock: Clock) -> Lease:
    lease = Lease(clock)
    lease.renew(3)
    lease.begin(90.0)
    return lease


def test_it_runs_down(lease: Lease, clock: Clock) -> None:
    assert lease.remaining_s() == 90.0
    clock.now_s += 89.0
    assert lease.remaining_s() == 1.0
    clock.now_s += 1.5
    assert lease.remaining_s() == -0.5


@pytest.mark.parametrize("term", [3, 4])
def test_who_may_speak_renews_it(lease: Lease, clock: Clock, term: int) -> None:
    clock.now_s += 60.0
    lease.renew(term)
    assert lease.remaining_s() == 90.0


def test_who_is_outside_of_terms_renews_nothing_and_is_never_fenced(lease: Lease, clock: Clock) -> None:
    clock.now_s += 60.0
    lease.renew(0)
    assert lease.remaining_s() == 30.0
    lease.renew(3)
    assert lease.remaining_s() == 90.0


@pytest.mark.parametrize("term", [1, 2])
def test_an_older_coordinator_is_told_and_renews_nothing(lease: Lease, clock: Clock, term: int) -> None:
    clock.now_s += 60.0
    with pytest.raises(Fenced, match=rf"a newer coordinator \(term 3\) .* this is term {term}$"):
        lease.renew(term)
    assert lease.remaining_s() == 30.0


def test_a_new_coordinator_fences_the_one_before(lease: Lease) -> None:
    lease.renew(4)
    with pytest.raises(Fenced):
        lease.renew(3)
    lease.renew(4)


def test_a_new_job_has_a_lease_of_its_own_length(lease: Lease, clock: Clock) -> None:
    clock.now_s += 80.0
    lease.begin(5.0)
    assert (lease.length_s, lease.remaining_s()) == (5.0, 5.0)
