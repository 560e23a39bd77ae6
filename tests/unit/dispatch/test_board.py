from __future__ import annotations

import threading
from collections.abc import Callable

from orchestrator.dispatch.board import KEPT, MOST_RUNS, NoticeBoard
from orchestrator.dispatch.notices import DeviceName, JobProgress, Notice, RunEnded, RunStopping, TroubleReported

LONG_S = 60.0
"""A wait that ends by what happens, or fails the test's own limit."""


def words(number: int) -> Notice:
    return TroubleReported(str(number))


def progress(device_id: str, phase: str) -> JobProgress:
    return JobProgress(DeviceName(device_id, device_id), "job", phase, None)


def test_a_watcher_goes_on_where_it_was() -> None:
    board = NoticeBoard()
    board.post("run-1", words(1))
    board.post("run-1", words(2))
    first = board.notices_after("run-1", 0, LONG_S)
    assert first.notices == (words(1), words(2))
    board.post("run-1", words(3))
    second = board.notices_after("run-1", first.next, LONG_S)
    assert second.notices == (words(3),)
    assert board.notices_after("run-1", second.next, 0.0).notices == ()


def test_each_watcher_for_itself() -> None:
    board = NoticeBoard()
    board.post("run-1", words(1))
    assert board.notices_after("run-1", 0, 0.0) == board.notices_after("run-1", 0, 0.0)


def test_runs_do_not_hear_of_each_other() -> None:
    board = NoticeBoard()
    board.post("run-1", words(1))
    board.post("run-2", words(2))
    board.post("run-1", words(3))
    assert board.notices_after("run-1", 0, 0.0).notices == (words(1), words(3))
    assert board.notices_after("run-2", 0, 0.0).notices == (words(2),)
    assert board.notices_after("run-3", 0, 0.0).notices == ()


def test_who_begins_now_hears_only_what_comes() -> None:
    board = NoticeBoard()
    board.post("run-1", words(1))
    after = board.count
    board.post("run-1", words(2))
    assert board.notices_after("run-1", after, 0.0).notices == (words(2),)


def test_of_progress_only_the_latest_and_only_of_the_runs_devices() -> None:
    board = NoticeBoard()
    for phase in ("loading", "measuring"):
        board.post_progress(progress("a", phase))
    board.post_progress(progress("b", "loading"))
    assert board.notices_after("run-1", 0, 0.0, ["a", "c"]).notices == (progress("a", "measuring"),)
    assert board.notices_after("run-1", 0, 0.0).notices == ()
    board.post("run-1", RunStopping())
    assert board.notices_after("run-1", 0, 0.0, ["b"]).notices == (RunStopping(), progress("b", "loading"))


def _waits(board: NoticeBoard, look: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(look()), daemon=True)
    thread.start()
    return thread, found


def test_a_watcher_waits_for_what_happens() -> None:
    board = NoticeBoard()
    thread, found = _waits(board, lambda: board.notices_after("run-1", 0, LONG_S))
    board.post("run-2", words(1))
    board.post("run-1", words(2))
    thread.join(LONG_S)
    (news,) = found
    assert getattr(news, "notices", None) == (words(2),)


def test_progress_ends_the_wait() -> None:
    board = NoticeBoard()
    board.post_progress(progress("a", "loading"))
    thread, found = _waits(board, lambda: board.notices_after("run-1", 0, LONG_S, ["a"]))
    while not found:  # it may not have begun to wait when the first one is told
        for phase in ("measuring", "done"):
            board.post_progress(progress("a", phase))
            thread.join(0.01)
    assert len(found) == 1


def test_its_end_ends_all_waits() -> None:
    board = NoticeBoard()
    thread, found = _waits(board, lambda: board.notices_after("run-1", 0, LONG_S))
    board.close()
    thread.join(LONG_S)
    assert len(found) == 1
    board.post("run-1", RunEnded(complete=True))
    assert board.notices_after("run-1", 0, LONG_S).notices == (RunEnded(complete=True),), "what comes late is told too"


def test_nothing_happens_and_the_wait_is_over() -> None:
    assert NoticeBoard().notices_after("run-1", 0, 0.0).notices == ()
    NoticeBoard().wait(0.0)


def test_a_watcher_that_was_away_for_long_hears_the_latest() -> None:
    board = NoticeBoard()
    for number in range(KEPT + 7):
        board.post("run-1", words(number))
    news = board.notices_after("run-1", 0, 0.0)
    assert (news.notices[0], news.notices[-1], len(news.notices)) == (words(7), words(KEPT + 6), KEPT)
    assert board.notices_after("run-1", news.next, 0.0).notices == ()


def test_of_many_runs_the_oldest_are_forgotten() -> None:
    board = NoticeBoard()
    for number in range(MOST_RUNS + 1):
        board.post(f"run-{number}", words(number))
    assert board.notices_after("run-0", 0, 0.0).notices == ()
    assert board.notices_after("run-1", 0, 0.0).notices == (words(1),)


def test_a_watcher_of_the_coordinator_before_gets_all_notices_of_the_next_one() -> None:
    """Not only those above its own number: the next one would get there much later, or never before the run ends."""
    before, after = NoticeBoard(), NoticeBoard()
    before.begin(1_796_075_599)
    for number in range(20):
        before.post("run-1", words(number))
    after.begin(1_796_075_600)
    after.post("run-1", RunEnded(complete=True))
    assert after.notices_after("run-1", before.count, 0.0).notices == (RunEnded(complete=True),)
