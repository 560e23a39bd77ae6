"""Which cluster a command joins; ``ray.init`` is a fake."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.dispatch.on_ray import connect
from orchestrator.errors import NoCluster, OrchestrateError
from tests.ray.sandbox import Sandbox

FOUND = "127.0.0.1:6399"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Calls of Ray, in order. A cluster is found on this machine, which lets nobody in."""
    calls: list[str] = []

    def init(address: str, **_: Any) -> None:
        calls.append(address)
        if address != "local":
            raise ConnectionError("no Ray")

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(FOUND)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(connect, "recorded_address", lambda: None)
    monkeypatch.setattr(connect, "token_file", lambda: tmp_path / "auth_token")
    monkeypatch.setattr(connect, "_why_no_answer", lambda _: None)
    monkeypatch.setattr(connect, "_why_no_grpc", lambda _: None)
    return calls


def test_a_found_cluster_that_lets_nobody_in_is_passed_over(
    calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    connection = connect.Connection()
    assert connection.started and connection.address is None
    assert calls == [FOUND, "shutdown", "local"]
    assert f"passed over: the Ray cluster found at {FOUND}: no Ray cluster answers" in capsys.readouterr().err
    connection.close()


def test_where_none_may_be_started_there_is_none(calls: list[str]) -> None:
    with pytest.raises(NoCluster):
        connect.Connection(join_only=True)
    assert calls == [FOUND, "shutdown"]


@pytest.mark.parametrize("how", ["argument", "environment", "recorded"])
def test_a_named_cluster_is_not_passed_over(calls: list[str], monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "environment":
        monkeypatch.setenv("RAY_ADDRESS", FOUND)
    if how == "recorded":
        monkeypatch.setattr(connect, "recorded_address", lambda: FOUND)
    with pytest.raises(OrchestrateError, match="no Ray cluster answers"):
        connect.Connection(FOUND if how == "argument" else None)
    assert calls == [FOUND]


@pytest.mark.parametrize(
    ("says", "why_not"),
    [
        (None, "says nothing for 0.1 s"),
        (b"", "no Ray"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Ray"),
        (connect.HTTP2_EMPTY_SETTINGS, None),
    ],
)
def test_what_listens_may_be_no_ray(monkeypatch: pytest.MonkeyPatch, says: bytes | None, why_not: str | None) -> None:
    monkeypatch.setattr(connect, "ANSWER_S", 0.1 if says is None else 10.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as link, suppress(ConnectionResetError):
                if says is not None:
                    link.recv(len(connect.HTTP2_PREFACE), socket.MSG_WAITALL)
                    link.sendall(says)
                    link.shutdown(socket.SHUT_WR)
                while link.recv(1024):  # until the other side has closed it
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        found = connect._why_no_grpc(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert (found is None) if why_not is None else (found is not None and why_not in found)


def test_the_ray_that_runs_is_one(cluster: Sandbox) -> None:
    assert connect._why_no_grpc(cluster.variables["RAY_ADDRESS"]) is None
