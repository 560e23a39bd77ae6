"""TLS of the cluster: folders with certificates, made on the head, used by each node and by what joins the cluster.

A folder holds ``ca.crt``, ``server.crt`` and ``server.key``; the head's own has, beside them, ``authority/`` with the
key that signs: it does not leave the head. Keys have mode 600.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.cluster.private_files import mend_mode, write_private
from orchestrator.errors import UsageError

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "server.crt", "server.key"
AUTHORITY_KEY = "ca.key"
RENEW_BEFORE = timedelta(days=30)


def make_authority(folder: Path, now: datetime | None = None) -> None:
    """``ca.crt`` and ``ca.key`` in ``folder``, unless they are there. Raises OrchestrateError, UsageError."""
    # imported where it is used, here and below: `cryptography` takes a while to load, and most clusters have no TLS
    from orchestrator.cluster.certificates import new_authority

    if (folder / AUTHORITY_KEY).exists():
        # never made anew by itself: each device trusts this one, and would have to be visited for another
        _check_time(folder / AUTHORITY, now)
        mend_mode(folder / AUTHORITY_KEY)
        return
    made = new_authority(now or datetime.now(UTC))
    write_private(folder / AUTHORITY, made.certificate)
    # the key last: it is what the test above looks for, so a crash between the two leaves a folder that is made again
    write_private(folder / AUTHORITY_KEY, made.key)


def make_certificate(authority: Path, addresses: Sequence[str], folder: Path, now: datetime | None = None) -> None:
    """What a node needs, in ``folder``; what was there is replaced. Raises OrchestrateError, UsageError."""
    from orchestrator.cluster.certificates import Signed, new_certificate

    if not (authority / AUTHORITY_KEY).exists():
        raise UsageError(
            f"{authority} has no {AUTHORITY_KEY}: certificates are made on the head, after its first start"
            " with `orchestrate head --tls`"
        )
    _check_time(authority / AUTHORITY, now)
    signer = Signed(_bytes(authority / AUTHORITY), _bytes(authority / AUTHORITY_KEY))
    made = new_certificate(signer, addresses, now or datetime.now(UTC))
    # three files, each whole, but not all at once: tls_environment finds a pair that does not match after a crash
    write_private(folder / KEY, made.key)
    write_private(folder / CERTIFICATE, made.certificate)
    write_private(folder / AUTHORITY, signer.certificate)


def keep_head_certificate(folder: Path, address: str, now: datetime | None = None) -> None:
    """The head's own: made, and made again when it ends soon or the head has another address."""
    from orchestrator.cluster.certificates import is_key_of, is_signed_by, names_in, why_not_now

    make_authority(folder / "authority", now)
    # missing, unreadable or damaged: in each case a new one is the remedy, and the head can make it
    with suppress(OSError, ValueError):
        certificate = (folder / CERTIFICATE).read_bytes()
        # renewed ahead: a head may run for weeks after this check, and Ray reads the files only when it starts
        soon = (now or datetime.now(UTC)) + RENEW_BEFORE
        signed = is_signed_by(certificate, (folder / "authority" / AUTHORITY).read_bytes())
        whole = signed and is_key_of((folder / KEY).read_bytes(), certificate)
        if whole and address in names_in(certificate) and why_not_now(certificate, soon) is None:
            return
    make_certificate(folder / "authority", [address], folder, now)


def tls_environment(folder: Path, address: str | None = None, now: datetime | None = None) -> dict[str, str]:
    """Ray's variables. Raises UsageError where the certificate has expired, or is not for ``address``."""
    from orchestrator.cluster.certificates import is_key_of, is_signed_by, names_in

    for name in (AUTHORITY, CERTIFICATE):
        _check_time(folder / name, now)
    certificate = _bytes(folder / CERTIFICATE)
    # all checked here, each with its remedy: in Ray it would be a connection that fails without a reason
    if not is_signed_by(certificate, _bytes(folder / AUTHORITY)):
        raise UsageError(f"{folder / CERTIFICATE} is not signed by {folder / AUTHORITY}: {make_anew(folder)}")
    if address is not None and address not in (names := names_in(certificate)):
        raise UsageError(
            f"{folder / CERTIFICATE} is for {', '.join(names)}, and this host is {address}: {make_anew(folder)}"
        )
    if not is_key_of(_bytes(folder / KEY), certificate):
        raise UsageError(f"{folder / KEY} is not the key of {CERTIFICATE} beside it: {make_anew(folder)}")
    # a key that was copied by hand often has the mode of the copier's umask
    mend_mode(folder / KEY)
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / CERTIFICATE),
        "RAY_TLS_SERVER_KEY": str(folder / KEY),
        "RAY_TLS_CA_CERT": str(folder / AUTHORITY),
    }


def _check_time(path: Path, now: datetime | None) -> None:
    from orchestrator.cluster.certificates import why_not_now

    try:
        why_not = why_not_now(_bytes(path), now or datetime.now(UTC))
    except ValueError as error:
        raise UsageError(f"{path} holds no certificate (PEM)") from error
    if why_not is not None:
        raise UsageError(f"{path} {why_not}: {make_anew(path.parent)}")


def make_anew(folder: Path) -> str:
    return f"make it anew on the head (orchestrate certificate ADDRESS --to FOLDER), and bring it to {folder}"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror or error}."
            f" A folder for --tls holds {AUTHORITY}, {CERTIFICATE} and {KEY}"
        ) from error
