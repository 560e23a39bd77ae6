"""``orchestrate logs``: what the coordinator and the agent of this machine wrote down, or a coordinator elsewhere."""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.contract.device import Device
from agents.device_file import read_device_file
from agents.places import data_root, device_root
from orchestrator.cli.kept_run import from_ledger, ledger_rows
from orchestrator.cli.ledger_access import pick_run
from orchestrator.dispatch.machine_log import LogFilter, LogPage, Places, log_files, own_device_id, read_log
from orchestrator.errors import UsageError

FOLLOW_S = 0.5

Read = Callable[[LogFilter, int | None, Places | None], LogPage]


@contextmanager
def _source(address: str | None) -> Iterator[tuple[Read, Sequence[str], Mapping[str, str]]]:
    """How to read, the runs (the newest first), and the devices' names by their ids."""
    if address is None:
        root = data_root()
        yield (lambda wanted, most, after: read_log(root, wanted, most, after)), *_known_here(root)
        return
    from orchestrator.cli.coordinator_link import link_coordinator

    with link_coordinator(address, join_only=True) as to:
        devices = {view.device.device_id: view.device.name for view in to.coordinator.devices() if view.device}
        yield to.coordinator.log, to.coordinator.runs(), devices


def _known_here(root: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    """By the ledger, where this machine is a head; by its log and its own name, where it is a device."""
    # a damaged ledger is what the log may explain: it is read without one
    runs = list(ledger_rows())
    seen: list[Device] = from_ledger(lambda ledger: ledger.devices(), list[Device]())
    devices = {each.device_id: each.name for each in seen}
    if (own := own_device_id(root)) is not None and own not in devices:
        with suppress(ValueError):
            devices[own] = read_device_file(device_root(root)).name or socket.gethostname()
    if not runs:
        newest_first = reversed(read_log(root, LogFilter()).lines)
        runs = list(dict.fromkeys(each for line in newest_first for each in re.findall(r" run=(\S+) ", line)))
    return runs, devices


def show_logs(name: str | None, *, follow: bool, most_lines: int, address: str | None) -> None:
    out = sys.stdout  # before a connection to a cluster takes it from Ray
    with _source(address) as (read, runs, devices):
        wanted = LogFilter() if name is None else filter_named(name, runs, devices)
        page = read(wanted, most_lines, None)
        if not page.lines:
            print(_why_empty(name, page, address), file=sys.stderr)
        while True:
            for line in page.lines:
                print(line, file=out, flush=True)
            if not follow:
                return
            wait()
            page = read(wanted, None, page.next)


def wait() -> None:
    time.sleep(FOLLOW_S)


def filter_named(name: str, runs: Sequence[str], devices: Mapping[str, str]) -> LogFilter:
    """A device by its id or its only name, else a run as everywhere. Raises UsageError."""
    found = [device_id for device_id, shown in devices.items() if name in (device_id, shown)]
    if len(found) == 1 and name not in runs:
        return LogFilter(device_id=found[0])
    if len(found) > 1:
        raise UsageError(f"device {name!r}: several have this name; give an id: {', '.join(found)}")
    if runs:
        try:
            return LogFilter(run_id=pick_run(name, list(runs)))
        except UsageError as error:
            raise UsageError(f"{error}; devices: {', '.join(sorted(devices.values())) or 'none'}") from error
    known = ", ".join(sorted(devices.values())) or "none"
    raise UsageError(f"{name!r}: neither a run nor a device that is known here; runs: none; devices: {known}")


def _why_empty(name: str | None, page: LogPage, address: str | None) -> str:
    if page.next:
        return "the log is empty" if name is None else f"the log holds no line on {name}"
    if address is not None:
        return f"the coordinator at {address} has written no log"
    files = " and ".join(map(str, log_files(data_root()).values()))
    return (
        f"no log on this machine yet ({files}): a head, a device or a submit here writes it, unless ORCHESTRATE_LOG"
        " is off. Of a coordinator elsewhere: orchestrate logs --address HOST:6379"
    )
