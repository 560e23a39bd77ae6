"""Where the canaries of a device stand among its other jobs, and in which state of the machine they run. PURE"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.matrix import Cell
from orchestrator.plan.planned import FIRST_CANARY, PlannedJob

EVERY_JOBS = 20
"""After so many jobs the next change of the loaded model has a canary before it: it costs a load of its own."""


def with_canaries(queue: Sequence[PlannedJob], canary: Cell, device_id: str) -> tuple[PlannedJob, ...]:
    """``queue`` with canaries before and after it, after each change of the machine's state, and between."""
    return in_their_states([*_spread(queue, PlannedJob(canary, device_id, FIRST_CANARY))]) if queue else ()


def _spread(queue: Sequence[PlannedJob], first: PlannedJob) -> Iterator[PlannedJob]:
    number, since = 0, 0
    before: PlannedJob | None = None
    for planned in queue:
        changes = before is None or planned.wanted != before.wanted
        due = before is not None and since >= EVERY_JOBS and planned.cell.load != before.cell.load
        if changes or due:
            yield replace(first, repeat=FIRST_CANARY + number)
            number, since = number + 1, 0
        yield planned
        before, since = planned, since + 1
    yield replace(first, repeat=FIRST_CANARY + number)


def in_their_states(queue: Sequence[PlannedJob]) -> tuple[PlannedJob, ...]:
    """Each canary of one device's queue in the state of the job that follows it; the last, in that of the one before.

    They ask for no state of their own, and without one they would all run first, in the state that stands.
    """
    found: list[PlannedJob] = []
    following = None
    for planned in reversed(queue):
        if not planned.is_canary:
            following = planned.wanted
        found.append(replace(planned, state=following) if planned.is_canary else planned)
    found.reverse()
    last = next((each.wanted for each in reversed(found) if not each.is_canary), None)
    return tuple(replace(each, state=last) if each.is_canary and each.state is None else each for each in found)
