"""As for the contract tests: tiny models made once, and a look round for what a test left running."""

from __future__ import annotations

from tests.contract.conftest import folder, models, nothing_left_running

__all__ = ["folder", "models", "nothing_left_running"]
