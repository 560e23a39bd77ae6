"""``orchestrate head``, ``join`` and ``leave``."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from agents.device_file import DeviceFile, read_device_file
from agents.files import write_atomic
from agents.places import data_root, device_root
from orchestrator.cluster.addresses import (
    address_towards,
    check_free,
    checked_address,
    cluster_of,
    own_address,
    why_no_answer,
)
from orchestrator.cluster.environment import Noted, cluster_environment, forget, note, noted, token_file
from orchestrator.cluster.handshake import why_no_head
from orchestrator.cluster.node import start
from orchestrator.cluster.processes import end_all, processes_of
from orchestrator.cluster.ray_command import NodeSettings, Role, node_environment, ports_of
from orchestrator.cluster.start_coordinator import start_coordinator
from orchestrator.cluster.supervisor import Supervisor
from orchestrator.cluster.token import ensure_token, take_token
from orchestrator.errors import OrchestrateError, UsageError

LEAVE_S = 30.0


@dataclass(frozen=True, slots=True)
class JoinOptions:
    head: str
    address: str | None
    token_file: str | None
    token: bool
    tls: Path | None
    name: str | None
    labels: tuple[str, ...]
    block: bool
    temp_dir: Path | None


def start_head(
    address: str | None, port: int, *, device: bool, tls: bool, token: bool, block: bool, temp_dir: Path | None
) -> None:
    own = own_address() if address is None else checked_address(address)
    _check_none_runs(block)
    if token:
        ensure_token()
    folder = _head_certificates(own) if tls else None
    role = Role.BOTH if device else Role.HEAD
    settings = NodeSettings(role, f"{own}:{port}", own, _version(), _text(temp_dir))
    check_free(ports_of(settings))
    _print_how_to_join(settings, token=token, tls=folder)
    _run(settings, Noted(settings.cluster, role, uuid.uuid4().hex, None, _text(folder), token, _text(temp_dir)), block)


def join_cluster(options: JoinOptions) -> None:
    cluster = cluster_of(options.head)
    labels = _labels(options.labels)
    _check_none_runs(options.block)
    if options.token:
        take_token(options.token_file)
    own = address_towards(cluster) if options.address is None else checked_address(options.address)
    folder = _device_certificates(options.tls, own)
    if not options.block and (why := _why_no_head(cluster, folder)) is not None:
        raise OrchestrateError(why)
    _keep_device_file(options.name, labels)
    is_stated = options.address is not None
    settings = NodeSettings(Role.DEVICE, cluster, own, _version(), _text(options.temp_dir), stated_address=is_stated)
    check_free(ports_of(settings))
    own_note = Noted(cluster, Role.DEVICE, uuid.uuid4().hex, None, _text(folder), options.token, settings.temp_dir)
    _run(settings, own_note, options.block)


def _run(settings: NodeSettings, of: Noted, block: bool) -> None:
    of = replace(of, pid=os.getpid() if block else None)
    try:
        note(of)
    except OSError as error:
        raise OrchestrateError(f"{data_root()}: cannot be written: {error.strerror or error}") from error
    try:
        environment = node_environment(settings, _user_environment(of), cluster_environment(), of.node)
        if block:
            _supervise(settings, environment, of)
            forget()
            return
        start(settings, environment)
    except BaseException:
        forget()
        raise
    _print(f"node {settings.address} is up in the cluster {settings.cluster}; to end it: orchestrate leave")
    _start_coordinator(settings, environment)


def _supervise(settings: NodeSettings, environment: Mapping[str, str], of: Noted) -> None:
    tls = None if of.tls is None else Path(of.tls)
    Supervisor(
        settings,
        environment,
        why_not_yet=lambda: None if settings.is_head else _why_no_head(settings.cluster, tls),
        after_start=lambda: _start_coordinator(settings, environment),
        notify=_print,
    ).run()


def _why_no_head(cluster: str, tls: Path | None) -> str | None:
    theirs = tls is None and "RAY_USE_TLS" in os.environ  # certificates of the user's own are Ray's to check
    why = why_no_answer(cluster) if theirs else why_no_head(cluster, tls)
    return None if why is None else f"the head at {cluster} cannot be joined: {why}"


def _user_environment(of: Noted) -> Mapping[str, str]:
    """What was asked for with options counts more than variables, which count more than our defaults."""
    dropped = [] if of.token else ["RAY_AUTH_MODE"]
    dropped += [] if of.tls is None else ["RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"]
    return {name: value for name, value in os.environ.items() if name not in dropped}


def _start_coordinator(settings: NodeSettings, environment: Mapping[str, str]) -> None:
    if settings.is_head:
        _print(start_coordinator(settings.cluster, environment))


def _print(text: str) -> None:
    print(text, flush=True)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def _version() -> str:
    return importlib.metadata.version("orchestrate-bench")


def _check_none_runs(block: bool) -> None:
    """A service goes on with what nobody watches any more: its watcher was killed. Raises OrchestrateError."""
    found = noted()
    if found is None or not processes_of(found.node):
        return
    if block and found.pid is not None and not _watches(found):
        end_all(found.node)
    else:
        raise OrchestrateError(
            f"this host is a {found.role} in {found.cluster} already; to end that: orchestrate leave"
        )


def _head_certificates(own: str) -> Path:
    from orchestrator.cluster.tls import keep_head_certificate

    folder = data_root() / "tls"
    keep_head_certificate(folder, own)
    return folder


def _device_certificates(folder: Path | None, own: str) -> Path | None:
    """The folder, once it is known to serve this host today. Raises UsageError."""
    if folder is None:
        return None
    from orchestrator.cluster.tls import tls_environment

    tls_environment(folder.expanduser().absolute(), own)
    return folder.expanduser().absolute()


def _print_how_to_join(settings: NodeSettings, *, token: bool, tls: Path | None) -> None:
    if not token:
        _print("warning: without a token whoever reaches this host can run code on every host of the cluster")
    _print("on each device:")
    if token:
        user = f"{name}@" if (name := os.environ.get("USER")) else ""
        there = f"{user}{settings.address}:{token_file()}"
        _print(f"  mkdir -p -m 700 ~/.ray && scp -p {there} ~/.ray/auth_token   # a secret: it opens every host")
    option = ""
    if tls is not None:
        _print("  (here, for each:) orchestrate certificate DEVICE_ADDRESS --to FOLDER   # then bring FOLDER to it")
        option = " --tls FOLDER"
    _print(f"  orchestrate join {settings.cluster}{option}{'' if token else ' --no-token'}")


def _labels(pairs: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found or not key or not value:
            raise UsageError(f"--label {pair!r}: allowed: KEY=VALUE")
        labels[key] = value
    return labels


def _keep_device_file(name: str | None, labels: Mapping[str, str]) -> None:
    """``device.yaml`` with a name and labels; its other keys stay, its comments do not. Raises UsageError."""
    folder = device_root(data_root())
    try:
        own = read_device_file(folder)
    except ValueError as error:
        raise UsageError(str(error)) from error
    wanted = own.model_copy(update={"name": name or own.name, "labels": {**own.labels, **labels}})
    if wanted == own:
        return
    import yaml

    path = folder / "device.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.exists() else {}
        after = before | {"name": wanted.name, "labels": wanted.labels}
        DeviceFile.model_validate(after)
        write_atomic(path, yaml.safe_dump({key: value for key, value in after.items() if value}))
    except OSError as error:
        raise OrchestrateError(f"{path}: cannot be written: {error.strerror or error}") from error


def leave_cluster() -> None:
    found = noted()
    if found is None:
        _print("nothing to end: neither `orchestrate head` nor `join` started a node on this host")
        return
    if found.pid is not None and _watches(found):
        with suppress(psutil.Error):
            watcher = psutil.Process(found.pid)
            watcher.send_signal(signal.SIGTERM)
            with suppress(psutil.TimeoutExpired):
                watcher.wait(timeout=LEAVE_S)
    end_all(found.node)
    forget()
    _print(f"left the cluster {found.cluster}")


def _watches(found: Noted) -> bool:
    """Whether that process is still the one that was noted: ids are used again."""
    try:
        words = psutil.Process(found.pid).cmdline()
    except psutil.Error:
        return False
    return "--block" in words and any(word in ("head", "join") for word in words)
