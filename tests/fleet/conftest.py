"""Tests with several hosts run where hosts can be made, and elsewhere say why not."""

from __future__ import annotations

import pytest

from tests.fleet.hosts import why_not


@pytest.fixture(scope="session", autouse=True)
def hosts_can_be_made() -> None:
    if reason := why_not():
        pytest.skip(reason)
