"""The coordinator's loop on a thread of its own, and how other threads have something done there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from agents.log import Entry
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.errors import OrchestrateError

CALL_S = 60.0
TROUBLE_S = 8.0
"""So long a call waits where the coordinator itself cannot go on; then it says what is in the way."""
TURN_S = 0.2
CLOSE_S = 10.0
T = TypeVar("T")

log = logging.getLogger(__name__)


class LoopThread:
    """``on_failure`` gets what ended the loop, and so does each call from then on."""

    def __init__(
        self, loop: CoordinatorLoop, board: NoticeBoard, on_failure: Callable[[BaseException], object]
    ) -> None:
        self._loop = loop
        self._board = board
        self._on_failure = on_failure
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run()
        except BaseException as error:
            log.exception(Entry("CoordinatorFailed", term=self._loop.term))
            # set before the board is closed: whom that wakes looks for the error next
            self._error = error
            self._on_failure(error)
        finally:
            # watchers would else wait out their time for a notice that nobody posts any more
            self._board.close()

    def call(self, work: Callable[[], T], *, changes: bool = True, is_kept: bool = False) -> T:
        """``work`` on the loop's thread. Raises what ended the loop, if something did.

        What ``changes`` something waits for TROUBLE_S where nothing can be written, and is then not done, but for what
        ``is_kept`` in the ledger already.
        """
        future = self._loop.call_soon(work, changes=changes)
        began_s = time.monotonic()
        while True:
            self.raise_error()
            try:
                # in short turns: a loop that has ended never gets to this future, and only _error shows that
                return future.result(timeout=TURN_S)
            except FutureTimeout:
                limit_s = TROUBLE_S if self._loop.trouble else CALL_S
                if time.monotonic() - began_s > limit_s and (is_kept or future.cancel()):
                    trouble = self._loop.trouble or "it is busy"
                    raise OrchestrateError(f"the coordinator does not get to it: {trouble}") from None

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """What is given back after this is used by the loop's thread to the end of its last round."""
        self._loop.close()
        self._thread.join(timeout=CLOSE_S)
        log.info(Entry("CoordinatorClosed", term=self._loop.term))
