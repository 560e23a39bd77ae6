"""An operator is told by a real command and a real webhook; the webhook's address is told to nobody."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agents.contract.job import MachineState
from orchestrator.dispatch import notify
from orchestrator.dispatch.messages import AskOperator
from orchestrator.dispatch.notify import CoordinatorFile, Notifier, NotifyFile, read_coordinator_file
from orchestrator.errors import UsageError
from orchestrator.plan.changes import Change
from tests.unit.results.made_attempts import DEVICE

SECRET = "s3cr3t"
ASK = AskOperator("device-1", "run-1", MachineState(32 * 2**30, 55.0), Change.OPERATOR_REBOOT)
MESSAGE = {
    "event": "operator_asked",
    "device": "laptop",
    "device_id": "device-1",
    "run": "run-1",
    "dedicated_vram_bytes": 32 * 2**30,
    "power_limit_w": 55.0,
    "text": "set it",
}
ENDS_WITHIN_S = 60.0


@dataclass
class Hook:
    """A webhook on the loopback: answers with ``code`` and keeps what it was sent. Code 0: no answer at all."""

    code: int = 200
    posted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def listening(self) -> Iterator[Hook]:
        hook, done = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posted.append((self.path, json.loads(body)))
                if not hook.code:
                    done.wait(ENDS_WITHIN_S)
                    return
                self.send_response(hook.code)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://annie:{SECRET}@127.0.0.1:{server.server_port}/hook/{SECRET}?token={SECRET}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            server.shutdown()
            server.server_close()
            thread.join(ENDS_WITHIN_S)


def told(settings: NotifyFile) -> Notifier:
    notifier = Notifier(settings)
    tell(notifier)
    return notifier


def tell(notifier: Notifier) -> None:
    thread = notifier.notify(ASK, DEVICE, "set it")
    thread.join(ENDS_WITHIN_S)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_webhook_is_posted_the_message() -> None:
    with Hook().listening() as hook:
        notifier = told(NotifyFile(webhook=SecretStr(hook.url)))
    assert hook.posted == [(f"/hook/{SECRET}?token={SECRET}", MESSAGE)]
    assert notifier.problem == ""


def test_a_command_reads_the_message(tmp_path: Path) -> None:
    to = tmp_path / "told.json"
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"
    notifier = told(NotifyFile(command=[sys.executable, "-c", code, str(to)]))
    assert json.loads(to.read_text()) == MESSAGE
    assert notifier.problem == ""


def test_nobody_is_told_where_nothing_is_set() -> None:
    assert told(NotifyFile()).problem == ""


@pytest.mark.parametrize("code", [500, 404, 302])
def test_what_the_webhook_answers_is_told_without_its_address(code: int) -> None:
    with Hook(code).listening() as hook:
        notifier = told(NotifyFile(webhook=SecretStr(hook.url)))
    assert notifier.problem == f"the webhook answered {code}"


def test_a_webhook_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.1)
    with Hook(0).listening() as hook:
        notifier = told(NotifyFile(webhook=SecretStr(hook.url)))
    assert notifier.problem == "the webhook cannot be reached: ReadTimeout"


def test_nobody_there() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        notifier = told(NotifyFile(webhook=SecretStr(f"http://127.0.0.1:{taken.getsockname()[1]}/{SECRET}")))
    assert notifier.problem == "the webhook cannot be reached: ConnectError"


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_address_that_only_the_client_finds_wrong() -> None:
    notifier = told(NotifyFile(webhook=SecretStr(f"http://127.0.0.1/\t{SECRET}")))
    assert notifier.problem == "the webhook cannot be reached: InvalidURL"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], "exit code 3"),
        (["/no/such/program"], "No such file or directory"),
    ],
)
def test_a_command_that_fails(command: list[str], problem: str) -> None:
    notifier = told(NotifyFile(command=command))
    assert notifier.problem.startswith("the notify command failed: ")
    assert problem in notifier.problem


def test_a_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.1)
    notifier = told(NotifyFile(command=[sys.executable, "-c", "import time; time.sleep(600)"]))
    assert notifier.problem == "the notify command failed: no end within 0.1 s"


def test_both_are_told_though_one_fails() -> None:
    with Hook(500).listening() as hook:
        notifier = told(NotifyFile(command=["/no/such/program"], webhook=SecretStr(hook.url)))
        assert len(hook.posted) == 1
        assert notifier.problem.startswith("the notify command failed")
        assert notifier.problem.endswith("the webhook answered 500")


def test_a_problem_is_over_when_it_works_again() -> None:
    with Hook(500).listening() as hook:
        notifier = told(NotifyFile(webhook=SecretStr(hook.url)))
        assert notifier.problem
        hook.code = 200
        tell(notifier)
    assert notifier.problem == ""


class TestCoordinatorFile:
    def write(self, folder: Path, text: str) -> None:
        (folder / "coordinator.yaml").write_text(text, encoding="utf-8")

    def test_is_not_needed(self, tmp_path: Path) -> None:
        assert read_coordinator_file(tmp_path) == CoordinatorFile()
        self.write(tmp_path, "")
        assert read_coordinator_file(tmp_path) == CoordinatorFile()

    def test_what_it_says(self, tmp_path: Path) -> None:
        self.write(tmp_path, f"notify:\n  command: [ntfy, publish]\n  webhook: https://host/{SECRET}\n")
        found = read_coordinator_file(tmp_path).notify
        assert found.command == ["ntfy", "publish"]
        assert found.webhook is not None
        assert found.webhook.get_secret_value() == f"https://host/{SECRET}"
        assert SECRET not in f"{found} {found!r} {found.model_dump_json()}"

    @pytest.mark.parametrize(
        ("text", "key"),
        [
            (f"notify: {{webhook: 'ftp://host/{SECRET}'}}", "notify.webhook: Value error, is no http or https address"),
            (f"notify: {{webhook: {SECRET}}}", "notify.webhook: Value error, is no http or https address"),
            (f"notify: {{webhook: [{SECRET}]}}", "notify.webhook: "),
            (f"notify: {{webhok: {SECRET}}}", "notify.webhok: Extra inputs are not permitted"),
            (f"notify: {{command: {SECRET}}}", "notify.command: "),
            (f"notfy: {{webhook: {SECRET}}}", "notfy: Extra inputs are not permitted"),
            (f"- {SECRET}", "the file: "),
        ],
    )
    def test_what_is_wrong_with_it_is_told_without_its_values(self, tmp_path: Path, text: str, key: str) -> None:
        self.write(tmp_path, text)
        with pytest.raises(UsageError) as caught:
            read_coordinator_file(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path / 'coordinator.yaml'}: {key}")
        assert str(caught.value).endswith("Allowed: notify: {command: [..], webhook: URL}")
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("content", [f"notify: {{webhook: 'http://{SECRET}".encode(), b"\xff\xfe\x00"])
    def test_what_is_no_yaml(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "coordinator.yaml").write_bytes(content)
        with pytest.raises(UsageError, match=r"coordinator\.yaml: cannot be read as YAML: \w+$"):
            read_coordinator_file(tmp_path)
