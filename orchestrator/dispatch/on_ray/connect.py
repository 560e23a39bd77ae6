"""Joins a Ray cluster, or starts one on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.cluster.environment import recorded_address, token_file
from orchestrator.errors import NoCluster, OrchestrateError, UsageError

ANSWER_S = 5.0
REMOVE_S = 2.0
OBJECT_STORE_BYTES = 128 * 1024 * 1024  # reports are small; Ray's least is 75 MiB
NAMESPACE = "orchestrate"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HTTP2_EMPTY_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # length (3 bytes), type 4, flags, stream (4 bytes)


class Connection:
    """The cluster at ``RAY_ADDRESS`` or ``address``, or the one on this machine; else one of a single node is started.

    ``started``: the cluster was started here, and ends with ``close``.
    """

    def __init__(self, address: str | None = None, *, join_only: bool = False) -> None:
        """``address``: as for ``ray.init``; "local" always starts one. ``join_only``: never starts one.

        Raises OrchestrateError, UsageError.
        """
        # the paths of Ray's sockets must stay under 104 characters: not in a user's long TMPDIR
        folder = os.environ.get("RAY_TMPDIR") or ("/tmp" if Path("/tmp").is_dir() else None)
        self._temp = tempfile.TemporaryDirectory(prefix="ray-", dir=folder, ignore_cleanup_errors=True)
        self.started = False
        try:
            named = address or os.environ.get("RAY_ADDRESS") or cluster_address()
            if named and named != "local":
                self.address: str | None = _answering(named)
                _join(self.address)
                return
            self.address = None if named else _join_latest()
            if self.address is not None:
                return
            if join_only:
                raise NoCluster(NO_CLUSTER)
            _start(self._temp.name)
            self.started = True
        except BaseException:
            self._temp.cleanup()
            raise

    def close(self) -> None:
        try:
            ray.shutdown()
        finally:  # a second Ctrl-C comes here
            self._temp.cleanup()
            _remove(Path(self._temp.name))


def _remove(folder: Path) -> None:
    """What Ray's processes still wrote into it while it was removed, too; they end within a moment."""
    until = time.monotonic() + REMOVE_S
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


NO_CLUSTER = (
    "no Ray cluster runs on this machine, and none was named. Start one: orchestrate head; or name one:"
    " --address HOST:6379, or RAY_ADDRESS"
)


def cluster_address() -> str | None:
    """What `orchestrate head` or `join` on this machine noted, if that cluster still answers."""
    address = recorded_address()
    return address if address and _why_no_answer(address) is None else None


QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}


def _join(address: str) -> None:
    own = _own_address(address)
    here: dict[str, Any] = {"_node_ip_address": own} if own else {}
    try:
        ray.init(address=address, namespace=NAMESPACE, **QUIET, **here)
    except ConnectionError as error:
        raise OrchestrateError(f"no Ray cluster answers at {address}: {_root(error)}") from error
    except ValueError as error:
        raise UsageError(f"Ray cluster {address!r}: {first_line(error)}. Allowed: HOST:PORT, or local") from error
    except (RayError, RuntimeError) as error:
        raise OrchestrateError(f"cannot join the Ray cluster at {address}: {first_line(error)}") from error


def _join_latest() -> str | None:
    """Joins the cluster that was found on this machine. None where there is none, or it does not let us in.

    It may be another user's, or no Ray at all: nobody named it, so it keeps nobody from a cluster of their own.
    """
    address = _latest_on_this_machine()
    if address is None:
        return None
    try:
        if (why_not := _why_no_grpc(address)) is not None:
            raise OrchestrateError(why_not)
        _join(address)
    except (OrchestrateError, UsageError) as error:
        ray.shutdown()  # what a join that failed half-way left would spoil the next
        sys.stderr.write(f"passed over: the Ray cluster found at {address}: {error}\n")
        return None
    return address


def _start(temp: str) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=1,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            namespace=NAMESPACE,
            _temp_dir=temp,
            **QUIET,
        )
    except Exception as error:  # Ray raises the bare class where a node does not come up in time
        raise OrchestrateError(f"cannot start a Ray node on this machine: {first_line(error)}") from error
    with suppress(OSError):
        token_file().chmod(0o600)  # Ray makes it with the umask's mode, readable for all


def _own_address(address: str) -> str | None:
    """The address of this host towards the cluster: without a default route Ray guesses it badly."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))  # sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _answering(address: str) -> str:
    """``address``, if something listens there. Ray itself would wait for minutes. Raises OrchestrateError."""
    why_not = _why_no_answer(address)
    if why_not is not None:
        raise OrchestrateError(f"no Ray cluster answers at {address}: {why_not}")
    return address


def _latest_on_this_machine() -> str | None:
    """The address that the last `ray start` left, as ray.init looks it up; None if that cluster is gone."""
    left = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        address = left.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return address if address and _why_no_answer(address) is None else None


def _why_no_grpc(address: str) -> str | None:
    """Why no Ray can be behind this port; None where one may be. ``ray.init`` would try a silent port for minutes.

    Ray's head speaks gRPC: a server of HTTP/2 (RFC 9113, 3.4) begins with a frame SETTINGS, whoever it talks to.
    """
    host, _, port = address.rpartition(":")
    if os.environ.get("RAY_USE_TLS") == "1" or not port.isdecimal() or "//" in address:
        return None  # not to be read without its key, or a form that only Ray understands
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_S) as link:
            link.sendall(HTTP2_PREFACE + HTTP2_EMPTY_SETTINGS)
            head = link.recv(len(HTTP2_EMPTY_SETTINGS), socket.MSG_WAITALL)
    except TimeoutError:
        return f"it accepts connections, and says nothing for {ANSWER_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return None if head[3:4] == HTTP2_EMPTY_SETTINGS[3:4] else "what answers there is no Ray"


def answers(address: str) -> bool:
    """Whether something listens there."""
    return _why_no_answer(address) is None


def _why_no_answer(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "//" in address:
        return None  # a form that only Ray understands
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _root(error: ConnectionError) -> str:
    """What stands behind Ray's "Failed to connect": a wrong token, or nobody there."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    if any("InvalidAuthToken" in text for text in texts):
        return f"it wants another token: copy {token_file()} from the head to this machine (mode 600)"
    return first_line(error)


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
