from __future__ import annotations

from pathlib import Path

import pytest

from agents.agent.agent import Agent


@pytest.mark.parametrize("there", [False, True])
def test_a_devices_home_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("ORCHESTRATE_HOME", str(home))
    if there:  # as an older version made it
        (home / "device").mkdir(parents=True)
        (home / "device" / "agent.log.1").write_text("")
        for path in (home, home / "device", home / "device" / "agent.log.1"):
            path.chmod(0o755)
    Agent()
    assert home.stat().st_mode & 0o777 == 0o700
    if there:
        assert (home / "device").stat().st_mode & 0o777 == 0o700
        assert (home / "device" / "agent.log.1").stat().st_mode & 0o077 == 0
