"""As for the contract tests: tiny models made once, and a look for processes that a test did not end."""

from __future__ import annotations

from tests.contract.conftest import folder, models, nothing_remains_running

__all__ = ["folder", "models", "nothing_remains_running"]
