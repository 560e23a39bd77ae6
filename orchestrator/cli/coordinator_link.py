"""A coordinator to talk to: that of the cluster that runs, or one in this process with a cluster of its own."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.device.inventory import boot_id
from agents.places import data_root
from orchestrator.dispatch.api import CoordinatorApi


@dataclass(frozen=True)
class CoordinatorLink:
    """``own_cluster`` is the coordinator in this process, None where it is the cluster's."""

    coordinator: CoordinatorApi
    own_cluster: OwnCluster | None

    def reads_files(self) -> bool:
        """Whether the results lie where this process can read them: on this host, in this user's folder."""
        return self.own_cluster is not None or self.coordinator.where() == (boot_id(Path("/")), str(data_root()))


@dataclass(frozen=True)
class OwnCluster:
    stop: Callable[[str], None]


@contextlib.contextmanager
def link_coordinator(
    address: str | None, *, join_only: bool = False, replace_idle: bool = False
) -> Iterator[CoordinatorLink]:
    """The coordinator; the connection ends with the context. Raises OrchestrateError, UsageError.

    ``join_only``: no cluster is started where none runs. ``replace_idle``: as for ``coordination``.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # before there is work to stop, it ends as Ctrl-C does
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):  # Ray prints what its raylets print
        from orchestrator.dispatch.on_ray.connect import Connection

        connection = Connection(address, join_only=join_only)
        try:
            if connection.started:
                from orchestrator.dispatch.coordinator import Coordinator
                from orchestrator.dispatch.on_ray.fleet import RayFleet

                own = Coordinator(data_root(), lambda: RayFleet(detached=False), own_cluster=True)
                try:
                    yield CoordinatorLink(own, OwnCluster(own.stop))
                finally:
                    own.close()
            else:
                from orchestrator.dispatch.on_ray.head import coordination

                yield CoordinatorLink(coordination(connection, replace_idle=replace_idle), None)
        finally:
            connection.close()
