from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.cluster.environment import Noted, cluster_environment, forget, note, noted, recorded_address
from orchestrator.cluster.tls import make_authority, make_certificate
from orchestrator.errors import UsageError

NOTED = Noted("10.0.0.1:6379", "device", "mark", pid=7)
TOKEN = "c0ffee" * 8


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's, with a token."""
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ORCHESTRATE_HOME", str(tmp_path / "data"))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    return tmp_path


def test_on_a_host_that_joined_nothing(home: Path) -> None:
    assert noted() is None
    assert recorded_address() is None
    environment = cluster_environment()
    assert environment["RAY_AUTH_MODE"] == "token"  # there is one
    assert environment["RAY_worker_niceness"] == "0"
    assert environment["RAY_memory_monitor_refresh_ms"] == "0"
    assert not any("TLS" in name for name in environment)


def test_without_a_token_none_is_asked_for(home: Path) -> None:
    (home / ".ray" / "auth_token").unlink()
    assert "RAY_AUTH_MODE" not in cluster_environment()


def test_a_cluster_without_token_is_joined_so_though_there_is_one(home: Path) -> None:
    note(Noted("10.0.0.1:6379", "head", "mark", token=False))
    assert cluster_environment()["RAY_AUTH_MODE"] == "disabled"


def test_what_was_noted_is_found_again_and_forgotten(home: Path) -> None:
    note(NOTED)
    assert noted() == NOTED
    assert recorded_address() == "10.0.0.1:6379"
    forget()
    forget()
    assert noted() is None


def test_no_secret_is_noted(home: Path) -> None:
    note(NOTED)
    cluster_environment()
    assert TOKEN not in (home / "data" / "cluster.json").read_text()
    assert TOKEN not in str(cluster_environment())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cluster": "x"}', '{"other": 1}'])
def test_a_note_that_cannot_be_read_is_none(home: Path, text: str) -> None:
    (home / "data").mkdir()
    (home / "data" / "cluster.json").write_text(text)
    assert noted() is None
    assert recorded_address() is None


def test_certificates_that_were_noted_are_used(home: Path) -> None:
    now = datetime.now(UTC)
    make_authority(home / "a", now)
    make_certificate(home / "a", ["10.0.0.2"], home / "tls", now)
    note(Noted("10.0.0.1:6379", "device", "mark", tls=str(home / "tls")))
    assert cluster_environment()["RAY_TLS_CA_CERT"] == str(home / "tls" / "ca.crt")
    (home / "tls" / "server.crt").unlink()
    with pytest.raises(UsageError, match=r"server\.crt"):
        cluster_environment()


def test_ray_is_told_that_macos_is_meant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in cluster_environment()) == (sys.platform == "darwin")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cluster_environment()["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"
