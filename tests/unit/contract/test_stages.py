"""How long a stage of a job may take by its own time-outs."""

from __future__ import annotations

import pytest

from agents.contract.job import Synthetic, Timeouts, Workflow, Workload
from agents.contract.stages import CLEARING_S, SHORT_S, stage_limit_s

TIMEOUTS = Timeouts(load_s=600.0, first_token_s=100.0, trial_s=3600.0)
TEXT = Synthetic("pp512", prompt_tokens=512)
PRIMED = Synthetic("pp512@d4096", prompt_tokens=512, depth=4096)
DEEP = Synthetic("tg128@d4096", generate_tokens=128, depth=4096)
IMAGE = Workflow("image", "{}")


@pytest.mark.parametrize(
    ("stage", "workload", "limit_s"),
    [
        ("measuring", TEXT, 3600.0),
        ("warm-up 1/2", TEXT, 3600.0),
        ("measuring", DEEP, 3600.0),
        ("measuring", PRIMED, 7200.0),  # two requests
        ("measuring", IMAGE, 3700.0),  # it may wait for its turn
        ("loading", TEXT, 600.0),
        ("selecting the runtime", TEXT, 600.0),
        ("waiting until the server is ready", TEXT, 600.0),
        ("waiting: others use 1.4 of 8 cores", TEXT, SHORT_S),
        ("starting", TEXT, SHORT_S),
        ("unloading", TEXT, CLEARING_S),
        ("ending", TEXT, CLEARING_S),
        ("preparing model", TEXT, 600.0),
        ("m.gguf: 3.1 GiB of 18.1 GiB", TEXT, 600.0),
        ("waiting for strix-2, which has m.gguf and measures", TEXT, 600.0),
    ],
)
def test_the_limit_of_a_stage(stage: str, workload: Workload, limit_s: float) -> None:
    assert stage_limit_s(stage, TIMEOUTS, workload) == limit_s


def test_a_short_limit_of_loads_is_none_for_what_comes_before_them() -> None:
    assert stage_limit_s("preparing model", Timeouts(load_s=1.0), TEXT) == CLEARING_S
