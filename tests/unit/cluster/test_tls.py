from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from orchestrator.cli.certificate import make_device_certificate
from orchestrator.cluster.tls import make_authority, make_certificate, tls_environment
from orchestrator.errors import UsageError

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
posix = pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")


def made(folder: Path, addresses: Sequence[str] = ("10.0.0.7",), now: datetime = NOW, host: str = "host") -> Path:
    """A host's folder, of the authority in ``folder``."""
    make_authority(folder / "authority", now)
    make_certificate(folder / "authority", addresses, folder / host, now)
    return folder / host


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(path: Path) -> set[str]:
    found = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in found.value}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_of_a_host_is_whole_and_the_authority_key_is_not_in_it(tmp_path: Path) -> None:
    host = made(tmp_path)
    assert sorted(path.name for path in host.iterdir()) == ["ca.crt", "server.crt", "server.key"]
    assert sorted(path.name for path in (tmp_path / "authority").iterdir()) == ["ca.crt", "ca.key"]
    assert (host / "ca.crt").read_bytes() == (tmp_path / "authority" / "ca.crt").read_bytes()
    key = serialization.load_pem_private_key((host / "server.key").read_bytes(), None)
    assert key.public_key() == certificate(host / "server.crt").public_key()


@posix
def test_keys_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        host = made(tmp_path)
    finally:
        os.umask(before)
    assert mode(tmp_path / "authority" / "ca.key") == 0o600
    assert mode(host / "server.key") == 0o600


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["10.0.0.7"], {"10.0.0.7"}),
        (["10.0.0.7", "lab-2.local", "fd00::7"], {"10.0.0.7", "lab-2.local", "fd00::7"}),
        (["127.0.0.1", "localhost"], set()),
    ],
)
def test_certificate_is_for_what_was_named_and_for_the_host_itself(
    tmp_path: Path, addresses: list[str], expected: set[str]
) -> None:
    host = made(tmp_path, addresses)
    found = certificate(host / "server.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names(host / "server.crt") == expected | {"127.0.0.1", "localhost"}
    assert len(found) == len(expected) + 2  # none twice
    assert ip_address("127.0.0.1") in found.get_values_for_type(x509.IPAddress)


def test_a_chain_verifies_for_server_and_client_and_not_with_another_authority(tmp_path: Path) -> None:
    own = certificate(made(tmp_path / "a") / "server.crt")
    ours = Store([certificate(tmp_path / "a" / "authority" / "ca.crt")])
    theirs = Store([certificate(made(tmp_path / "b") / "ca.crt")])
    reached_by = x509.IPAddress(ip_address("10.0.0.7"))
    PolicyBuilder().store(ours).time(NOW).build_server_verifier(reached_by).verify(own, [])
    PolicyBuilder().store(ours).time(NOW).build_client_verifier().verify(own, [])
    uses = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    with pytest.raises(x509.verification.VerificationError):
        PolicyBuilder().store(theirs).time(NOW).build_server_verifier(reached_by).verify(own, [])
    with pytest.raises(x509.verification.VerificationError):
        another = x509.IPAddress(ip_address("10.0.0.8"))
        PolicyBuilder().store(ours).time(NOW).build_server_verifier(another).verify(own, [])


def test_a_host_certificate_makes_no_others(tmp_path: Path) -> None:
    host = made(tmp_path)
    for path, is_authority in ((host / "server.crt", False), (host / "ca.crt", True)):
        assert certificate(path).extensions.get_extension_for_class(x509.BasicConstraints).value.ca is is_authority


def test_lifetimes(tmp_path: Path) -> None:
    host = made(tmp_path)
    assert certificate(host / "ca.crt").not_valid_after_utc - NOW == 10 * YEAR
    assert certificate(host / "server.crt").not_valid_after_utc - NOW == 2 * YEAR
    assert certificate(host / "server.crt").not_valid_before_utc < NOW  # a device's clock may be behind
    late = NOW + 9 * YEAR
    make_certificate(tmp_path / "authority", ["10.0.0.8"], tmp_path / "late", late)
    ends = certificate(tmp_path / "late" / "server.crt").not_valid_after_utc
    assert ends == certificate(host / "ca.crt").not_valid_after_utc  # not after its authority


def test_authority_is_made_once(tmp_path: Path) -> None:
    make_authority(tmp_path, NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    make_authority(tmp_path, NOW + YEAR)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_environment_is_that_of_ray(tmp_path: Path) -> None:
    host = made(tmp_path)
    assert tls_environment(host, now=NOW) == {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(host / "server.crt"),
        "RAY_TLS_SERVER_KEY": str(host / "server.key"),
        "RAY_TLS_CA_CERT": str(host / "ca.crt"),
    }


@posix
def test_a_key_that_others_can_read_is_mended_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = made(tmp_path)
    (host / "server.key").chmod(0o644)
    tls_environment(host, now=NOW)
    assert mode(host / "server.key") == 0o600
    assert str(host / "server.key") in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["server.crt", "server.key", "ca.crt"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    host = made(tmp_path)
    (host / missing).unlink()
    with pytest.raises(UsageError, match=missing):
        tls_environment(host, now=NOW)


def test_an_expired_certificate_says_when_and_how_to_renew_it(tmp_path: Path) -> None:
    host = made(tmp_path)
    tls_environment(host, now=NOW + 2 * YEAR)
    with pytest.raises(UsageError, match=r"server\.crt.*expired on 2028-11-23.*orchestrate certificate"):
        tls_environment(host, now=NOW + 2 * YEAR + timedelta(seconds=1))


def test_a_clock_that_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="clock"):
        tls_environment(made(tmp_path), now=NOW - YEAR)


def test_an_expired_authority_makes_nothing_more(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(UsageError, match=r"ca\.crt.*expired on"):
        make_certificate(tmp_path / "authority", ["10.0.0.8"], tmp_path / "late", NOW + 11 * YEAR)
    assert not (tmp_path / "late" / "server.crt").exists()


def test_what_is_no_certificate_is_named(tmp_path: Path) -> None:
    host = made(tmp_path)
    (host / "server.crt").write_text("hello")
    with pytest.raises(UsageError, match=r"server\.crt"):
        tls_environment(host, now=NOW)


def test_folders_of_two_clusters_are_not_mixed(tmp_path: Path) -> None:
    host, other = made(tmp_path / "a"), made(tmp_path / "b")
    (host / "ca.crt").write_bytes((other / "ca.crt").read_bytes())
    with pytest.raises(UsageError, match=r"server\.crt"):
        tls_environment(host, now=NOW)


def test_a_certificate_for_another_address_is_refused(tmp_path: Path) -> None:
    host = made(tmp_path)
    tls_environment(host, address="10.0.0.7", now=NOW)
    with pytest.raises(UsageError, match=r"10\.0\.0\.7.*10\.0\.0\.8.*orchestrate certificate"):
        tls_environment(host, address="10.0.0.8", now=NOW)


@pytest.mark.parametrize("bad", ["", "10.0.0.300", "two words", "-a.local", "10.0.0.1/24", "host:6379", "*.local"])
def test_what_is_no_address_is_refused_with_what_is_allowed(tmp_path: Path, bad: str) -> None:
    make_authority(tmp_path / "authority", NOW)
    with pytest.raises(UsageError, match="allowed"):
        make_certificate(tmp_path / "authority", [bad], tmp_path / "host", NOW)
    assert not (tmp_path / "host").exists()


def test_only_a_head_makes_certificates(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="orchestrate head --tls"):
        make_certificate(tmp_path / "authority", ["10.0.0.7"], tmp_path / "host", NOW)


def test_the_command_makes_a_folder_for_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATE_HOME", str(tmp_path / "home"))
    make_authority(tmp_path / "home" / "tls" / "authority")
    make_device_certificate(["10.0.0.7", "lab-2.local"], tmp_path / "device")
    said = capsys.readouterr().out
    assert "10.0.0.7" in said
    assert "--tls" in said
    assert "PRIVATE" not in said
    assert tls_environment(tmp_path / "device")["RAY_USE_TLS"] == "1"
    with pytest.raises(UsageError, match="--to"):
        make_device_certificate(["10.0.0.7"], tmp_path / "home" / "tls" / "authority")


class Served:
    """A TLS server on loopback that wants a certificate of its client, for one connection; what came, or why not."""

    def __init__(self, folder: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "ca.crt")
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.got: bytes | None = None
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        connection.settimeout(20)
        try:
            with self._context.wrap_socket(connection, server_side=True) as encrypted:
                self.got = encrypted.recv(5)
                encrypted.sendall(b"world")
        except OSError as error:
            self.error = error
        finally:
            connection.close()

    def ended(self) -> Served:
        self._thread.join(timeout=30)
        self._listening.close()
        assert not self._thread.is_alive()
        return self


def call(port: int, folder: Path, trusts: Path, name: str = "127.0.0.1") -> bytes:
    """As a client with a certificate of its own. Raises ssl.SSLError, OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as new versions of Python do
    context.load_verify_locations(trusts / "ca.crt")
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=name) as encrypted,
    ):
        encrypted.sendall(b"hello")
        return encrypted.recv(5)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "10.0.0.7"])
def test_two_hosts_of_a_cluster_understand_each_other(tmp_path: Path, name: str) -> None:
    now = datetime.now(UTC)
    head, device = made(tmp_path, now=now), made(tmp_path, ["10.0.0.8"], now, "device")
    served = Served(head)
    assert call(served.port, device, trusts=device, name=name) == b"world"
    assert served.ended().got == b"hello"


def test_neither_side_takes_a_host_of_another_cluster(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    head, stranger = made(tmp_path / "a", now=now), made(tmp_path / "b", now=now)
    served = Served(head)
    with pytest.raises(ssl.SSLCertVerificationError):  # the client refuses the head
        call(served.port, stranger, trusts=stranger)
    assert served.ended().got is None
    served = Served(head)
    with pytest.raises(OSError):  # the head refuses the client, which has got hold of the right ca.crt
        call(served.port, stranger, trusts=head)
    assert isinstance(served.ended().error, ssl.SSLError)


def test_a_head_is_not_taken_for_another_address(tmp_path: Path) -> None:
    head = made(tmp_path, now=datetime.now(UTC))
    served = Served(head)
    with pytest.raises(ssl.SSLCertVerificationError):
        call(served.port, head, trusts=head, name="10.0.0.9")
    served.ended()


def test_a_key_of_another_certificate_is_said(tmp_path: Path) -> None:
    host, other = made(tmp_path), made(tmp_path, host="other")
    (host / "server.key").write_bytes((other / "server.key").read_bytes())
    with pytest.raises(UsageError, match=r"server\.key is not the key of server\.crt beside it"):
        tls_environment(host, now=NOW)
