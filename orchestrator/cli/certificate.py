"""``orchestrate certificate``: what a device needs to join a head that was started with ``--tls``."""

from __future__ import annotations

from pathlib import Path

from agents.places import data_root
from orchestrator.cluster.tls import AUTHORITY_KEY, make_certificate
from orchestrator.errors import UsageError


def make_device_certificate(addresses: list[str], to: Path) -> None:
    """Raises UsageError, OrchestrateError."""
    own = data_root() / "tls"
    folder = to.expanduser().absolute()
    if folder == own or (folder / AUTHORITY_KEY).exists():
        raise UsageError(f"--to {to}: that is the head's own folder; allowed: another one")
    make_certificate(own / "authority", addresses, folder)
    print(f"{folder}: certificate and key for {', '.join(addresses)}. The key is a secret.")
    print(f"  scp -rp {folder} {addresses[0]}:cluster-tls   # then, there: orchestrate join HEAD --tls cluster-tls")
