"""The model server as it stands on a port: who may ask, what for, and which bytes come."""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents.models.lan.protocol import BYTES, STATE
from agents.models.lan.server import MAX_TRANSFERS, ModelServer
from agents.models.lan.shared_files import share
from agents.models.tiny.make import make_tiny
from tests.unit.models.lan_devices import TOKEN
from tests.waiting import until


@dataclass
class Served:
    """A server with one file, and what its agent says of benchmarks."""

    store: Path
    data: bytes
    measuring: bool = False
    server: ModelServer = field(init=False)

    def __post_init__(self) -> None:
        path = self.store / "a" / "m.gguf"
        path.parent.mkdir()
        path.write_bytes(self.data)
        share(self.store, path, self.sha256)
        self.server = ModelServer(self.store, TOKEN, lambda: self.measuring, host="127.0.0.1")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def ask(
        self, path: str, method: str = "GET", authorization: str | None = f"Bearer {TOKEN}", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        line = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        line.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {**({"Authorization": authorization} if authorization else {}), **headers}.items():
            line.putheader(name, value)
        line.endheaders()
        answer = line.getresponse()
        body = answer.read()
        line.close()
        return answer.status, dict(answer.getheaders()), body

    def ask_for_the_file(self, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.ask(f"/sha256/{self.sha256}", method, **headers)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path, bytes(range(256)) * 20_000)
    yield served
    served.server.close()


def test_a_file_by_its_contents(served: Served) -> None:
    status, headers, body = served.ask_for_the_file()
    assert (status, body) == (200, served.data)
    assert (headers["Content-Length"], headers["Accept-Ranges"]) == (str(len(served.data)), "bytes")
    status, headers, body = served.ask_for_the_file("HEAD")
    assert (status, body, headers[STATE], headers[BYTES]) == (200, b"", "has", str(len(served.data)))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-", 0, None), ("bytes=5-", 5, None), ("bytes=5-9", 5, 10), ("bytes=5119999-", 5_119_999, None),
     ("bytes=5-99999999", 5, None)],
)  # fmt: skip
def test_ranges(served: Served, asked: str, start: int, end: int | None) -> None:
    status, headers, body = served.ask_for_the_file(Range=asked)
    assert body == served.data[start:end]
    if start:
        last = (len(served.data) if end is None else end) - 1
        assert (status, headers["Content-Range"]) == (206, f"bytes {start}-{last}/{len(served.data)}")


def test_a_range_behind_the_end(served: Served) -> None:
    status, headers, body = served.ask_for_the_file(Range=f"bytes={len(served.data)}-")
    assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{len(served.data)}")


@pytest.mark.parametrize("asked", ["bytes=-5", "bytes=1-2,4-5", "lines=1-2", "bytes=9-5", "bytes=x-", ""])
def test_what_is_no_range_from_a_place_on_brings_the_whole_file(served: Served, asked: str) -> None:
    status, _, body = served.ask_for_the_file(Range=asked)
    assert (status, body) == (200, served.data)


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"bearer {TOKEN}", TOKEN, f"Basic {TOKEN}",
     "Bearer \xff\xfe"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_without_the_token_there_is_nothing(served: Served, method: str, authorization: str | None) -> None:
    for path in (f"/sha256/{served.sha256}", "/find?path=/etc/passwd", "/", "/sha256/" + "0" * 64):
        status, headers, body = served.ask(path, method, authorization)
        assert (status, body, headers["WWW-Authenticate"]) == (401, b"", "Bearer")
        assert STATE not in headers


def _exchange(served: Served, request: bytes) -> bytes:
    """All that comes back, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=20) as line:
        received = b""
        try:
            line.sendall(request)
            while block := line.recv(65536):
                received += block
        except ConnectionError:  # closed with some of the request unread
            pass
        return received


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/secret\r\n\r\n",
        b"GET a secret path HTTP/1.1\r\n\r\n",
        b"PUT /secret\r\n\r\n",
        b"GET /secret\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_a_bad_request_without_the_token_gets_the_same_as_a_good_one(served: Served, request_: bytes) -> None:
    answer = _exchange(served, request_)
    status, *headers = answer.decode().split("\r\n")
    names = [header.partition(":")[0] for header in headers if header]
    assert answer == b"" or status.split()[1:] == ["401", "Unauthorized"]
    assert answer == b"" or names == [
        "Server", "Date", "Accept-Ranges", "WWW-Authenticate", "Content-Length", "Connection",
    ]  # fmt: skip


def test_silent_connections_keep_no_device_out(served: Served) -> None:
    with ExitStack() as lines:
        for _ in range(200):
            lines.enter_context(socket.create_connection(("127.0.0.1", served.server.port), timeout=20))
        assert served.ask_for_the_file()[0] == 200


def test_a_connection_that_sends_slowly_is_closed_all_the_same(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.models.lan.admission.SHOW_S", 0.2)
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=0.01) as line:

        def sends_in_vain() -> bool:
            try:
                line.sendall(b"A")
                return line.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(sends_in_vain, "the server closes it", deadline_s=10)


def test_a_server_without_a_token_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a token"):
        ModelServer(tmp_path, "", lambda: False, host="127.0.0.1")


@pytest.mark.parametrize(
    "path",
    [
        "/a/m.gguf",
        "/../a/m.gguf",
        "/sha256/../a/m.gguf",
        "/sha256/..%2fa%2fm.gguf",
        "/sha256/../offered/{sha256}.json",
        "/sha256/{SHA256}",
        "/sha256/{sha256}/",
        "/sha256/{sha256}%00",
        "/sha256//{sha256}",
        "/sha256/" + "0" * 64,
        "//sha256/{sha256}/..",
        "/find",
        "/find?path={secret}",
        "/find?path=file://{secret}",
        "/find?path={folder}/../secret.txt",
        "/find?path=secret.gguf",
        "/find?path=./secret.gguf",
        "/find?path={folder}/secret.gguf",
        "/find?path={folder}/link.gguf",
        "/find?path={folder}",
        "/find?path={folder}/a%00.gguf",
        "/find?path=~nobody-of-this-name/a.gguf",
        "/find?path=%ff%fe.gguf",
        "/find?url_key=../../secret",
        "/find?url_key=" + "0" * 64,
        "/find?path=a&path=b&x=1&y=2&z=3&w=4",
    ],
)
def test_nothing_else_can_be_had(served: Served, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(served.store)
    (served.store / "secret.txt").write_text("secret")
    (served.store / "secret.gguf").write_text("secret")  # a name alone makes no model of it
    (served.store / "link.gguf").symlink_to(served.store / "secret.txt")
    names = {"sha256": served.sha256, "SHA256": served.sha256.upper(), "folder": served.store}
    status, _, body = served.ask(path.format(**names, secret=served.store / "secret.txt"))
    assert (status, body) == (404, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(served: Served, method: str) -> None:
    status, _, _ = served.ask_for_the_file(method)
    assert status == 501
    assert served.ask_for_the_file()[2] == served.data


def test_a_file_that_has_changed_or_gone_is_no_longer_served(served: Served) -> None:
    path = served.store / "a" / "m.gguf"
    path.write_bytes(served.data[:-1] + b"?")
    assert served.ask_for_the_file()[0] == 404
    path.unlink()
    assert served.ask_for_the_file("HEAD")[0] == 404


def test_while_a_benchmark_runs_nothing_is_begun(served: Served) -> None:
    served.measuring = True
    for method in ("GET", "HEAD"):
        status, headers, body = served.ask_for_the_file(method)
        assert (status, body, headers[STATE], headers["Retry-After"]) == (503, b"", "measures", "5")
        assert headers[BYTES] == str(len(served.data))
    assert served.ask("/sha256/" + "0" * 64, "HEAD")[0] == 404  # who has it not says so all the same


def test_only_so_many_at_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    send = ModelServer.send

    def when_allowed(server: ModelServer, *how: object) -> None:
        go_on.wait(60)
        send(server, *how)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelServer, "send", when_allowed)
    got: list[bytes] = []
    asking = [threading.Thread(target=lambda: got.append(served.ask_for_the_file()[2])) for _ in range(MAX_TRANSFERS)]
    for each in asking:
        each.start()
    until(lambda: served.server.transfers == MAX_TRANSFERS, "all are being sent")
    for method in ("GET", "HEAD"):
        status, headers, _ = served.ask_for_the_file(method)
        assert (status, headers[STATE], headers["Retry-After"]) == (503, "serves", "1")
    go_on.set()
    for each in asking:
        each.join(60)
    assert got == [served.data] * MAX_TRANSFERS
    until(lambda: served.server.transfers == 0, "the places are free again")
    assert served.ask_for_the_file()[0] == 200


def test_what_an_earlier_version_fetched_is_offered_from_the_start(tmp_path: Path) -> None:
    files = make_tiny("llama", "Q4_0", tmp_path / "tiny")
    server = ModelServer(tmp_path, TOKEN, lambda: False, host="127.0.0.1")
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    line.request("GET", f"/sha256/{files.sha256}", headers={"Authorization": f"Bearer {TOKEN}"})
    assert line.getresponse().read() == files.path.read_bytes()
    line.close()
    server.close()


def test_a_closed_server_leaves_its_port_and_can_be_closed_again(served: Served) -> None:
    port = served.server.port
    served.server.close()
    served.server.close()
    with pytest.raises(ConnectionError):
        served.ask_for_the_file()
    again = ModelServer(served.store, TOKEN, lambda: False, host="127.0.0.1", port=port)
    assert again.port == port
    again.close()
