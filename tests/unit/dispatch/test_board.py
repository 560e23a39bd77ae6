from __future__ import annotations

import threading
from collections.abc import Callable

from orchestrator.dispatch.board import KEPT, MOST_RUNS, Board
from orchestrator.dispatch.notices import DeviceName, Ended, Happening, JobProgress, Stopping, Troubled

LONG_S = 60.0
"""A wait that ends by what happens, or fails the test's own limit."""


def words(number: int) -> Happening:
    return Troubled(str(number))


def progress(device_id: str, phase: str) -> JobProgress:
    return JobProgress(DeviceName(device_id, device_id), "job", phase, None)


def test_a_watcher_goes_on_where_it_was() -> None:
    board = Board()
    board.tell("run-1", words(1))
    board.tell("run-1", words(2))
    first = board.news("run-1", 0, LONG_S)
    assert first.happenings == (words(1), words(2))
    board.tell("run-1", words(3))
    second = board.news("run-1", first.next, LONG_S)
    assert second.happenings == (words(3),)
    assert board.news("run-1", second.next, 0.0).happenings == ()


def test_each_watcher_for_itself() -> None:
    board = Board()
    board.tell("run-1", words(1))
    assert board.news("run-1", 0, 0.0) == board.news("run-1", 0, 0.0)


def test_runs_do_not_hear_of_each_other() -> None:
    board = Board()
    board.tell("run-1", words(1))
    board.tell("run-2", words(2))
    board.tell("run-1", words(3))
    assert board.news("run-1", 0, 0.0).happenings == (words(1), words(3))
    assert board.news("run-2", 0, 0.0).happenings == (words(2),)
    assert board.news("run-3", 0, 0.0).happenings == ()


def test_who_begins_now_hears_only_what_comes() -> None:
    board = Board()
    board.tell("run-1", words(1))
    after = board.count
    board.tell("run-1", words(2))
    assert board.news("run-1", after, 0.0).happenings == (words(2),)


def test_of_progress_only_the_latest_and_only_of_the_runs_devices() -> None:
    board = Board()
    for phase in ("loading", "measuring"):
        board.progress(progress("a", phase))
    board.progress(progress("b", "loading"))
    assert board.news("run-1", 0, 0.0, ["a", "c"]).happenings == (progress("a", "measuring"),)
    assert board.news("run-1", 0, 0.0).happenings == ()
    board.tell("run-1", Stopping())
    assert board.news("run-1", 0, 0.0, ["b"]).happenings == (Stopping(), progress("b", "loading"))


def _waits(board: Board, look: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(look()), daemon=True)
    thread.start()
    return thread, found


def test_a_watcher_waits_for_what_happens() -> None:
    board = Board()
    thread, found = _waits(board, lambda: board.news("run-1", 0, LONG_S))
    board.tell("run-2", words(1))
    board.tell("run-1", words(2))
    thread.join(LONG_S)
    (news,) = found
    assert getattr(news, "happenings", None) == (words(2),)


def test_progress_ends_the_wait() -> None:
    board = Board()
    board.progress(progress("a", "loading"))
    thread, found = _waits(board, lambda: board.news("run-1", 0, LONG_S, ["a"]))
    while not found:  # it may not have begun to wait when the first one is told
        for phase in ("measuring", "done"):
            board.progress(progress("a", phase))
            thread.join(0.01)
    assert len(found) == 1


def test_its_end_ends_all_waits() -> None:
    board = Board()
    thread, found = _waits(board, lambda: board.news("run-1", 0, LONG_S))
    board.close()
    thread.join(LONG_S)
    assert len(found) == 1
    board.tell("run-1", Ended(complete=True))
    assert board.news("run-1", 0, LONG_S).happenings == (Ended(complete=True),), "what comes late is told too"


def test_nothing_happens_and_the_wait_is_over() -> None:
    assert Board().news("run-1", 0, 0.0).happenings == ()
    Board().wait(0.0)


def test_a_watcher_that_was_away_for_long_hears_the_latest() -> None:
    board = Board()
    for number in range(KEPT + 7):
        board.tell("run-1", words(number))
    news = board.news("run-1", 0, 0.0)
    assert (news.happenings[0], news.happenings[-1], len(news.happenings)) == (words(7), words(KEPT + 6), KEPT)
    assert board.news("run-1", news.next, 0.0).happenings == ()


def test_of_many_runs_the_oldest_are_forgotten() -> None:
    board = Board()
    for number in range(MOST_RUNS + 1):
        board.tell(f"run-{number}", words(number))
    assert board.news("run-0", 0, 0.0).happenings == ()
    assert board.news("run-1", 0, 0.0).happenings == (words(1),)
