"""The coordinator's loop: takes events, asks the schedule for commands, writes down what must last, carries them out.

All deciding is in ``schedule``; what must be durable is in ``persist``. One thread runs the loop; others put work into
its inbox (``call_soon``).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from agents.contract.device import Blocked, Device
from agents.contract.job import MachineState
from agents.contract.report import Attempt
from agents.log import Entry, log_entries, suppressed
from orchestrator.dispatch.absences import Absences
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.effects import Dependencies, Effects
from orchestrator.dispatch.file_merger import FileMerger
from orchestrator.dispatch.fleet import (
    DeviceGreeted,
    DeviceUnreachable,
    Fleet,
    FleetEvent,
    NodeTroubleChanged,
    StatusReceived,
)
from orchestrator.dispatch.ledger.file import LedgerBusy, LedgerDamaged, LedgerError
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.messages import (
    AttemptEnded,
    BlockChanged,
    Command,
    DeviceJoined,
    DeviceLost,
    Event,
    GiveUp,
    Retry,
    Send,
    SetSplit,
    StateRefused,
)
from orchestrator.dispatch.model_peers import ModelPeers
from orchestrator.dispatch.notices import (
    DeviceAppeared,
    DeviceDisappeared,
    JobProgress,
    Notice,
    TroubleReported,
)
from orchestrator.dispatch.notify import Notifier
from orchestrator.dispatch.persist import Persister
from orchestrator.dispatch.rechecks import Rechecks
from orchestrator.dispatch.runs import Registry, remaining_of, run_of_ledger
from orchestrator.dispatch.schedule import Schedule
from orchestrator.errors import OrchestrateError
from orchestrator.results.store import Store

LISTEN_S = 1.0
LEASE_S = 90.0
"""An agent that gets no call for so long ends its job. Ray calls a host dead 64 s after its link went down."""
AGAIN_S = 2.0
"""Between two tries to write where a disk takes no more."""
REBOOT_S = 900.0
"""So long after a reboot was commanded a device may still be there."""
SLEEP_S = 30.0
"""Without work for so long, the agents end: an idle actor of Ray takes 0.8 to 1 % of a core (it wakes 100 times a
second), which the next thing that is measured on the device, by whomever, would feel."""
SEEN_S = 30.0
"""How exact the ledger is on when a device was last there."""

log = logging.getLogger(__name__)

T = TypeVar("T")


UNUSUAL = (DeviceLost, GiveUp, Retry, StateRefused)
"""Events and commands that the log has as warnings."""


class CoordinatorLoop:
    """``long_lived``: it serves many runs; where a disk is full it waits and tries again, instead of raising."""

    def __init__(
        self,
        fleet: Fleet,
        ledger: Ledger,
        store: Store,
        board: NoticeBoard,
        *,
        long_lived: bool = False,
        notifier: Notifier | None = None,
        peers: ModelPeers | None = None,
        merger: FileMerger | None = None,
        on_run_end: Callable[[], object] = lambda: None,
        lease_s: float = LEASE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.schedule = Schedule()
        self.registry = Registry()
        self.trouble = ""  # what keeps the coordinator itself from going on
        self.warnings: dict[str, str] = {}  # by subject: what a person should know, and what stops nothing
        self._fleet = fleet
        self._ledger = ledger
        self._store = store
        self._board = board
        self._long_lived = long_lived
        self._peers = peers
        self._monotonic = monotonic
        # before any call goes out: once greeted with this term, an agent refuses an earlier coordinator's calls
        self._term = ledger.new_term()
        log.info(Entry("TermBegan", term=self._term))
        fleet.begin(self._term)
        board.begin(self._term)
        self._persister = Persister(ledger, store, self.registry.runs, self.registry.devices, self._term)
        dependencies = Dependencies(fleet, ledger, store, board, notifier, peers, merger, lease_s, on_run_end)
        self._effects = Effects(
            dependencies, self.registry, self._term, lambda event: self.call_soon(lambda: self.handle([event]))
        )
        self._rechecks = Rechecks(
            fleet, self._term, self.call_soon, lambda news: self.handle(self._events_of(news)), monotonic
        )
        self.absences = Absences(ledger, monotonic)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._queries: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._failure: Exception | None = None  # found by another thread; the next round raises it
        self._unwritten: list[Command] = []  # commands that were decided, and are not yet written down
        self._deferred: list[FleetEvent] = []  # fleet events that came while nothing could be written
        self._undelivered: dict[str, Attempt] = {}  # by device: sends that were decided, and not carried out
        self._rebooting: dict[str, tuple[float, SetSplit]] = {}  # since when
        self._unrecorded: set[str] = set()  # devices that the ledger could not take when they came
        self._try_again_s = 0.0
        self._seen_s = self._worked_s = monotonic()
        self._record_again_s = 0.0
        self._sleeping = False
        self._closed = threading.Event()

    @property
    def term(self) -> int:
        return self._term

    @property
    def rebooting_devices(self) -> frozenset[str]:
        return frozenset(self._rebooting)

    def resume_runs(self) -> None:
        """Before the loop runs: resumes every run of the ledger that is not complete."""
        for row in self._ledger.runs():
            if row.remaining:
                try:
                    self.resume_run(row.id)
                except LedgerError:  # it passes, or is mended: then all of them go on, in a new coordinator
                    raise
                except OrchestrateError as error:  # of another version, say: the others go on
                    self.registry.troubles[row.id] = str(error)
                    log.warning(Entry("RunNotResumed", run=row.id, detail=str(error)))

    def resume_run(self, run_id: str) -> None:
        """On the loop's thread: what remains of a run is pending again. Raises OrchestrateError."""
        # both can raise, and do so before the registry changes: a run that cannot be read is not half open
        run = run_of_ledger(self._ledger, run_id)
        event = remaining_of(self._ledger, self._store, run)
        self.registry.runs[run_id] = run
        # a device that is here already greeted us before the run was open: its reports were set aside then
        held = [key for key in self.registry.unclaimed if key[0] in run.jobs]
        self.handle([replace(event, reports=tuple(self.registry.unclaimed.pop(key) for key in held))])

    def call_soon(self, work: Callable[[], T], *, changes: bool = True) -> Future[T]:
        """Runs ``work`` on the loop's thread, where all state is its own. From any thread.

        What ``changes`` something waits while nothing can be written; what only reads does not.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # it is the caller's, and must not end the loop
                future.set_exception(error)

        (self._inbox if changes else self._queries).put(
            run
        )  # never blocks: a future's callback may be the caller, on a thread of Ray
        # the loop may be inside listen() for up to LISTEN_S: a person's command would wait as long
        self._fleet.interrupt()
        return future

    def fail(self, error: Exception) -> None:
        """``run`` ends with ``error`` after its present round. From any thread."""
        self._failure = error
        self._fleet.interrupt()

    def close(self) -> None:
        """The loop ends after its present round. From any thread."""
        self._closed.set()
        self._fleet.interrupt()

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Goes on until ``close``, or until ``until()`` says so between two rounds.

        Raises OrchestrateError where the store or the ledger cannot be written, unless it is ``long_lived`` or another
        program holds the ledger; LedgerDamaged in any case, for no second try can mend that.
        """
        while not self._closed.is_set() and not until():
            self.round()
            if self._failure is not None:
                raise self._failure

    def round(self, wait_s: float = LISTEN_S) -> None:
        """One round: work of the inbox, events of the fleet, the commands that follow."""
        self._run_inbox()
        news = self._fleet.listen(wait_s if not self._unwritten else min(wait_s, AGAIN_S))
        self._deferred += news
        if self._unwritten:
            # the schedule has decided, and cannot decide again before that is written: else a job could be sent that
            # no ledger knows. The fleet is listened to all the same, for each call renews a lease.
            self._deferred = _latest(self._deferred)
            if self._monotonic() >= self._try_again_s:
                self._write()
            return
        late, self._deferred = self._deferred, []
        # all events of a round in one go: their reports cost one file and one transaction together
        self.handle([event for each in late for event in self._events_of(each)])
        self._check_reboots()
        if not self._unwritten and (overdue := self.absences.overdue(self.schedule.jobs_of_absent, self.registry.runs)):
            self.handle(overdue)
        self._rechecks.run(self.schedule.blocked())
        self._record_presence()
        self._sleep_when_idle()

    def handle(self, events: Sequence[Event]) -> None:
        """On the loop's thread: the schedule decides, its commands are written down, then carried out."""
        messages: list[Event | Command] = []
        for each in events:
            event = self._with_undelivered(each) if isinstance(each, DeviceLost) else each
            commands = self.schedule.handle(event)
            messages += (event, *commands)
            self._unwritten += commands
        if messages and log.isEnabledFor(logging.WARNING):
            log_entries(log, [(_log_level(each), Entry(type(each).__name__, each)) for each in messages])
        if self._unwritten:
            self._write()

    def _with_undelivered(self, event: DeviceLost) -> DeviceLost:
        """A device may be lost between the decision to send it a job and the call."""
        decided = {each.device_id: (each.job_id, each.attempt) for each in self._unwritten if isinstance(each, Send)}
        dropped = self._undelivered.pop(event.device_id, None)
        return replace(event, undelivered=event.undelivered or decided.get(event.device_id) or dropped)

    def _run_inbox(self) -> None:
        while not self._queries.empty():
            self._queries.get_nowait()()
        # not while commands are unwritten: what this decides could not be written down
        while not self._unwritten and not self._inbox.empty():
            self._inbox.get_nowait()()

    def _write(self) -> None:
        try:
            # a second try writes the same again, whole: what the first left behind changes nothing
            self._persister.write(self._unwritten)
        except LedgerDamaged:
            raise
        except OrchestrateError as error:
            if not self._long_lived and not isinstance(
                error, LedgerBusy
            ):  # a command of one person ends, and says why; `resume` goes on
                raise
            self._set_trouble(f"{error}; trying again until it works")
            self._try_again_s = self._monotonic() + AGAIN_S
            return
        if self.trouble:
            self._set_trouble("")
        # emptied first: should an effect raise, none of them is carried out a second time
        commands, self._unwritten = self._unwritten, []
        for command in commands:
            if isinstance(command, SetSplit):  # from now on: the reboot may take the answer with it
                self._rebooting[command.device_id] = (self._monotonic(), command)
            if not isinstance(command, Send) or self._still_holds(command):
                self._effects.perform(command)
            else:
                self._undelivered[command.device_id] = (command.job_id, command.attempt)

    def _set_trouble(self, words: str) -> None:
        if words != self.trouble:
            log.error(Entry("TroubleReported" if words else "TroubleOver", detail=words or None))
            self.trouble = words
            for run_id in self.registry.runs:
                self._board.post(run_id, TroubleReported(words))

    def _events_of(self, news: FleetEvent) -> Sequence[Event]:
        match news:
            case DeviceGreeted(device, status, address):
                return self._on_device_greeted(device, address, status)
            case StatusReceived(device_id, status):
                name = self.registry.name_of(device_id)
                job_id = status.job[0] if status.job else None
                self._board.post_progress(JobProgress(name, job_id, status.stage, status.reads_per_s))
                # repeats too: an agent sends a report until it is acknowledged; the schedule discards it
                ended = [AttemptEnded(report) for report in status.reports]
                # first: a blocked device gets no other job for the one that has ended
                return [*self._block_changed(device_id, status.blocked), *ended]
            case DeviceUnreachable(device_id, detail, undelivered):
                self._rebooting.pop(device_id, None)  # it is on its way
                self.absences.begin(device_id)
                self._post_to_runs_on(device_id, DeviceDisappeared(self.registry.name_of(device_id), detail))
                # behind the notice; the device itself stays in the registry: its name is needed in rows and messages
                self.registry.addresses.pop(device_id, None)
                return [DeviceLost(device_id, detail, undelivered)]
            case NodeTroubleChanged(node, detail):
                self._on_node_trouble(node, detail)
                return []

    def _on_node_trouble(self, node: str, detail: str) -> None:
        """``detail`` empty: over."""
        if detail and self.registry.troubles.get(node) != detail:
            self.registry.troubles[node] = detail
            log.warning(Entry("NodeTroubleReported", node=node, detail=detail))
            for run_id in self.registry.runs:
                self._board.post(run_id, TroubleReported(detail))
        elif not detail and node in self.registry.troubles:
            del self.registry.troubles[node]
            log.info(Entry("NodeTroubleOver", node=node))

    def _on_device_greeted(self, device: Device, address: str, status: Any) -> Sequence[Event]:
        before = self.registry.devices.get(device.device_id)
        self._rebooting.pop(device.device_id, None)
        self.absences.end(device.device_id)
        if self._sleeping:  # the others go on sleeping; this one sleeps when they would
            self._sleeping, self._worked_s = False, self._monotonic()
        self.registry.devices[device.device_id] = device
        self.registry.addresses[device.device_id] = address
        self._unrecorded.add(device.device_id)
        if self._peers is not None:
            self._peers.device_joined(device.device_id, device.name, address)
        # by boot id, not by time: an agent that crashed and a machine that restarted look alike from here
        rebooted = before is not None and before.boot_id != device.boot_id
        words = "joined" if before is None else "back after a reboot" if rebooted else "back"
        self._post_to_runs_on(device.device_id, DeviceAppeared(self.registry.name_of(device.device_id), words))
        blocked = [*self._block_changed(device.device_id, status.blocked)]
        return [*blocked, DeviceJoined(device, status.job, status.reports, status.blocked)]

    def _block_changed(self, device_id: str, blocked: Blocked | None) -> Sequence[Event]:
        before = self.schedule.blocked_of(device_id)
        if blocked == before:
            return []
        name = self.registry.name_of(device_id)
        if blocked is None:
            self._post_to_runs_on(device_id, DeviceAppeared(name, "takes jobs again"))
        elif before is None:
            self._post_to_runs_on(device_id, TroubleReported(f"device {name.name}: {blocked.why}"))
        return [BlockChanged(device_id, blocked)]

    def on_device_changed(self, device: Device) -> None:
        """On the loop's thread: the same device reports new facts of itself."""
        self.registry.devices[device.device_id] = device
        self._unrecorded.add(device.device_id)
        running = self.schedule.running_attempts().get(device.device_id)
        self.handle([DeviceJoined(device, running, blocked=self.schedule.blocked_of(device.device_id))])

    def _post_to_runs_on(self, device_id: str, notice: Notice) -> None:
        for run_id, run in self.registry.runs.items():
            if device_id in run.device_ids:
                self._board.post(run_id, notice)

    def _still_holds(self, command: Send) -> bool:
        """Not where the device was lost between the decision and now: its new agent would get two jobs."""
        if self.schedule.current_attempt(command.device_id) != (command.job_id, command.attempt):
            return False
        # writing can take long (a full disk): what came meanwhile is not with the schedule yet
        return not any(
            isinstance(each, DeviceUnreachable) and each.device_id == command.device_id for each in self._deferred
        )

    def _check_reboots(self) -> None:
        """Devices that were to reboot by themselves, and are still there: their operators are asked."""
        now = self._monotonic()
        # a copy: entries are deleted inside, and the event that is handled there may add others
        for device_id, (began_s, command) in list(self._rebooting.items()):
            if now - began_s >= REBOOT_S:
                del self._rebooting[device_id]
                state = MachineState(dedicated_vram_bytes=command.dedicated_vram_bytes)
                why = f"the agent set it, and the machine did not reboot within {REBOOT_S / 60:g} min"
                self.handle([StateRefused(device_id, state, why, by_agent=True)])

    def wake_devices(self) -> None:
        """On the loop's thread, before there is work again: devices that sleep join again."""
        self._sleeping = False
        self._worked_s = self._monotonic()
        self._fleet.wake_devices()

    def _sleep_when_idle(self) -> None:
        if not self._long_lived or self.schedule.has_work:
            self._worked_s = self._monotonic()
        elif not self._sleeping and self._monotonic() - self._worked_s >= SLEEP_S:
            self._sleeping = True
            self._fleet.sleep_devices()

    def _record_presence(self) -> None:
        now_s = self._monotonic()
        is_due = self._unrecorded or now_s - self._seen_s >= SEEN_S
        # one transaction a round at most: each may wait for another program, and people wait for the loop
        if self._unwritten or not is_due or now_s < self._record_again_s:
            return
        self._record_again_s = now_s + SEEN_S  # a full disk is tried again then, not in each round
        with suppressed(log, "PresenceNotRecorded", OrchestrateError):
            with self._ledger.batch():
                for device_id in self._unrecorded:
                    address = self.registry.addresses.get(device_id)
                    self._ledger.record_devices([self.registry.devices[device_id]], address)
                self._ledger.touch_devices(self.registry.addresses)
            self._unrecorded.clear()
            self._seen_s, self._record_again_s = now_s, 0.0


def _log_level(message: Event | Command) -> int:
    return logging.WARNING if isinstance(message, UNUSUAL) else logging.INFO


def _latest(news: Sequence[FleetEvent]) -> list[FleetEvent]:
    """Only the latest status of each device: an agent repeats its reports until they are acknowledged. PURE"""
    last = {each.device_id: place for place, each in enumerate(news) if isinstance(each, StatusReceived)}
    return [
        each for place, each in enumerate(news) if not isinstance(each, StatusReceived) or last[each.device_id] == place
    ]
