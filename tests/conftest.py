"""For all tests: nobody waits for a quiet machine, and nothing is flagged because others work on it."""

from __future__ import annotations

import os

os.environ.setdefault("ORCHESTRATE_QUIET", "off")
