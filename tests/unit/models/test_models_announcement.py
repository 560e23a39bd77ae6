"""The announcement of a fetch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agents.models.lan.announcement import announcing, ongoing_fetch


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the start of a process is written down once")
def test_a_fetch_goes_on_for_others_when_the_wall_clock_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from psutil import _pslinux

    before_s = _pslinux.boot_time()
    with announcing(tmp_path, "key", tmp_path / "m.gguf.partial"):
        assert ongoing_fetch(tmp_path, "key") is not None
        monkeypatch.setattr(_pslinux, "boot_time", lambda: before_s - 7200.0)  # as the kernel says it then
        assert ongoing_fetch(tmp_path, "key") is not None
