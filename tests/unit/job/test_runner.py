"""The job process's own parts that need no process."""

from __future__ import annotations

import pytest

from agents.job.runner import CancelEvent


@pytest.mark.parametrize("look", ["is_set", "wait"])
def test_a_cancel_is_noticed_when_somebody_looks_and_once(look: str) -> None:
    noticed: list[str] = []
    cancel = CancelEvent(lambda: noticed.append("yes"))

    def looks() -> bool:
        return bool(cancel.is_set() if look == "is_set" else cancel.wait(0.0))

    assert not looks() and noticed == []
    cancel.set()
    assert noticed == [], "one that hangs does not look"
    assert looks() and looks() and noticed == ["yes"]
    cancel.clear()
    assert not looks()
    cancel.set()
    assert looks() and noticed == ["yes", "yes"], "the cancel of another job"
