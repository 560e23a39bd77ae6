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
from orchestrator.cli.coordinator_link import Joined, joined
from orchestrator.cli.ledger_access import run_among, run_named
from orchestrator.cli.results import summary_of, summary_of_table
from orchestrator.cli.texts import counted
from orchestrator.cli.view import JsonView, LinesView, Summary, View
from orchestrator.dispatch.api import RunSnapshot, Submission
from orchestrator.errors import OrchestrateError
from orchestrator.matrix import check_size, matrix_to_json, read_matrix
from orchestrator.plan.model_needs import needs_lines

INTERRUPTED = 130
WAIT_S = 1.0
STOP_GRACE_S = 15.0
"""How long a stop waits for agents to say that they have cancelled; a resume finds what they say later."""


def view_for(as_json: bool) -> View:
    if as_json:
        return JsonView()
    if not sys.stdout.isatty():
        return LinesView()
    from orchestrator.cli.live import LiveView

    return LiveView()


def submit_matrix(
    file: Path, *, address: str | None, as_json: bool, yes: bool, detach: bool, priority: int, absent: bool
) -> None:
    matrix = read_matrix(file)
    check_size(matrix, 1, confirmed=yes)
    view = view_for(as_json)
    view.say("joining the Ray cluster, or starting one on this machine ...")
    with joined(address, join_only=detach) as to:
        submission = Submission(matrix_to_json(matrix), yes, priority, absent)
        submitted = to.coordinator.submit(submission)
        opening = replace(to.coordinator.snapshot(submitted.run), unplaced=submitted.unplaced, after=0)
        if detach:
            view.begin(opening)
            _say_needs(to, submitted.run, view)
            view.say(f"it goes on without this command; see it with: orchestrate watch {submitted.run}")
            return
        _watch(to, opening, view)


def resume_run(name: str, *, address: str | None, as_json: bool) -> None:
    view = view_for(as_json)
    run = _known_run(name, address)
    if run is not None and _is_done(run):
        view.say(f"run {run}: all jobs are done")
        view.end(run, data_root() / "runs" / run, summary_of(run, data_root()), complete=True)
        return
    view.say("joining the Ray cluster, or starting one on this machine ...")
    with joined(address) as to:
        run = run_among(name, to.coordinator.runs()) if run is None or to.own is None else run
        opening = to.coordinator.snapshot(run)  # before: what happens from now on is watched
        to.coordinator.resume(run)
        now = to.coordinator.snapshot(run)
        _watch(to, replace(now, after=opening.after), view)


def watch_run(name: str, *, address: str | None, as_json: bool) -> None:
    view = view_for(as_json)
    with joined(address, join_only=True) as to:
        run = run_among(name, to.coordinator.runs())
        opening = to.coordinator.snapshot(run)
        _watch(to, opening, view)


def _known_run(name: str, address: str | None) -> str | None:
    """The run by this host's own ledger; None where it has none, or where a cluster is named: that has its own."""
    from orchestrator.cli.ledger_access import ledger_path
    from orchestrator.cluster.environment import recorded_address

    told = address or os.environ.get("RAY_ADDRESS") or recorded_address()
    if (told and told != "local") or not ledger_path().exists():
        return None
    return run_named(name)


def _is_done(run: str) -> bool:
    from contextlib import closing

    from orchestrator.cli.ledger_access import ledger_path
    from orchestrator.dispatch.ledger import Ledger

    with closing(Ledger(ledger_path())) as ledger:
        return ledger.run(run).remaining == 0


def _watch(to: Joined, opening: RunSnapshot, view: View) -> None:
    """Shows the run until it is over, or a person has seen enough; then the table."""
    run, coordinator = opening.run, to.coordinator
    view.begin(opening)
    _say_needs(to, run, view)
    with _ctrl_c(to, run) as asked, view.live():
        after, over = opening.after, opening.done == opening.total
        while not over:
            told = coordinator.watch(run, after, WAIT_S)
            after = told.news.next
            for notice in told.news.notices:
                view.tell(notice)
            over = told.over or told.stuck or _is_let_go(to, asked)
    last = coordinator.snapshot(run)
    left = last.total - last.done
    folder = data_root() / "runs" / run if to.reads_files() else Path(f"HEAD:{coordinator.where()[1]}") / "runs" / run
    view.end(run, folder, _summary(to, run), complete=left == 0)
    if left == 0:
        return
    for ask in last.asks:
        view.say(f"to do: {ask}")
    view.say(_left_words(to, last, asked, left))
    sys.exit(INTERRUPTED if asked else 1)


def _left_words(to: Joined, opening: RunSnapshot, asked: list[float], left: int) -> str:
    jobs = f"{left} of {counted(opening.total, 'job')} left"
    if to.own is None and asked:
        return f"{jobs}; the run goes on: orchestrate watch {opening.run}; to end it: orchestrate cancel {opening.run}"
    return f"{jobs}; go on with: orchestrate resume {opening.run}"


def _say_needs(to: Joined, run: str, view: View) -> None:
    with contextlib.suppress(OrchestrateError):  # what cannot be told in time is no reason to wait
        for line in needs_lines(to.coordinator.needs(run)):
            view.say(line)


def _summary(to: Joined, run: str) -> Summary:
    if to.reads_files():
        return summary_of(run, data_root())
    try:
        return summary_of_table(to.coordinator.table(run))
    except OrchestrateError:  # nothing is measured yet
        return Summary((), ())


def _is_let_go(to: Joined, asked: list[float]) -> bool:
    """After a Ctrl-C: at once where the cluster goes on without us; else when all is cancelled, or after a while."""
    if not asked:
        return False
    return to.own is None or to.coordinator.idle() or time.monotonic() - asked[0] > STOP_GRACE_S


@contextlib.contextmanager
def _ctrl_c(to: Joined, run: str) -> Iterator[list[float]]:
    """When a clean end was asked for (Ctrl-C or SIGTERM); a second one ends at once.

    In a cluster of our own the run is stopped; another's goes on, and only the watching ends.
    """
    asked: list[float] = []

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(time.monotonic())
        if to.own is not None:
            import threading

            threading.Thread(target=to.own.stop, args=(run,), daemon=True).start()  # a handler must not wait

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
