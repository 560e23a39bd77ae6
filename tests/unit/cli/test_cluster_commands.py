from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agents.device_file import read_device_file
from orchestrator.cli.cluster import _keep_device_file
from orchestrator.errors import UsageError
from tests.unit.cli.conftest import Orchestrate

TOKEN = "c0ffee" * 8


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own, and no variables of a cluster."""
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_USE_TLS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ORCHESTRATE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def token(home: Path) -> Path:
    path = home / "brought"
    path.write_text(TOKEN)
    return path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["join"], "HEAD"),
        (["join", "a b"], "allowed: HOST or HOST:PORT"),
        (["join", "127.0.0.1", "--label", "lab"], "allowed: KEY=VALUE"),
        (["join", "127.0.0.1", "--token-file", "nowhere"], "--token-file nowhere"),
        (["head", "--address", "203.0.113.9"], "is not this host's. Allowed:"),
        (["head", "--port", "0"], "greater than or equal to 1"),
        (["certificate", "10.0.0.7", "--to", "folder"], "orchestrate head --tls"),
    ],
)
def test_bad_input_is_named_with_what_is_allowed(
    home: Path, orchestrate: Orchestrate, words: list[str], told: str
) -> None:
    ended = orchestrate(*words)
    assert ended.code == 2
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert not (home / ".ray").exists()


def test_without_a_token_nobody_joins(home: Path, orchestrate: Orchestrate) -> None:
    ended = orchestrate("join", "127.0.0.1")
    assert ended.code == 2
    assert "no token" in ended.err
    assert not (home / "home" / "device").exists()


def test_a_head_that_is_not_there_is_told_and_nothing_is_noted(
    home: Path, token: Path, orchestrate: Orchestrate
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ended = orchestrate("join", f"127.0.0.1:{port}", "--token-file", token, "--name", "lab-2")
    assert ended.code == 1
    assert ended.err == f"error: the head at 127.0.0.1:{port} cannot be joined: Connection refused\n"
    assert not (home / "home" / "cluster.json").exists()
    assert not (home / "home" / "device").exists()


def test_a_folder_without_certificates_is_named(home: Path, token: Path, orchestrate: Orchestrate) -> None:
    ended = orchestrate("join", "127.0.0.1", "--token-file", token, "--tls", home)
    assert ended.code == 2
    assert "A folder for --tls holds ca.crt, server.crt and server.key" in ended.err


def test_where_nothing_runs_there_is_nothing_to_leave(home: Path, orchestrate: Orchestrate) -> None:
    ended = orchestrate("leave")
    assert (ended.code, ended.err) == (0, "")
    assert "nothing to end" in ended.out


def test_name_and_labels_go_into_the_device_file_and_what_stands_there_stays(home: Path) -> None:
    folder = home / "home" / "device"
    folder.mkdir(parents=True)
    (folder / "device.yaml").write_text("labels: {lab: munich, rack: '1'}\ndedicated_vram: 32GiB\n")
    _keep_device_file("lab-2", {"rack": "2"})
    own = read_device_file(folder)
    assert own.name == "lab-2"
    assert own.labels == {"lab": "munich", "rack": "2"}
    assert own.dedicated_vram == 32 * 2**30
    before = (folder / "device.yaml").read_bytes()
    _keep_device_file(None, {})
    assert (folder / "device.yaml").read_bytes() == before


def test_a_device_file_that_is_not_right_is_not_written_over(home: Path) -> None:
    folder = home / "home" / "device"
    folder.mkdir(parents=True)
    (folder / "device.yaml").write_text("nam: lab-2\n")
    with pytest.raises(UsageError, match="nam"):
        _keep_device_file("lab-2", {})
    assert (folder / "device.yaml").read_text() == "nam: lab-2\n"
