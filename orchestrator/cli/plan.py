"""``orchestrate plan``: what a submit would do, from the matrix and what is known of devices. Needs no Ray."""

from __future__ import annotations

import json
from pathlib import Path

from agents.contract.device import Device
from orchestrator.cli.ledger_access import ledger_path
from orchestrator.cli.plan_text import DevicePlan, PlanPage, Seconds, as_data, as_text, planned_phases
from orchestrator.matrix import check_size, count_cells, expand, read_matrix
from orchestrator.plan.jobs import jobs_for_unknown, plan_jobs

SHOWN_CELLS = 30


def show_plan(file: Path, *, all_cells: bool, as_json: bool, yes: bool) -> None:
    matrix = read_matrix(file)
    devices, earlier = _known()
    selected = [device for device in devices if matrix.devices.matches(device)]
    check_size(matrix, max(len(selected), 1), confirmed=yes)
    plan = plan_jobs(matrix, expand(matrix), devices)
    known = [
        DevicePlan(each.name, each, planned_phases(plan.queues[each.device_id], each, earlier)) for each in selected
    ]
    others = jobs_for_unknown(matrix, (cell for cell, _ in plan.unplaced))
    unknown = [DevicePlan(name, None, planned_phases(queue, None, {})) for name, queue in others.items()]
    page = PlanPage(matrix, count_cells(matrix), plan, tuple(devices), tuple(known), tuple(unknown))
    if as_json:
        print(json.dumps(as_data(page)))
        return
    for line in as_text(page, None if all_cells else SHOWN_CELLS):
        print(line)


def _known() -> tuple[list[Device], Seconds]:
    """Devices that ever ran something for this ledger; on a machine without a ledger, this machine."""
    if ledger_path().exists():
        from orchestrator.dispatch.ledger.ledger import Ledger

        ledger = Ledger(ledger_path())
        try:
            devices, earlier = ledger.devices(), ledger.seconds_of_cells()
        finally:
            ledger.close()
        if devices:
            return devices, earlier
    from agents.device.inventory import inventory
    from agents.places import data_root, device_root

    return [inventory(device_root(data_root()), ())], {}
