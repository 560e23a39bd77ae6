from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import psutil
import pytest

from orchestrator.cluster.addresses import address_towards, check_free, checked_address, cluster_of, own_address
from orchestrator.errors import OrchestrateError, UsageError


@pytest.mark.parametrize(
    ("head", "cluster"),
    [
        ("10.0.0.1", "10.0.0.1:6379"),
        ("10.0.0.1:7000", "10.0.0.1:7000"),
        ("lab-2.local", "lab-2.local:6379"),
        ("[fd00::1]:7000", "[fd00::1]:7000"),
    ],
)
def test_a_head_is_named_with_or_without_its_port(head: str, cluster: str) -> None:
    assert cluster_of(head) == cluster


@pytest.mark.parametrize(
    "bad", ["", ":6379", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:x", "a b", "http://10.0.0.1", "a;b"]
)
def test_what_is_no_head_is_refused_with_what_is_allowed(bad: str) -> None:
    with pytest.raises(UsageError, match="allowed: HOST or HOST:PORT"):
        cluster_of(bad)


def hosts(monkeypatch: pytest.MonkeyPatch, *own: str) -> None:
    """A host with these addresses and no default route."""

    class NoRoute(socket.socket):
        def connect(self, *_: object) -> None:
            raise OSError(101, "Network is unreachable")

    found = {"lo": ["127.0.0.1"], **{f"eth{number}": [each] for number, each in enumerate(own)}}
    listed = {
        name: [SimpleNamespace(family=socket.AF_INET, address=each) for each in every] for name, every in found.items()
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: listed)
    monkeypatch.setattr(socket, "socket", NoRoute)


def test_without_a_default_route_the_only_address_is_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts(monkeypatch, "10.0.0.1")
    assert own_address() == "10.0.0.1"


def test_several_addresses_are_named_and_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts(monkeypatch, "10.0.0.1", "192.168.1.4")
    with pytest.raises(UsageError, match=r"--address.*10\.0\.0\.1, 192\.168\.1\.4"):
        own_address()


def test_a_host_without_an_address_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts(monkeypatch)
    with pytest.raises(UsageError, match=r"--address.*no address but its loopback"):
        own_address()


def test_no_way_to_a_head_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts(monkeypatch, "10.0.0.1")
    with pytest.raises(OrchestrateError, match=r"no way to 10\.9\.9\.9: Network is unreachable"):
        address_towards("10.9.9.9:6379")


def test_an_address_of_another_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts(monkeypatch, "10.0.0.1")
    assert checked_address("10.0.0.1") == "10.0.0.1"
    with pytest.raises(UsageError, match=r"10\.0\.0\.2.*Allowed: 10\.0\.0\.1"):
        checked_address("10.0.0.2")


def test_the_way_to_oneself_is_the_loopback() -> None:
    assert address_towards("127.0.0.1:6379") == "127.0.0.1"


def test_a_port_that_is_taken_is_named_with_who_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OrchestrateError, match=rf"port {port} \(object-manager-port\).*process {os.getpid()}"):
            check_free({"object-manager-port": port})
    check_free({"object-manager-port": port})
