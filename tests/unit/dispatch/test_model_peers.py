"""Which devices a job may ask for its model: those that began with it before come first, its own device never."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.job import Job, LoadSettings, ModelSource
from agents.contract.report import Cause, Failed, Outcome, Refused
from orchestrator.dispatch.model_peers import HEAD, MAX_PEERS, ModelPeers
from tests.unit.results.made_attempts import MEASURED, report
from tests.unit.results.made_attempts import job as job_of

HF = ModelSource(hf_repo="owner/repo")
OTHER = ModelSource(url="https://host/m.gguf")


def job(job_id: str, source: ModelSource = HF, quantisation: str = "Q4_0") -> Job:
    return replace(job_of(job_id), load=LoadSettings("llama-server", "m", quantisation, source=source))


def peers_of(*device_ids: str, head_url: str | None = None) -> ModelPeers:
    """The devices have joined and serve on one port each."""
    peers = ModelPeers("secret", lambda device_id, token: None, head_url)
    for number, device_id in enumerate(device_ids):
        peers.device_joined(device_id, device_id.upper(), f"10.0.0.{number}")
        peers.server_started(device_id, 8000)
    return peers


def asked(peers: ModelPeers, device_id: str, of: Job) -> list[str]:
    """Ids of the devices that ``device_id`` may ask, in order."""
    handed = peers.for_job(device_id, of)
    assert handed is not None and handed.own == device_id
    return [peer.device_id for peer in handed.peers]


def end(peers: ModelPeers, job_id: str, device_id: str, outcome: Outcome) -> None:
    peers.job_ended(replace(report(job(job_id), outcome), device_id=device_id))


def test_every_device_that_joins_is_asked_to_serve() -> None:
    requests: list[tuple[str, str]] = []
    peers = ModelPeers("secret", lambda device_id, token: requests.append((device_id, token)))
    peers.device_joined("a", "A", "10.0.0.1")
    assert requests == [("a", "secret")]
    assert asked(peers, "b", job("1")) == []
    peers.server_started("a", 8000)
    peers.server_started("gone", 8000)  # it answered after it had left, or never joined
    handed = peers.for_job("b", job("2"))
    assert handed is not None and handed.token == "secret"
    assert [(peer.url, peer.shown) for peer in handed.peers] == [("http://10.0.0.1:8000", "A")]


def test_who_began_with_the_model_before_comes_first_and_the_head_always() -> None:
    peers = peers_of("a", "b", "c", "d", head_url="http://head:1")
    assert asked(peers, "c", job("1")) == [HEAD, "a", "b", "d"]
    assert asked(peers, "b", job("2")) == [HEAD, "c", "a", "d"]
    assert asked(peers, "a", job("3")) == [HEAD, "c", "b", "d"]
    assert asked(peers, "a", job("4", OTHER)) == [HEAD, "b", "c", "d"]
    assert asked(peers, "a", job("5", HF, "Q8_0")) == [HEAD, "b", "c", "d"]


@pytest.mark.parametrize(
    ("outcome", "first"),
    [
        (MEASURED, "c"),
        (Failed(Cause.ENGINE_CRASHED, "", loaded=MEASURED.loaded), "c"),
        (Failed(Cause.DISK_FULL, ""), "a"),
        (Refused(Cause.UNSUPPORTED, ""), "a"),
    ],
)
def test_a_device_whose_job_ended_has_the_model_if_it_was_loaded(outcome: Outcome, first: str) -> None:
    peers = peers_of("a", "b", "c")
    asked(peers, "c", job("1"))
    end(peers, "1", "c", outcome)
    assert asked(peers, "b", job("2"))[0] == first


def test_a_report_of_a_job_that_another_coordinator_sent_changes_nothing() -> None:
    peers = peers_of("a", "b")
    end(peers, "unknown", "a", Failed(Cause.DISK_FULL, ""))
    assert asked(peers, "b", job("1")) == ["a"]


def test_in_a_large_fleet_the_list_is_short_and_has_those_that_began_before() -> None:
    fleet = [f"d{number:02}" for number in range(40)]
    peers = peers_of(*fleet)
    for number, device_id in enumerate(reversed(fleet[-10:])):
        asked(peers, device_id, job(str(number)))
    handed = asked(peers, "d00", job("last"))
    assert len(handed) == MAX_PEERS
    assert handed[:10] == [*reversed(fleet[-10:])]


@pytest.mark.parametrize("source", [ModelSource(tiny="llama"), ModelSource()])
def test_what_is_not_fetched_needs_no_peers(source: ModelSource) -> None:
    assert peers_of("a").for_job("b", job("1", source)) is None
