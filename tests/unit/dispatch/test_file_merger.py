"""The coordinator merges a run's files while it goes on; what fails there ends nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.dispatch import file_merger
from orchestrator.dispatch.file_merger import FileMerger
from orchestrator.errors import OrchestrateError
from orchestrator.results.merging import FAN, Stopped
from orchestrator.results.store import Store
from tests.unit.dispatch.submitted_run import RUN, SubmittedRun
from tests.unit.results.test_results_append_many import kept, trials_of


def joined() -> None:
    """Until nothing is merged any more."""
    for thread in threading.enumerate():
        if thread.name == "merge":
            thread.join(30.0)
            assert not thread.is_alive()


def keep(root: Path, merger: FileMerger, numbers: range) -> None:
    store = Store(root)
    for number in numbers:
        store.append_many([kept(f"j{number}")])
        merger.attempt_kept("run-1")


def test_nothing_before_there_are_enough(tmp_path: Path) -> None:
    merger = FileMerger(tmp_path)
    keep(tmp_path, merger, range(FAN - 1))
    joined()
    assert len(trials_of(tmp_path)) == FAN - 1


def test_files_are_merged_as_they_come_and_the_rest_at_the_end(tmp_path: Path) -> None:
    merger = FileMerger(tmp_path)
    keep(tmp_path, merger, range(FAN))
    joined()
    assert len(trials_of(tmp_path)) == 1
    keep(tmp_path, merger, range(FAN, FAN + 20))
    merger.look_at("run-1", has_ended=True)
    joined()
    assert len(trials_of(tmp_path)) == 1
    assert len(Store(tmp_path).attempts("run-1")) == FAN + 20


@pytest.mark.parametrize("error", [OrchestrateError("the disk is full"), Stopped(), ValueError("a fault of ours")])
def test_what_fails_is_tried_again_when_there_is_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    merger = FileMerger(tmp_path)
    monkeypatch.setattr(file_merger, "FAN", 10)

    def fails(*_: object, **__: object) -> bool:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Store, "merge_small", fails)
        keep(tmp_path, merger, range(10))
        joined()
    assert len(trials_of(tmp_path)) == 10
    keep(tmp_path, merger, range(10, 20))
    merger.look_at("run-1", has_ended=True)
    joined()
    assert len(trials_of(tmp_path)) == 1
    assert len(Store(tmp_path).attempts("run-1")) == 20


def test_closing_breaks_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merger, began, threads = FileMerger(tmp_path), threading.Event(), []

    def waits(_: Store, run: str, *, has_ended: bool, is_stopped: Callable[[], bool]) -> bool:
        threads.append(threading.current_thread())
        began.set()
        while not is_stopped():
            pass
        raise Stopped

    monkeypatch.setattr(Store, "merge_small", waits)
    merger.look_at("run-1")
    assert began.wait(30.0)
    merger.close()
    assert not threads[0].is_alive()
    merger.look_at("run-1")
    joined()
    assert len(threads) == 1, "nothing begins after it was closed"


def test_a_run_of_the_loop_is_merged_and_the_loop_does_not_wait(tmp_path: Path) -> None:
    """The merging thread is held up: the run ends all the same."""
    run = SubmittedRun(
        tmp_path, text="axes: {model: tiny:llama, workload: pp8, context: [1K, 2K]}\nmeasure: {repeats: 40}\n"
    )
    go_on, merged = threading.Event(), threading.Event()
    merger = FileMerger(tmp_path)
    real = merger._store.merge_small

    def held(*args: object, **more: object) -> bool:
        merged.set()
        assert go_on.wait(60.0)
        return real(*args, **more)  # type: ignore[arg-type]

    merger._store.merge_small = held  # type: ignore[method-assign]
    fleet = run.fleet()
    run.complete(run.coordinator(fleet, merger=merger))
    assert merged.is_set() and len(trials_of(tmp_path, RUN)) == 80
    go_on.set()
    joined()
    assert len(trials_of(tmp_path, RUN)) == 1
    assert [state for state, _, _ in run.states()] == ["done"] * 80 and len(run.stored()) == 80
