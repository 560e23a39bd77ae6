"""Runs a matrix with the made-up axis ``rope`` from its file to a comparison.

``python -m tests.contract.added_axis FOLDER``, with FOLDER first in PYTHONPATH: it holds the source that the axis was
added to.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from agents.contract import job as job_module
from agents.contract.job import Job
from orchestrator.compare.pivot import pivot
from orchestrator.matrix import expand, json_schema, read_matrix
from orchestrator.plan.jobs import job_of, plan_jobs
from orchestrator.report.pivot_table import pivot_table
from orchestrator.results.store import Store
from tests.unit.results.made_attempts import DEVICE, report

MATRIX = """
defaults: {model: tiny:llama, workload: pp16+tg4}
axes: {rope: [1, 2.5]}
measure: {repeats: 1, warmups: 0}
"""


def main(folder: Path) -> None:
    assert Path(job_module.__file__).is_relative_to(folder), "the source with the axis is the one that runs"
    (folder / "added.yaml").write_text(MATRIX)
    matrix = read_matrix(folder / "added.yaml")
    cells = expand(matrix)
    assert [cell.label() for cell in cells] == ["rope 1.0", "rope 2.5"]
    assert "rope" in json_schema()["$defs"]["AxesSpec"]["properties"], "an editor offers it"
    store = Store(folder)
    (queue,) = plan_jobs(matrix, cells, [DEVICE]).queues.values()
    for planned in queue:
        job = travelled(job_of(matrix, "run-1", planned, 1))
        store.append(job, replace(report(job), job_id=job.job_id), DEVICE)
    trials = store.load("run-1")
    assert set(trials.column("rope_scale").to_pylist()) == {1.0, 2.5}
    assert (trials.schema.field("rope_scale").metadata or {})[b"definition"].startswith(b"Factor that stretches")
    table = pivot_table(pivot(trials, ["rope"], [], "decode_tps"))
    assert (table.headers[0], [row[0].text for row in table.rows]) == ("rope", ["1", "2.5"])


def travelled(job: Job) -> Job:
    """The job as it comes out of JSON on a device."""
    adapter = TypeAdapter(Job)
    sent = adapter.dump_json(job)
    assert json.loads(sent)["load"]["rope_scale"] in (1.0, 2.5)
    return adapter.validate_json(sent)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
