"""Addresses and ports of this host."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

import psutil

from orchestrator.cluster.ray_command import HEAD_PORT
from orchestrator.errors import OrchestrateError, UsageError

ANSWER_S = 5.0
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]")


def cluster_of(head: str) -> str:
    """``HOST`` or ``HOST:PORT`` -> ``HOST:PORT``. Raises UsageError."""
    host, colon, port = head.partition(":") if head.count(":") <= 1 else head.rpartition(":")
    port = port if colon else str(HEAD_PORT)
    if not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"HEAD {head!r}: allowed: HOST or HOST:PORT, such as 192.168.1.10:{HEAD_PORT}")
    return f"{host}:{port}"


def why_no_answer(cluster: str) -> str | None:
    """None if something listens at HOST:PORT."""
    host, _, port = cluster.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def address_towards(cluster: str) -> str:
    """This host's address on the way to the head. Raises OrchestrateError."""
    host, _, port = cluster.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))  # sends nothing
        except OSError as error:
            raise OrchestrateError(f"there is no way to {host}: {error.strerror or error}") from error
        return str(probe.getsockname()[0])


def own_address() -> str:
    """That of the default route, or the only one. Raises UsageError where there are several, or none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documents: only the route counts
            return str(probe.getsockname()[0])
        except OSError:
            pass
    found = own_addresses()
    if len(found) == 1:
        return found[0]
    which = f"this host has {', '.join(found)}" if found else "this host has no address but its loopback"
    raise UsageError(f"--address is needed: {which}")


def own_addresses() -> list[str]:
    """IPv4 addresses but for the loopback's."""
    every = (each for addresses in psutil.net_if_addrs().values() for each in addresses)
    return sorted(each.address for each in every if each.family is socket.AF_INET and each.address[:4] != "127.")


def checked_address(address: str) -> str:
    """Raises UsageError where it is none of this host's."""
    if address not in (*own_addresses(), "127.0.0.1"):
        raise UsageError(f"--address {address}: is not this host's. Allowed: {', '.join(own_addresses()) or 'none'}")
    return address


def check_free(ports: Mapping[str, int]) -> None:
    """Raises OrchestrateError that names the port and who has it."""
    for purpose, port in ports.items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError as error:
                holder = _holder(port)
                raise OrchestrateError(
                    f"port {port} ({purpose}) is taken{holder}: end that, or, if it is a Ray node: orchestrate leave"
                ) from error


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass
    return ""
