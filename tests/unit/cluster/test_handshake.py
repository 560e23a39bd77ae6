from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.cluster import handshake
from orchestrator.cluster.handshake import why_no_head
from orchestrator.cluster.tls import make_authority, make_certificate

SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
Answer = Callable[[socket.socket], None]


def http2(connection: socket.socket) -> None:
    """As a gRPC server: its SETTINGS for a client's preface, a refusal for all else."""
    if connection.recv(24).startswith(b"PRI * HTTP/2.0"):
        connection.sendall(SETTINGS)


def web(connection: socket.socket) -> None:
    connection.recv(24)
    connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


def silent(connection: socket.socket) -> None:
    connection.recv(1)
    connection.recv(1000)
    connection.recv(1000)


def encrypted(folder: Path) -> Answer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(folder / "ca.crt")
    context.load_cert_chain(folder / "server.crt", folder / "server.key")

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inside:
            http2(inside)

    return answer


@pytest.fixture
def served() -> Iterator[Callable[[Answer], str]]:
    """Serves as told, each connection, until the test's end; the address."""
    listening: list[socket.socket] = []

    def serve(answer: Answer) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.settimeout(10)
                    with connection, suppress(OSError):
                        answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield serve
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def folder_of(root: Path, host: str = "host") -> Path:
    now = datetime.now(UTC)
    make_authority(root / "authority", now)
    make_certificate(root / "authority", ["10.0.0.7"], root / host, now)
    return root / host


Serve = Callable[[Answer], str]


def test_a_head_without_tls(served: Serve) -> None:
    assert why_no_head(served(http2), None) is None


def test_a_head_with_tls(served: Serve, tmp_path: Path) -> None:
    assert why_no_head(served(encrypted(folder_of(tmp_path))), folder_of(tmp_path, "other")) is None


def test_a_head_with_tls_wants_certificates(served: Serve, tmp_path: Path) -> None:
    why = why_no_head(served(encrypted(folder_of(tmp_path))), None)
    assert why is not None
    assert "started with --tls" in why
    assert "orchestrate certificate" in why


def test_a_head_without_tls_wants_none(served: Serve, tmp_path: Path) -> None:
    why = why_no_head(served(http2), folder_of(tmp_path))
    assert why is not None
    assert "started without --tls" in why


def test_a_head_of_another_cluster(served: Serve, tmp_path: Path) -> None:
    why = why_no_head(served(encrypted(folder_of(tmp_path / "a"))), folder_of(tmp_path / "b"))
    assert why is not None
    assert "not that of this cluster's head" in why


def test_a_head_that_refuses_this_host(served: Serve, tmp_path: Path) -> None:
    head, stranger = folder_of(tmp_path / "a"), folder_of(tmp_path / "b")
    (stranger / "ca.crt").write_bytes((head / "ca.crt").read_bytes())
    why = why_no_head(served(encrypted(head)), stranger)
    assert why is not None
    assert "refuses the certificate" in why


@pytest.mark.parametrize("answer", [web, silent])
def test_what_is_no_head(served: Serve, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "ANSWER_S", 0.3)
    assert why_no_head(served(answer), None) in ("what answers there is no Ray head", "timed out")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert why_no_head(address, None) == "Connection refused"
