"""A coordinator's answers that do not come. No cluster: what Ray does is played by a list."""

from __future__ import annotations

import importlib.metadata
import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError

from orchestrator.dispatch.on_ray import head
from orchestrator.errors import OrchestrateError


class Answers:
    """``ray.get``: each outcome in turn, and time goes on by what a call waits."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.now_s = 0.0
        self.limits_s: list[float] = []

    def get(self, _: Any, timeout: float) -> Any:
        self.limits_s.append(timeout)
        outcome = self.outcomes.pop(0) if self.outcomes else GetTimeoutError("late")
        if isinstance(outcome, Exception):
            self.now_s += timeout
            raise outcome
        return outcome


class Handle:
    class call:
        @staticmethod
        def remote(*_: Any) -> None: ...


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(head, "answers", lambda _: True)
    monkeypatch.setattr(head, "_found", lambda before: before)
    return head._Remote(Handle(), "head:6379")


def played(monkeypatch: pytest.MonkeyPatch, *outcomes: Any) -> Answers:
    answers = Answers(*outcomes)
    monkeypatch.setattr(ray, "get", answers.get)
    monkeypatch.setattr(time, "monotonic", lambda: answers.now_s)
    return answers


def test_a_watcher_whose_answer_is_lost_asks_again(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = played(monkeypatch, GetTimeoutError("lost"), "notices")
    assert remote.watch("run-1", 7, 1.0) == "notices"
    assert answers.limits_s == [1.0 + head.WATCH_S] * 2


def test_a_coordinator_that_never_answers_is_reported(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = played(monkeypatch)
    with pytest.raises(OrchestrateError, match="did not answer within"):
        remote.watch("run-1", 7, 1.0)
    assert head.CALL_S <= answers.now_s <= head.CALL_S + head.WATCH_S + 1.0


def test_a_submit_whose_answer_is_lost_is_not_made_twice(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = played(monkeypatch)
    with pytest.raises(OrchestrateError, match="did not answer within"):
        remote.submit("matrix")
    assert answers.limits_s == [head.CALL_S]


class Versions:
    """The coordinators of a cluster: the running one first, each later one takes the place of one that was killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *versions: str, idle: bool = True) -> None:
        self.killed: list[str] = []
        self._versions = list(versions)
        self._idle = idle
        monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.0")
        monkeypatch.setattr(head, "_make", lambda: self._versions[0])
        monkeypatch.setattr(head, "_Remote", self._remote)
        monkeypatch.setattr(ray, "get_actor", lambda *_: self._versions[0])
        monkeypatch.setattr(ray, "kill", self._kill)

    def _remote(self, version: str, _: str) -> Any:
        return SimpleNamespace(version=lambda: version, idle=lambda: self._idle)

    def _kill(self, version: str, *, no_restart: bool) -> None:
        assert no_restart
        self.killed.append(self._versions.pop(0))


CONNECTION: Any = SimpleNamespace(address="head:6379")


def test_a_command_of_another_version_names_the_head_s_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = Versions(monkeypatch, "1.0", "2.0")
    with pytest.raises(OrchestrateError, match=r"head at head:6379 has version 1\.0 of orchestrate, this is 2\.0"):
        head.coordination(CONNECTION)
    assert versions.killed == []


def test_the_start_of_a_head_replaces_an_idle_coordinator_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = Versions(monkeypatch, "1.0", "2.0")
    assert head.coordination(CONNECTION, replace_idle=True).version() == "2.0"
    assert versions.killed == ["1.0"]


def test_the_start_of_a_head_replaces_no_coordinator_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = Versions(monkeypatch, "1.0", "2.0", idle=False)
    with pytest.raises(OrchestrateError, match="is at work"):
        head.coordination(CONNECTION, replace_idle=True)
    assert versions.killed == []
