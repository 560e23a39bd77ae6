"""For all tests: nobody waits for a quiet machine, and nothing is flagged or called slow because others work on it.

Tests of the folders `ray`, `fleet` and `slow` have the marker of that name: ``pytest -m "not ray and not fleet"``.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

LONGEST_FIRST = ("fleet", "ray", "slow", "contract", "unit")
WITH_MARK = ("fleet", "ray", "slow")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("ORCHESTRATE_QUIET", "off")
# images set it: each of a thousand processes would compile Ray and ourselves anew, which takes 0.6 s of a core
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def folder_of(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses among the items by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if folder_of(item) in WITH_MARK:
            item.add_marker(folder_of(item))
    # files go to the workers in this order: a long one that begins last would keep one worker busy alone
    items.sort(key=lambda item: LONGEST_FIRST.index(folder_of(item)))
