"""No order of the machine states has fewer reboots than the plan: compared with all orders there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import permutations, product

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.contract.device import Device
from orchestrator.plan.jobs import plan_jobs
from orchestrator.plan.phases import phases_of
from tests.fakes.matrices import matrix_and_cells
from tests.unit.results.made_attempts import DEVICE

GIB = 2**30
State = tuple[int | None, int | None]
"""GiB and watts; None: as it stands."""

splits = st.sampled_from((1, 8, 16, 32))
watts = st.sampled_from((55, 70, 80))


def changes_of_plan(states: Iterable[State], device: Device) -> tuple[int, int]:
    """Reboots and changes of the power limit."""
    entries = []
    for split, limit in states:
        words = ["model: tiny:llama", "workload: [pp8, tg8]"]
        words += [] if split is None else [f"dedicated_vram: {split}GiB"]
        words += [] if limit is None else [f"power_limit: {limit}W"]
        entries.append("{" + ", ".join(words) + "}")
    matrix, cells = matrix_and_cells(f"include: [{', '.join(entries)}]\nmeasure: {{repeats: 2}}\n")
    phases = phases_of(plan_jobs(matrix, cells, [device]).queues[device.device_id], device)
    assert sum(len(phase.jobs) for phase in phases) == 4 * len(entries)
    return sum(phase.reboots for phase in phases), sum(phase.new_power for phase in phases)


def changes_of_order(order: Sequence[State], now: State) -> tuple[int, int]:
    split, limit = now
    reboots = changes = 0
    for wanted_split, wanted_limit in order:
        reboots += wanted_split is not None and wanted_split != split
        changes += wanted_limit is not None and wanted_limit != limit
        split = split if wanted_split is None else wanted_split
        limit = limit if wanted_limit is None else wanted_limit
    return reboots, changes


def standing(split: int, limit: int) -> Device:
    return replace(DEVICE, dedicated_vram_bytes=split * GIB, power_limit_w=float(limit))


@settings(deadline=None, database=None)
@given(
    states=st.lists(st.tuples(st.none() | splits, st.none() | watts), unique=True, min_size=1, max_size=5),
    split=splits,
    limit=watts,
)
def test_reboots_are_the_fewest_possible(states: list[State], split: int, limit: int) -> None:
    reboots, _ = changes_of_plan(states, standing(split, limit))
    assert reboots == len({wanted for wanted, _ in states} - {None, split})
    assert reboots == min(changes_of_order(order, (split, limit))[0] for order in permutations(states))


@settings(deadline=None, database=None)
@given(
    wanted=st.lists(splits, unique=True, min_size=1, max_size=3),
    limits=st.lists(watts, unique=True, min_size=1, max_size=2),
    split=splits,
    limit=watts,
)
def test_within_the_fewest_reboots_the_power_limit_changes_least(
    wanted: list[int], limits: list[int], split: int, limit: int
) -> None:
    states: list[State] = list(product(wanted, limits))
    best = min(changes_of_order(order, (split, limit)) for order in permutations(states))
    assert changes_of_plan(states, standing(split, limit)) == best
