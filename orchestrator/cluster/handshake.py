"""Whether a Ray head answers at an address, and would understand this host. Ray tries for minutes, in silence."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from orchestrator.cluster.tls import AUTHORITY, CERTIFICATE, KEY, make_anew

ANSWER_S = 5.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""A client's first words in HTTP/2 (RFC 9113, 3.4): the preface and empty SETTINGS. A server answers with its own."""
_SETTINGS = 4


def why_no_head(cluster: str, tls: Path | None) -> str | None:
    """None where a head at HOST:PORT answers as one does, with TLS as this host has it. ``tls``: certificates."""
    context = _context(tls)
    host, _, port = cluster.rpartition(":")
    there = (host.strip("[]"), int(port))
    try:
        with socket.create_connection(there, timeout=ANSWER_S) as connection:
            encrypted, why_not = _encrypted(context, connection, there[0])
            if tls is not None:
                return why_not or _why_refused(encrypted, tls)
        if encrypted is not None:
            encrypted.close()
            return (
                "it was started with --tls: make a certificate there (orchestrate certificate), and give --tls FOLDER"
            )
        with socket.create_connection(there, timeout=ANSWER_S) as connection:
            return None if _speaks_http2(connection) else "what answers there is no Ray head"
    except OSError as error:
        return error.strerror or str(error)


def _context(tls: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if tls is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(tls / AUTHORITY)
        context.load_cert_chain(tls / CERTIFICATE, tls / KEY)
    return context


def _encrypted(
    context: ssl.SSLContext, connection: socket.socket, host: str
) -> tuple[ssl.SSLSocket | None, str | None]:
    """The encrypted connection, or why there is none."""
    try:
        return context.wrap_socket(connection, server_hostname=host), None
    except ssl.SSLCertVerificationError as error:
        return None, f"its certificate is not that of this cluster's head: {error.verify_message}"
    except OSError:
        return None, "it was started without --tls: leave --tls out here, or start it with --tls"


def _why_refused(connection: ssl.SSLSocket | None, tls: Path) -> str | None:
    """A server says only after the handshake that it refuses a client's certificate."""
    assert connection is not None, "there is one where there is no reason"
    with connection:
        try:
            return None if _speaks_http2(connection) else "what answers there is no Ray head"
        except ssl.SSLError:
            return f"it refuses the certificate in {tls}: {make_anew(tls)}"


def _speaks_http2(connection: socket.socket) -> bool:
    connection.sendall(_PREFACE)
    answer = connection.recv(9)
    return len(answer) >= 4 and answer[3] == _SETTINGS
