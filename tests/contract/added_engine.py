"""Adds the made-up engine's line before anything else of the project is imported, and runs a cell on it.

``python -m tests.contract.added_engine FOLDER``: a process of its own, since a line in a file is there from the start.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from agents.contract import engines

LINE = engines.EngineFacts("made-up", "tests.contract.adapters.made_up:MadeUp", ("made-up-server",), takes_files=True)

engines.ENGINES = (*engines.ENGINES, LINE)

from agents.contract.device import Device  # noqa: E402
from agents.contract.job import Job  # noqa: E402
from agents.contract.report import Measured  # noqa: E402
from agents.device.doctor import found_of, look_for  # noqa: E402
from agents.device.inventory import inventory  # noqa: E402
from agents.device_file import DEVICE_FILE, read_device_file  # noqa: E402
from agents.engines import engines_of  # noqa: E402
from agents.job.host import Host  # noqa: E402
from agents.models.needs import needs  # noqa: E402
from agents.telemetry.processes import engine_pids  # noqa: E402
from orchestrator.matrix import expand, json_schema, read_matrix  # noqa: E402
from orchestrator.plan.jobs import job_of, plan_jobs  # noqa: E402
from tests.contract.adapters.made_up import ROUTES  # noqa: E402
from tests.fakes.recorded_server import RecordedServer  # noqa: E402

MATRIX = """
name: added
models: {big: {path: /no/such/file.gguf, names: {made-up: big-one}}}
workloads: {hello: {prompt: Say hello., max_tokens: 16}}
defaults: {engine: made-up}
axes: {model: [big], quantisation: [Q4_0], context: [4K], workload: [hello]}
measure: {repeats: 1, warmups: 0, canary: false}
"""


def main(folder: Path) -> None:
    with RecordedServer(ROUTES) as server:
        (folder / DEVICE_FILE).write_text(f"engines: {{{LINE.name}: {{url: '{server.url}'}}}}\n")
        adapters = engines_of(read_device_file(folder))
        device = inventory(folder, found_of(look_for(adapters[-1:])))
        assert [found.where for found in device.engines] == [server.url], "device.yaml says where it is"
        job = planned_job(folder, device)
        (need,) = needs([job.load], folder / "models")
        assert not need.here, "its files are looked for before a run"
        report = Host(device, folder, adapters).run(job, threading.Event(), lambda stage, live: None)
    assert isinstance(report.outcome, Measured), report.outcome
    (trial,) = report.outcome.trials
    assert (trial.completion_tokens, report.outcome.loaded.engine_version) == (3, "made-up 7")
    telemetry_finds_its_process(folder)


def planned_job(folder: Path, device: Device) -> Job:
    (folder / "m.yaml").write_text(MATRIX)
    matrix = read_matrix(folder / "m.yaml")
    assert LINE.name in str(json_schema())
    plan = plan_jobs(matrix, expand(matrix), [device])
    (planned,) = plan.queues[device.device_id]
    return job_of(matrix, "run", planned, attempt=1)


def telemetry_finds_its_process(folder: Path) -> None:
    program = folder / "made-up-server" / "main.py"
    program.parent.mkdir()
    program.write_text("input()\n")
    with subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE) as process:
        assert engine_pids(LINE.name, object()) == (process.pid,)
        process.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
