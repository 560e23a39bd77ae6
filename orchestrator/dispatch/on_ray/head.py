"""The coordinator as a detached actor on the head's node: found, made, restarted by Ray, called from anywhere."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any, cast

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agents.log import Entry
from agents.places import data_root
from orchestrator.dispatch.api import CoordinatorApi
from orchestrator.dispatch.coordinator import Coordinator
from orchestrator.dispatch.on_ray.connect import NAMESPACE, Connection, answers, first_line
from orchestrator.dispatch.on_ray.fleet import RayFleet
from orchestrator.errors import OrchestrateError

log = logging.getLogger(__name__)

NAME = "coordinator"
HEAD_RESOURCE = "node:__internal_head__"
CALLS_AT_ONCE = 64  # each watcher holds one for up to its wait
CALL_S = 180.0
AGAIN_S = 1.0
BEGIN_AGAIN_S = 5.0
TRY_S = 2.0
CRASH_S = 5.0
WATCH_S = 30.0
"""So long an answer to ``watch`` may take beyond its own wait: an answer that is lost keeps nobody for ``CALL_S``."""
GONE_S = 60.0
"""So long a coordinator that was killed may take to be there again."""


class CoordinatorActor:
    """What runs in the actor: a Coordinator, rebuilt from the ledger wherever Ray starts it again."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._coordinator: Coordinator | None = None
        self._why_not: OrchestrateError | None = None
        self._tried_s = 0.0
        threading.Thread(target=self._begin, name="begin", daemon=True).start()

    def _begin(self) -> None:
        """Until it works: after a restart by Ray nobody need ask for it, and a disk may be full."""
        while self._coordinator is None:
            with suppress(Exception):  # the coordinator logs it, and whoever calls gets it raised
                self._started()
                return
            time.sleep(BEGIN_AGAIN_S)

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if method not in CoordinatorApi.__dict__:
            raise OrchestrateError(f"the coordinator has no {method}: another version of orchestrate?")
        try:
            return getattr(self._started(), method)(*arguments)
        except OrchestrateError as error:
            log.warning(Entry("CallRefused", method=method, detail=str(error)))
            raise

    def _started(self) -> Coordinator:
        with self._starting:
            if self._coordinator is None:
                # to many callers at once the answer is the same: each try of its own would keep the next one waiting
                if self._why_not is not None and time.monotonic() - self._tried_s < TRY_S:
                    raise self._why_not
                self._why_not = None
                try:
                    self._coordinator = Coordinator(data_root(), lambda: RayFleet(detached=True), on_failure=_crash)
                except OrchestrateError as error:
                    self._why_not, self._tried_s = type(error)(str(error)), time.monotonic()
                    raise
            return self._coordinator


def _crash(error: BaseException) -> None:
    """Ray starts it again, from the ledger: after a fault of the coordinator itself, or a ledger that was damaged."""
    if isinstance(error, OrchestrateError):  # a damaged ledger: it says all that is to be said
        sys.stderr.write(f"error: {error}\n")
    else:
        traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    threading.Timer(CRASH_S, os._exit, (1,)).start()


class _Remote:
    """A Coordination whose calls cross the network.

    A call that a restart of the coordinator cut off is made again, where that cannot do anything twice.
    """

    ONCE = frozenset({"submit", "retry"})

    def __init__(self, handle: Any, address: str) -> None:
        self._handle = handle
        self._address = address

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *arguments: self._call(method, arguments)

    def _call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        began = time.monotonic()
        limit_s = min(arguments[-1] + WATCH_S, CALL_S) if method == "watch" else CALL_S
        while True:
            try:
                return ray.get(self._handle.call.remote(method, arguments), timeout=limit_s)
            except RayTaskError as error:
                if isinstance(error.cause, OrchestrateError):
                    raise error.cause from None
                raise OrchestrateError(f"the coordinator failed: {first_line(error.cause or error)}") from error
            except (ActorUnavailableError, RayActorError) as error:
                self._check_head()
                if method in self.ONCE or time.monotonic() - began > GONE_S:
                    raise OrchestrateError(f"the coordinator was lost: {first_line(error)}") from error
                time.sleep(AGAIN_S)
                self._handle = _found(self._handle)
            except GetTimeoutError as error:
                self._check_head()
                if time.monotonic() - began >= CALL_S:
                    raise OrchestrateError(f"the coordinator did not answer within {CALL_S:g} s") from error
                self._handle = _found(self._handle)

    def _check_head(self) -> None:
        if not answers(self._address):
            raise OrchestrateError(
                f"the head at {self._address} answers no more. Runs go on when it is back: orchestrate watch"
            )


def _found(before: Any) -> Any:
    try:
        return ray.get_actor(NAME, NAMESPACE)
    except ValueError:
        return before


def coordination(connection: Connection, *, replace_idle: bool = False) -> CoordinatorApi:
    """The coordinator of the cluster that this process has joined; made if there is none. Raises OrchestrateError.

    ``replace_idle``: one of another version that has no work is ended, and one of this version started.
    """
    address = connection.address or ""
    remote = cast(CoordinatorApi, _Remote(_make(), address))
    mine, theirs = importlib.metadata.version("orchestrate-bench"), remote.version()
    if theirs != mine:
        if not replace_idle:
            raise OrchestrateError(
                f"the head at {address} has version {theirs} of orchestrate, this is {mine}: use {theirs} here, or"
                " start the head again with this one"
            )
        if not remote.idle():
            raise OrchestrateError(
                f"the coordinator has version {theirs} of orchestrate and is at work; this is {mine}: wait, or use that"
            )
        ray.kill(ray.get_actor(NAME, NAMESPACE), no_restart=True)
        remote = cast(CoordinatorApi, _Remote(_make(), address))
    return remote


def _make() -> Any:
    head = next((node for node in ray.nodes() if node["Alive"] and HEAD_RESOURCE in node["Resources"]), None)
    if head is None:
        raise OrchestrateError("the cluster has no head node that is alive")
    actor: Any = ray.remote(CoordinatorActor)
    options = {
        "name": NAME,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_concurrency": CALLS_AT_ONCE,
        "max_restarts": -1,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(head["NodeID"], soft=False),
    }
    try:
        return actor.options(**options).remote()
    except (RayError, ValueError, RuntimeError) as error:
        raise OrchestrateError(f"the coordinator cannot be started: {first_line(error)}") from error
