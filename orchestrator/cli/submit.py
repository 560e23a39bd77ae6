"""``orchestrate submit``, ``resume`` and ``watch``: from a matrix to a table."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

from agents.places import data_root
from orchestrator.cli.coordinator_link import CoordinatorLink, link_coordinator
from orchestrator.cli.ledger_access import find_run, pick_run
from orchestrator.cli.results import digest_of_trials, run_digest
from orchestrator.cli.texts import format_count
from orchestrator.cli.view import JsonView, PlainView, RunDigest, View
from orchestrator.dispatch.api import RunSnapshot, Submission
from orchestrator.errors import OrchestrateError
from orchestrator.matrix import check_size, matrix_to_json, read_matrix
from orchestrator.plan.model_needs import needs_lines
from orchestrator.results.store import Store

INTERRUPTED = 130
WAIT_S = 1.0
STOP_GRACE_S = 15.0
"""How long a stop waits until agents report that they have cancelled; a resume finds what they report later."""


def view_for(as_json: bool) -> View:
    if as_json:
        return JsonView()
    if not sys.stdout.isatty():
        return PlainView()
    from orchestrator.cli.live import LiveView

    return LiveView()


def submit_matrix(
    file: Path, *, address: str | None, as_json: bool, yes: bool, detach: bool, priority: int, absent: bool
) -> None:
    matrix = read_matrix(file)
    check_size(matrix, 1, confirmed=yes)
    view = view_for(as_json)
    view.show_message("joining the Ray cluster, or starting one on this machine ...")
    with link_coordinator(address, join_only=detach) as link:
        submission = Submission(matrix_to_json(matrix), yes, priority, absent)
        submitted = link.coordinator.submit(submission)
        opening = replace(link.coordinator.snapshot(submitted.run), unplaced=submitted.unplaced, after=0)
        if detach:
            view.begin(opening)
            _show_needs(link, submitted.run, view)
            view.show_message(f"it goes on without this command; see it with: orchestrate watch {submitted.run}")
            return
        _watch(link, opening, view)


def resume_run(name: str, *, address: str | None, as_json: bool) -> None:
    view = view_for(as_json)
    run = _known_run(name, address)
    if run is not None and _is_done(run):
        view.show_message(f"run {run}: all jobs are done")
        view.end(run, data_root() / "runs" / run, run_digest(run, data_root()), complete=True)
        return
    view.show_message("joining the Ray cluster, or starting one on this machine ...")
    with link_coordinator(address) as link:
        run = pick_run(name, link.coordinator.runs()) if run is None or link.own_cluster is None else run
        opening = link.coordinator.snapshot(run)  # before the resume, so that its notices are watched
        link.coordinator.resume(run)
        now = link.coordinator.snapshot(run)
        _watch(link, replace(now, after=opening.after), view)


def watch_run(name: str, *, address: str | None, as_json: bool) -> None:
    view = view_for(as_json)
    with link_coordinator(address, join_only=True) as link:
        run = pick_run(name, link.coordinator.runs())
        opening = link.coordinator.snapshot(run)
        _watch(link, opening, view)


def _known_run(name: str, address: str | None) -> str | None:
    """The run by this host's own ledger; None where it has none, or where a cluster is named: that has its own."""
    from orchestrator.cli.ledger_access import ledger_path
    from orchestrator.cluster.environment import recorded_address

    chosen = address or os.environ.get("RAY_ADDRESS") or recorded_address()
    if (chosen and chosen != "local") or not ledger_path().exists():
        return None
    return find_run(name)


def _is_done(run: str) -> bool:
    from contextlib import closing

    from orchestrator.cli.ledger_access import ledger_path
    from orchestrator.dispatch.ledger.ledger import Ledger
    from orchestrator.dispatch.lost_rows import lost_rows

    with closing(Ledger(ledger_path())) as ledger:
        return ledger.run(run).remaining == 0 and not lost_rows(ledger, Store(data_root()), run).unreadable


def _watch(link: CoordinatorLink, opening: RunSnapshot, view: View) -> None:
    """Shows the run until it is over, or a person has seen enough; then the table."""
    run, coordinator = opening.run, link.coordinator
    view.begin(opening)
    _show_needs(link, run, view)
    with _ctrl_c(link, run) as asked, view.live():
        _show_notices(link, opening, asked, view)
    last = coordinator.snapshot(run)
    remaining = last.total - last.done
    folder = data_root() / "runs" / run if link.reads_files() else Path(f"HEAD:{coordinator.where()[1]}") / "runs" / run
    view.end(run, folder, _digest(link, run), complete=remaining == 0)
    if remaining == 0:
        return
    for ask in last.asks:
        view.show_message(f"to do: {ask}")
    view.show_message(_remaining_text(link, last, asked, remaining))
    sys.exit(INTERRUPTED if asked else 1)


def _show_notices(link: CoordinatorLink, opening: RunSnapshot, asked: list[float], view: View) -> None:
    """Until the run is over, cannot go on without its operator, or was stopped by ``asked``."""
    after, over = opening.after, opening.done == opening.total
    while not over:
        # asked before the notices are fetched: a job that ends in between is among them, and nobody comes back for it
        may_stop = _may_stop_watching(link, asked)
        answer = link.coordinator.watch(opening.run, after, 0.0 if may_stop else WAIT_S)
        after = answer.batch.next
        for notice in answer.batch.notices:
            view.on_notice(notice)
        over = answer.is_over or answer.is_stuck or may_stop


def _remaining_text(link: CoordinatorLink, opening: RunSnapshot, asked: list[float], remaining: int) -> str:
    jobs = f"{remaining} of {format_count(opening.total, 'job')} left"
    if link.own_cluster is None and asked:
        return f"{jobs}; the run goes on: orchestrate watch {opening.run}; to end it: orchestrate cancel {opening.run}"
    return f"{jobs}; go on with: orchestrate resume {opening.run}"


def _show_needs(link: CoordinatorLink, run: str, view: View) -> None:
    with contextlib.suppress(OrchestrateError):  # what is not known in time is no reason to wait
        for line in needs_lines(link.coordinator.needs(run)):
            view.show_message(line)


def _digest(link: CoordinatorLink, run: str) -> RunDigest:
    if link.reads_files():
        return run_digest(run, data_root())
    try:
        return digest_of_trials(link.coordinator.table(run))
    except OrchestrateError:  # nothing is measured yet
        return RunDigest((), ())


def _may_stop_watching(link: CoordinatorLink, asked: list[float]) -> bool:
    """After a Ctrl-C: at once where the cluster goes on without us; else when all is cancelled, or after a while."""
    if not asked:
        return False
    return link.own_cluster is None or link.coordinator.idle() or time.monotonic() - asked[0] > STOP_GRACE_S


@contextlib.contextmanager
def _ctrl_c(link: CoordinatorLink, run: str) -> Iterator[list[float]]:
    """When a clean end was asked for (Ctrl-C or SIGTERM); a second one ends at once.

    In a cluster of our own the run is stopped; another's goes on, and only the watching ends.
    """
    asked: list[float] = []

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(time.monotonic())
        if link.own_cluster is not None:
            import threading

            threading.Thread(target=link.own_cluster.stop, args=(run,), daemon=True).start()  # a handler must not wait

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
