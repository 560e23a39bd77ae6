"""What a device waits for, and for how long: one that measures, one that fetches, one that is gone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.hub.fetch import fetch as hub_fetch
from agents.models.lan import client, server
from agents.models.lan.announcement import started_s
from agents.models.lan.protocol import FileStatus
from agents.models.lan.server import ModelServer
from agents.models.store.files import ModelFiles
from tests.unit.models.fake_hub import FakeHub
from tests.unit.models.lan_devices import REQUEST, BackgroundFetch, LanDevice, shorten_waits
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("on_this_machine_alone", "without_waiting")


def test_who_measures_is_waited_for_and_disturbed_by_nothing(hub: FakeHub, model: bytes, pair: list[LanDevice]) -> None:
    first, second = pair
    first.from_hub(hub.endpoint, REQUEST)
    first.measuring = True
    waiting = BackgroundFetch(lambda: second.from_hub(hub.endpoint, REQUEST))
    until(lambda: second.has_message("waiting for A, which has tiny-Q4_0.gguf and measures now"), "it waits")
    assert not list(second.store.rglob("*.partial"))
    first.measuring = False
    assert waiting.result().path.read_bytes() == model
    assert hub.sent_bytes() == len(model)


def test_who_measures_for_too_long_is_given_up(
    hub: FakeHub, model: bytes, pair: list[LanDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch, measuring_s=0.05)
    first, second = pair
    first.from_hub(hub.endpoint, REQUEST)
    first.measuring = True
    assert second.from_hub(hub.endpoint, REQUEST).path.read_bytes() == model
    assert second.has_message("A was waited for 0 s in vain")
    assert hub.sent_bytes() == 2 * len(model)


@pytest.fixture
def sixth_block(pair: list[LanDevice], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first device begins to measure when it has sent five blocks of a hundred thousand bytes."""
    monkeypatch.setattr(server, "_BLOCK_BYTES", 100_000)
    first, _ = pair
    pauses = 0
    pause = ModelServer.pause

    def begins_to_measure(server: ModelServer) -> bool:
        nonlocal pauses
        pauses += server is first.server
        if pauses == 6:
            first.measuring = True
            pauses += 1
        return pause(server)

    monkeypatch.setattr(ModelServer, "pause", begins_to_measure)


@pytest.mark.usefixtures("sixth_block")
def test_a_transfer_stands_still_while_a_benchmark_runs(hub: FakeHub, model: bytes, pair: list[LanDevice]) -> None:
    first, second = pair
    first.from_hub(hub.endpoint, REQUEST)
    fetching = BackgroundFetch(lambda: second.from_hub(hub.endpoint, REQUEST))
    until(lambda: second.partial_bytes() == 500_000, "five blocks have come")
    until(lambda: first.server.transfers == 1, "the sixth stands still")
    assert first.measuring and second.partial_bytes() == 500_000
    first.measuring = False
    assert fetching.result().path.read_bytes() == model
    assert not second.has_message("waiting")
    assert hub.sent_bytes() == len(model)


@pytest.mark.usefixtures("sixth_block")
def test_a_transfer_that_stands_still_for_long_is_taken_up_afterwards(
    hub: FakeHub, model: bytes, pair: list[LanDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENCE_S", 0.1)
    first, second = pair
    first.from_hub(hub.endpoint, REQUEST)
    fetching = BackgroundFetch(lambda: second.from_hub(hub.endpoint, REQUEST))
    until(lambda: second.has_message("waiting for A, which has tiny-Q4_0.gguf and measures now"), "it asks instead")
    assert second.partial_bytes() == 500_000
    first.measuring = False
    assert fetching.result().path.read_bytes() == model
    assert second.has_message("fetching tiny-Q4_0.gguf from A: 488.3 KiB of 2.3 MiB")
    assert hub.sent_bytes() == len(model)


def announce_for(device: LanDevice, model: bytes, pid: int, born: float, state: FileStatus) -> Path:
    """A note as ``announce`` writes it."""
    note = device.store / "fetching" / f"{hashlib.sha256(model).hexdigest()}.json"
    note.parent.mkdir(parents=True)
    partial = str(device.store / "x.partial")
    note.write_text(json.dumps({"pid": pid, "born": born, "state": state, "partial": partial}))
    return note


def test_what_a_dead_process_announced_counts_no_more(hub: FakeHub, model: bytes, pair: list[LanDevice]) -> None:
    first, second = pair
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    announce_for(first, model, dead.pid, time.time(), FileStatus.FETCHES)
    second.from_hub(hub.endpoint, REQUEST)
    assert not second.has_message("waiting")
    assert hub.sent_bytes() == len(model)


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(
    hub: FakeHub, model: bytes, pair: list[LanDevice]
) -> None:
    first, second = pair
    announce_for(first, model, os.getpid(), started_s(psutil.Process()) - 100, FileStatus.FETCHES)
    second.from_hub(hub.endpoint, REQUEST)
    assert not second.has_message("waiting")


def test_who_announces_and_does_nothing_is_given_up(
    hub: FakeHub, model: bytes, pair: list[LanDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch, stalled_s=0.05)
    first, second = pair
    announce_for(first, model, os.getpid(), started_s(psutil.Process()), FileStatus.FETCHES)
    assert second.from_hub(hub.endpoint, REQUEST).path.read_bytes() == model
    assert second.has_message("waiting for A to fetch tiny-Q4_0.gguf: 0 bytes of 2.3 MiB")
    assert second.has_message("A was waited for 0 s in vain")


def test_who_goes_after_us_and_never_says_whether_it_went_is_given_up(
    hub: FakeHub, model: bytes, pair: list[LanDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch, decision_s=0.05)
    first, second = pair
    announce_for(second, model, os.getpid(), started_s(psutil.Process()), FileStatus.INTENDS)
    assert first.from_hub(hub.endpoint, REQUEST).path.read_bytes() == model
    assert not first.has_message("waiting")
    assert hub.sent_bytes() == len(model)


def test_who_goes_away_while_it_fetches_leaves_it_to_the_next(
    hub: FakeHub, model: bytes, pair: list[LanDevice]
) -> None:
    first, second = pair
    announce_for(first, model, os.getpid(), started_s(psutil.Process()), FileStatus.FETCHES)
    waiting = BackgroundFetch(lambda: second.from_hub(hub.endpoint, REQUEST))
    until(lambda: second.has_message("waiting for A to fetch"), "it waits")
    first.server.close()
    assert waiting.result().path.read_bytes() == model
    assert hub.sent_bytes() == len(model)


def test_a_wait_ends_when_the_job_is_cancelled(hub: FakeHub, model: bytes, pair: list[LanDevice]) -> None:
    first, second = pair
    announce_for(first, model, os.getpid(), started_s(psutil.Process()), FileStatus.FETCHES)
    cancelled = threading.Event()

    def notify(words: str) -> None:
        second.messages.append(words)
        if cancelled.is_set():
            raise LoadFailed(Cause.CANCELLED, "cancelled")

    def fetch() -> ModelFiles:
        return hub_fetch(REQUEST, second.store, notify, endpoint=hub.endpoint, peers=second.peers)

    waiting = BackgroundFetch(fetch)
    until(lambda: second.has_message("waiting for A to fetch"), "it waits")
    cancelled.set()
    with pytest.raises(LoadFailed, match="cancelled"):
        waiting.result()
    assert not list(second.store.rglob("fetching/*.json"))
    assert hub.file_requests() == []
