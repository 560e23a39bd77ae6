"""``orchestrate head``, ``join``, ``leave`` and ``certificate``: the cluster's own commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import LogLevel, app

OwnAddress = Annotated[str | None, typer.Option(help="This host's address, as the others reach it.")]
Block = Annotated[bool, typer.Option("--block", help="Stay, and start the node again when it ends: for a service.")]
TempDir = Annotated[Path | None, typer.Option(help="Ray's folder for sockets and logs; a short path.")]


@app.command()
def head(
    address: OwnAddress = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the cluster.")] = 6379,
    device: Annotated[bool, typer.Option("--device", help="This host is measured too.")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt Ray's connections; makes the certificates.")] = False,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let anybody join who reaches the port.")] = False,
    block: Block = False,
    temp_dir: TempDir = None,
    _log: LogLevel = None,
) -> None:
    """Start the head of a cluster on this host: it coordinates, and keeps the results."""
    from orchestrator.cli.cluster import start_head

    start_head(address, port, device=device, tls=tls, token=not no_token, block=block, temp_dir=temp_dir)


@app.command()
def join(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="Address of the head, HOST or HOST:PORT.")],
    address: OwnAddress = None,
    token_file: Annotated[str | None, typer.Option(help="File with the token; - is stdin.")] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="The head was started so.")] = False,
    tls: Annotated[Path | None, typer.Option(help="Folder that `orchestrate certificate` made for this host.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of this device; kept in its device.yaml.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, kept in device.yaml; more than once.")] = None,
    block: Block = False,
    temp_dir: TempDir = None,
    _log: LogLevel = None,
) -> None:
    """Make this host a device of a cluster."""
    from orchestrator.cli.cluster import JoinOptions, join_cluster

    options = JoinOptions(head, address, token_file, not no_token, tls, name, tuple(label or ()), block, temp_dir)
    join_cluster(options)


@app.command()
def leave() -> None:
    """End what `orchestrate head` or `join` started on this host."""
    from orchestrator.cli.cluster import leave_cluster

    leave_cluster()


@app.command()
def certificate(
    addresses: Annotated[list[str], typer.Argument(metavar="ADDRESS...", help="Addresses or names of the device.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write; bring it to the device.")],
) -> None:
    """On a head with --tls: make the certificate of a device."""
    from orchestrator.cli.certificate import make_device_certificate

    make_device_certificate(addresses, to)
