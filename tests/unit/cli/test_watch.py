"""What `submit`, `resume` and `watch` show of a run, up to its last notice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from orchestrator.cli.coordinator_link import CoordinatorLink, OwnCluster
from orchestrator.cli.submit import _show_notices
from orchestrator.dispatch.api import RunSnapshot, WatchAnswer
from orchestrator.dispatch.board import NoticeBatch
from orchestrator.dispatch.notices import Notice, RunStopping

SNAPSHOT = RunSnapshot("run-1", "run", "", (), frozenset(), 4, 0, 0, {})
FIRST, LAST = RunStopping(), cast(Notice, "the notice of the job that was cancelled last")


@dataclass
class Stopping:
    """A coordinator whose last job ends just before it says that nothing runs any more."""

    posted: list[Notice] = field(default_factory=lambda: [FIRST])
    waits_s: list[float] = field(default_factory=list)

    def idle(self) -> bool:
        self.posted.append(LAST)
        return True

    def watch(self, _: str, after: int, wait_s: float) -> WatchAnswer:
        self.waits_s.append(wait_s)
        return WatchAnswer(NoticeBatch(tuple(self.posted[after:]), len(self.posted)), is_over=False, is_stuck=False)


@dataclass
class Shown:
    notices: list[Notice] = field(default_factory=list)

    def on_notice(self, notice: Notice) -> None:
        self.notices.append(notice)


def test_a_job_that_ends_while_the_run_is_stopped_is_shown() -> None:
    coordinator, shown = Stopping(), Shown()
    link = CoordinatorLink(cast(Any, coordinator), OwnCluster(stop=lambda _: None))
    _show_notices(link, SNAPSHOT, [0.0], cast(Any, shown))
    assert shown.notices == [FIRST, LAST]
    assert coordinator.waits_s == [0.0], "nobody waits for a notice where nothing runs"
