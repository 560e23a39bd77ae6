"""What is said of runs and devices while several of them wait for an operator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.contract.device import Blocked, StateSource
from orchestrator.dispatch.admit import admitted
from orchestrator.dispatch.api import Submission
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.dispatch.messages import BlockChanged, RunChanged, RunStatus
from orchestrator.dispatch.notify import Notifier, NotifyFile
from orchestrator.dispatch.views import Views
from orchestrator.matrix import matrix_to_json
from tests.fakes.matrices import matrix_of
from tests.unit.dispatch.submitted_run import RUN, A, B, SubmittedRun

SEEN: dict[str, Any] = {"dedicated_vram_bytes": 2**29, "split_source": StateSource.SEEN}
OLDER, NEWER = replace(A, **SEEN), replace(B, **SEEN)
SPLIT = "name: {name}\naxes: {{model: tiny:llama, workload: pp8, device: {device}, {axes}}}\nmeasure: {{repeats: 1}}\n"


@pytest.fixture
def world(tmp_path: Path) -> tuple[SubmittedRun, CoordinatorLoop, Views, str]:
    """An older run waits for the operator of alpha, a newer one for that of beta."""
    run = SubmittedRun(tmp_path, (OLDER, NEWER), SPLIT.format(name="old", device="alpha", axes="dedicated_vram: 32GiB"))
    with run.ledger.batch() as db:
        db.execute("UPDATE runs SET created_unix_s = 1.0")
    text = SPLIT.format(name="new", device="beta", axes="power_limit: 55W")
    newer, _ = admitted(Submission(matrix_to_json(matrix_of(text))), [OLDER, NEWER], run.ledger, run.store, tmp_path)
    loop = run.coordinator(run.fleet())
    for _ in range(100):
        if len(loop.schedule.asks()) == 2:
            break
        loop.round()
    assert len(loop.schedule.asks()) == 2
    return run, loop, Views(loop, run.ledger, NoticeBoard(), Notifier(NotifyFile())), newer.run_id


def test_each_ask_stands_beside_the_command_that_says_no_to_it(
    world: tuple[SubmittedRun, CoordinatorLoop, Views, str],
) -> None:
    _, _, views, _ = world
    page = views.status()
    asks = [ask for view in page.runs for ask in view.asks]
    assert list(zip(asks, page.skip_commands, strict=True)) == [
        (
            "set the power limit of beta to 55 W; then say so: orchestrate state beta --power-limit 55W",
            "orchestrate skip beta --power-limit 55W",
        ),
        ("set dedicated VRAM of alpha to 32 GiB and reboot", "orchestrate skip alpha --dedicated-vram 32GiB"),
    ]


def test_an_opening_tells_what_its_own_run_waits_for(world: tuple[SubmittedRun, CoordinatorLoop, Views, str]) -> None:
    _, _, views, newer = world
    opening = views.snapshot(RUN)
    assert opening.asks == ("set dedicated VRAM of alpha to 32 GiB and reboot",)
    assert (opening.total, opening.done, opening.waiting, opening.status) == (1, 0, {"id-a": 1}, RunStatus.RUNNING)
    assert opening.devices == (("id-a", "alpha"),)
    assert opening.present == {"id-a", "id-b"}
    assert views.snapshot(newer).devices == (("id-b", "beta"),)


def test_devices_say_what_they_do(world: tuple[SubmittedRun, CoordinatorLoop, Views, str]) -> None:
    _, loop, views, newer = world
    assert [(view.device and view.device.name, view.status) for view in views.devices()] == [
        ("alpha", "waits for its operator"),
        ("beta", "waits for its operator"),
    ]
    loop.handle([RunChanged(newer, RunStatus.PAUSED)])
    assert [view.status for view in views.devices()] == ["waits for its operator", "free"]


def test_what_blocks_a_device_stands_in_its_status_and_in_that_of_the_fleet(
    world: tuple[SubmittedRun, CoordinatorLoop, Views, str],
) -> None:
    run, loop, views, _ = world
    alpha, beta = (device.facts.device_id for device in run.devices)
    loop.handle([BlockChanged(alpha, Blocked("its disk is full")), BlockChanged(beta, Blocked("7 hangs", True))])
    assert [view.status for view in views.devices()] == ["waits for its disk", "needs a reboot"]
    page = views.status()
    assert page.troubles == ("device alpha waits: its disk is full", "device beta needs a reboot: 7 hangs")
    (ask,) = [ask for view in page.runs for ask in view.asks]
    assert (ask, page.skip_commands) == ("reboot beta: 7 hangs", ("orchestrate skip beta",))
    assert "its device alpha takes no jobs for now: its disk is full" in str(views.story(RUN, run.ids[0], run.store))
