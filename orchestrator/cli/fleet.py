"""The commands on a fleet: status, devices, pause, cancel, priority, retry, state, skip."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agents.contract.job import MachineState
from agents.contract.report import CAUSES, Cause
from agents.device_file import TAKEN_BACK, Stated
from agents.places import data_root
from orchestrator.cli.coordinator_link import link_coordinator
from orchestrator.cli.fleet_tables import devices_table, status_table
from orchestrator.cli.ledger_access import no_coordinator_runs, open_ledger, pick_run
from orchestrator.cli.texts import format_count, format_duration
from orchestrator.dispatch.api import CoordinatorApi, DeviceView, RunView, StatusView
from orchestrator.dispatch.ledger.ledger import RunRow
from orchestrator.dispatch.ledger.record import note_state
from orchestrator.dispatch.messages import RunStatus
from orchestrator.dispatch.operator_text import describe_ask, describe_requested_state, skip_command
from orchestrator.errors import NoCluster, OrchestrateError, UsageError
from orchestrator.matrix.units import parse_bytes, parse_watts
from orchestrator.report.terminal import print_table

if TYPE_CHECKING:
    from orchestrator.dispatch.offline import OfflineHome

SKIPPED_HINT = "; should it come back after all: orchestrate retry RUN --cause device_lost"


@contextlib.contextmanager
def coordinator(address: str | None) -> Iterator[CoordinatorApi]:
    with link_coordinator(address, join_only=True) as link:
        yield link.coordinator


def show_status(address: str | None, *, as_json: bool) -> None:
    try:
        with coordinator(address) as cluster:
            page = cluster.status()
    except NoCluster:
        page = _status_without_cluster()
    if as_json:
        print(json.dumps(_status_data(page)))
        return
    for trouble in page.troubles:
        print(f"trouble: {trouble}")
    print_table(status_table(page), sys.stdout)
    asks = [ask for view in page.runs for ask in view.asks]
    if asks or page.absent:
        print()
    for ask, cannot in zip(asks, page.skip_commands, strict=False):
        print(f"waits for you: {ask}")
        print(f"    (if that cannot be done: {cannot})")
    for each in page.absent:
        away = format_duration(max(time.time() - each.seen_unix_s, 0.0))
        waiting = "1 job waits" if each.jobs == 1 else f"{format_count(each.jobs, 'job')} wait"
        print(f"away for {away}: {each.device}; {waiting} for it. Switch it on and have it join: orchestrate join")
        print(f"    (if it does not come back: orchestrate skip {each.device})")


def _status_without_cluster() -> StatusView:
    with open_ledger() as ledger, no_coordinator_runs() as free:
        rows = ledger.runs() if ledger else []
        if not free:
            at_work = "a submit with a cluster of its own is at work on this machine: it shows there what it does"
            return StatusView(tuple(RunView(row, (), ()) for row in rows), (at_work,), (), 0)
        from orchestrator.dispatch.offline import OfflineHome

        found = OfflineHome(data_root(), ledger).ask() if ledger else None
        asks = {found[0].run_id: describe_ask(*found)} if found else {}
        views = tuple(RunView(row, (), (asks[row.id],) if row.id in asks else ()) for row in rows)
        skips = (skip_command(*found),) if found else ()
        words = "no cluster runs on this machine: nothing goes on by itself; go on with: orchestrate resume RUN"
        return StatusView(views, (words,), skips, 0)


@contextlib.contextmanager
def _offline_home() -> Iterator[OfflineHome]:
    """This machine's own, where neither a cluster nor a submit works. Raises OrchestrateError."""
    with open_ledger() as ledger, no_coordinator_runs() as free:
        if not free:
            raise OrchestrateError(
                "a submit with a cluster of its own is at work on this machine; when it has ended, say so again"
            )
        if ledger is None:
            raise OrchestrateError("no cluster runs on this machine, and nothing was ever submitted here")
        from orchestrator.dispatch.offline import OfflineHome

        yield OfflineHome(data_root(), ledger)


def _status_data(page: StatusView) -> dict[str, Any]:
    runs = [
        _run_data(view.row) | {"left": view.row.remaining, "busy": view.busy, "operator": view.asks}
        for view in page.runs
    ]
    absent = [asdict(each) for each in page.absent]
    return {"runs": runs, "troubles": page.troubles, "devices": page.devices, "absent": absent}


def _run_data(row: RunRow) -> dict[str, Any]:
    """The keys are an interface: scripts read them."""
    return {"doing" if key == "status" else key: value for key, value in asdict(row).items()}


def show_devices(address: str | None, *, as_json: bool) -> None:
    try:
        with coordinator(address) as cluster:
            views = cluster.devices()
    except NoCluster:
        with open_ledger() as ledger:
            seen = ledger.seen_devices() if ledger else []
        views = [DeviceView(each.device, "away", each.address, each.seen_unix_s) for each in seen]
    if as_json:
        print(json.dumps([_device_data(view) for view in views]))
        return
    print_table(devices_table(views, time.time()), sys.stdout)


def _device_data(view: DeviceView) -> dict[str, Any]:
    facts = asdict(view.device) | {"labels": dict(view.device.labels)} if view.device else None
    return {"device": facts, "doing": view.status, "address": view.address, "seen_unix_s": view.seen_unix_s}


def set_run(name: str, command: str, *, address: str | None) -> None:
    what = RunStatus(command)
    try:
        with coordinator(address) as cluster:
            run = pick_run(name, cluster.runs())
            cluster.set_run(run, what)
    except NoCluster:
        with open_ledger() as ledger:
            rows = {row.id: row for row in ledger.runs()} if ledger else {}
            run = pick_run(name, list(rows))
            if not rows[run].remaining:
                raise OrchestrateError(f"run {run}: all its jobs are done") from None
            with no_coordinator_runs() as free:
                if not free:
                    words = "a submit with a cluster of its own is at work; Ctrl-C there stops its run"
                    raise OrchestrateError(words) from None
                if ledger is not None:
                    ledger.set_run(run, what)
                    with contextlib.suppress(OrchestrateError):  # a full disk: the ledger has it
                        note_state(ledger, data_root(), run)
    print(f"run {run}: {command}; go on with: orchestrate resume {run}")


def set_priority(name: str, number: int, *, address: str | None) -> None:
    with coordinator(address) as cluster:
        run = pick_run(name, cluster.runs())
        row = next(view.row for view in cluster.status().runs if view.row.id == run)
        cluster.set_run(run, row.status, number)
    print(f"run {run}: priority {number}")


def retry_run(name: str, causes: list[str] | None, *, address: str | None) -> None:
    allowed = [each.value for each in Cause]
    for each in causes or ():
        if each not in allowed:
            raise UsageError(f"--cause {each!r}: allowed: {', '.join(allowed)}")
    with coordinator(address) as cluster:
        run = pick_run(name, cluster.runs())
        count = cluster.retry(
            run, causes or [cause.value for cause, policy in CAUSES.items() if policy.retried_on_request]
        )
    words = f"; see it with: orchestrate watch {run}" if count else ""
    print(f"run {run}: {format_count(count, 'job')} again{words}")


def state_device(name: str, dedicated_vram: str | None, power_limit: str | None, *, address: str | None) -> None:
    stated = _stated(dedicated_vram, power_limit)
    try:
        with coordinator(address) as cluster:
            requested, then = cluster.state(name, stated), ""
    except NoCluster:
        with _offline_home() as home:
            home.state(name, stated)
            found = home.ask()
        requested, then = describe_requested_state(*found) if found else "", "; go on with: orchestrate resume"
    print(f"{name}: noted; what was seen on the machine itself counts more{then if not requested else ''}")
    if requested:
        print(requested)


def skip_device(name: str, dedicated_vram: str | None, power_limit: str | None, *, address: str | None) -> None:
    if "none" in (dedicated_vram, power_limit):
        raise UsageError("none: only `orchestrate state` takes a word back. Allowed here: a size, watts")
    wanted = MachineState()
    if dedicated_vram is not None or power_limit is not None:
        stated = _stated(dedicated_vram, power_limit)
        wanted = MachineState(stated.dedicated_vram_bytes, stated.power_limit_w)
    try:
        with coordinator(address) as cluster:
            count = cluster.skip(name, wanted)
    except NoCluster:
        with _offline_home() as home:
            count = home.skip(name, wanted)
    print(f"{name}: {format_count(count, 'job')} skipped{SKIPPED_HINT if count and wanted == MachineState() else ''}")


def _stated(dedicated_vram: str | None, power_limit: str | None) -> Stated:
    if dedicated_vram is None and power_limit is None:
        raise UsageError("nothing is said. Allowed: --dedicated-vram SIZE, --power-limit WATTS, or both")
    try:
        return Stated(
            None if dedicated_vram is None else TAKEN_BACK if dedicated_vram == "none" else parse_bytes(dedicated_vram),
            None if power_limit is None else TAKEN_BACK if power_limit == "none" else parse_watts(power_limit),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def ensure_coordinator(address: str | None) -> None:
    """Only this, which `orchestrate head` runs, may replace a coordinator of another version."""
    with link_coordinator(address, join_only=True, replace_idle=True) as link:
        version = link.coordinator.version()
    print(f"the coordinator (version {version}) is at work; results: {data_root()}")
