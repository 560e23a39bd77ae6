"""The authority of a cluster and the certificates that it signs, as PEM. No files, no network.

Keys are ECDSA on P-256. A certificate serves a node both as server and as client, for each node is both.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.errors import UsageError

AUTHORITY_FOR = timedelta(days=3650)
CERTIFICATE_FOR = timedelta(days=730)
CLOCKS_APART = timedelta(days=1)
"""So far the clock of a host may be behind that of the head and still find a new certificate valid."""
LOOPBACK = ("127.0.0.1", "localhost")
_DNS_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its key, each PEM. The key is in no text of this object."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Signed(...)"


def new_authority(now: datetime) -> Signed:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"orchestrate cluster {now:%Y-%m-%d}")])
    signs = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(name, name, key.public_key(), now, AUTHORITY_FOR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signs, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _signed(builder, key, key)


def new_certificate(authority: Signed, addresses: Sequence[str], now: datetime) -> Signed:
    """For a host that is reached by these IP addresses and DNS names, and by itself. Raises UsageError."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey), "made by new_authority"
    names = x509.SubjectAlternativeName([_general_name(each) for each in dict.fromkeys([*addresses, *LOOPBACK])])
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, addresses[0][:64])])
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    until = min(CERTIFICATE_FOR, issuer.not_valid_after_utc - now)
    builder = (
        _builder(subject, issuer.subject, key.public_key(), now, until)
        .add_extension(names, critical=False)
        .add_extension(uses, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _signed(builder, key, issuer_key)


def names_in(certificate: bytes) -> tuple[str, ...]:
    """The addresses that a certificate is for. Raises ValueError where it is none."""
    loaded = x509.load_pem_x509_certificate(certificate)
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        *(str(each) for each in names.get_values_for_type(x509.IPAddress)),
        *names.get_values_for_type(x509.DNSName),
    )


def why_not_now(certificate: bytes, now: datetime) -> str | None:
    """Why a certificate does not hold at this time; None where it does. Raises ValueError where it is none."""
    loaded = x509.load_pem_x509_certificate(certificate)
    if now > loaded.not_valid_after_utc:
        return f"has expired on {loaded.not_valid_after_utc:%Y-%m-%d}"
    if now < loaded.not_valid_before_utc:
        return f"holds from {loaded.not_valid_before_utc:%Y-%m-%d}, and this host's clock says {now:%Y-%m-%d %H:%M} UTC"
    return None


def is_signed_by(certificate: bytes, authority: bytes) -> bool:
    """False also where one of them is no certificate."""
    try:
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(address) or re.fullmatch(r"[0-9.]+", address):
        raise UsageError(
            f"address {address!r}: allowed: an IP address or a DNS name, such as 192.168.1.12 or lab-2.local"
        )
    return x509.DNSName(address)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, holds_for: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_APART)
        .not_valid_after(now + holds_for)
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> Signed:
    pem = serialization.Encoding.PEM
    return Signed(
        builder.sign(signer, hashes.SHA256()).public_bytes(pem),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def is_key_of(key: bytes, certificate: bytes) -> bool:
    """Whether a private key (PEM) is that of a certificate (PEM); False also for what is no key."""
    try:
        own = serialization.load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError):
        return False
    return bool(own == x509.load_pem_x509_certificate(certificate).public_key())
