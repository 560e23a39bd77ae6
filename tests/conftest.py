"""For all tests: nobody waits for a quiet machine, and nothing is flagged or called slow because others work on it.

Tests of the folders `ray`, `fleet` and `slow` carry the mark of their folder: ``pytest -m "not ray and not fleet"``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

FOLDERS_WITH_MARK = ("fleet", "ray", "slow")

os.environ.setdefault("ORCHESTRATE_QUIET", "off")
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses among the items by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in FOLDERS_WITH_MARK:
            item.add_marker(folder)
