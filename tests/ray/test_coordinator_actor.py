"""The coordinator's actor while its coordinator cannot start. No cluster: the actor is made as a plain object."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch.coordinator import Coordinator
from orchestrator.dispatch.ledger.file import LedgerBusy
from orchestrator.dispatch.on_ray import head
from tests.fakes.idle_fleet import IdleFleet
from tests.waiting import until


def test_the_actor_tries_until_it_can_whatever_is_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = iter([RuntimeError("can't start new thread"), LedgerBusy("held")])

    def coordinator(*_: object, **__: object) -> Coordinator:
        for reason in reasons:
            raise reason
        return Coordinator(tmp_path / "home", IdleFleet)

    monkeypatch.setattr(head, "Coordinator", coordinator)
    monkeypatch.setattr(head, "BEGIN_AGAIN_S", 0.01)
    monkeypatch.setattr(head, "TRY_S", 0.0)
    actor = head.CoordinatorActor()
    until(lambda: actor._coordinator is not None, "the coordinator")
    assert actor.call("idle", ()) is True
    assert actor._coordinator is not None
    actor._coordinator.close()


def test_many_callers_get_the_reason_of_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def coordinator(*_: object, **__: object) -> Coordinator:
        tries.append(1)
        raise LedgerBusy("another program holds it")

    monkeypatch.setattr(head, "Coordinator", coordinator)
    actor = head.CoordinatorActor()
    for _ in range(5):
        with pytest.raises(LedgerBusy, match="another program holds it"):
            actor.call("status", ())
    assert len(tries) == 1
    actor._coordinator = object()  # type: ignore[assignment]  # its thread ends
