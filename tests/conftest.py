"""For all tests: nobody waits for a quiet machine, and nothing is flagged or called slow because others work on it."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("ORCHESTRATE_QUIET", "off")
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
