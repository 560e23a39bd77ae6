"""``orchestrate show RUN --why JOB``: one job's story."""

from __future__ import annotations

import json
from dataclasses import asdict

from agents.places import data_root
from orchestrator.cli.coordinator_link import link_coordinator
from orchestrator.cli.ledger_access import no_coordinator_runs, open_ledger, pick_run
from orchestrator.dispatch.api import JobStory
from orchestrator.errors import NoCluster


def show_why(name: str, job: str, *, address: str | None, as_json: bool) -> None:
    try:
        with link_coordinator(address, join_only=True) as to:
            story = to.coordinator.why(pick_run(name, to.coordinator.runs()), job)
    except NoCluster:
        story = _from_ledger(name, job)
    if as_json:
        print(json.dumps(asdict(story)))
        return
    print(f"job {story.job_id} of run {story.run}: {story.cell}, on {story.device}")
    for line in story.now:
        print(f"  {line}")
    for title, lines in (("attempts", story.attempts), ("log", story.log)):
        print(f"{title}:" if lines else f"{title}: none")
        for line in lines:
            print(f"  {line}")


def _from_ledger(name: str, job: str) -> JobStory:
    from orchestrator.dispatch.job_story import story_of, with_log
    from orchestrator.results.store import Store

    with open_ledger() as ledger, no_coordinator_runs() as free:
        run = pick_run(name, [row.id for row in ledger.runs()] if ledger else [])
        assert ledger is not None  # it has the run
        return with_log(story_of(ledger, Store(data_root()), run, job, None, at_work=not free), data_root())
