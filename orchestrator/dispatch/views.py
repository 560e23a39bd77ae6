"""How runs and devices stand now, for whoever asks: read from the loop's state and the ledger."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress

from orchestrator.dispatch.api import AbsentDevice, DeviceView, JobStory, RunSnapshot, RunView, StatusView
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.job_story import FleetState, story_of
from orchestrator.dispatch.ledger.backup import Backups
from orchestrator.dispatch.ledger.file import LedgerError
from orchestrator.dispatch.ledger.ledger import Ledger, RunRow
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.dispatch.notices import JobSent
from orchestrator.dispatch.notify import Notifier
from orchestrator.dispatch.operator_text import describe_ask, skip_command
from orchestrator.dispatch.runs import run_of_ledger
from orchestrator.results.store import Store


class Views:
    """All methods on the loop's thread."""

    def __init__(
        self,
        loop: CoordinatorLoop,
        ledger: Ledger,
        board: NoticeBoard,
        notifier: Notifier,
        backups: Backups | None = None,
    ) -> None:
        self._loop = loop
        self._ledger = ledger
        self._board = board
        self._notifier = notifier
        self._backups = backups
        self._rows: list[RunRow] = []

    def snapshot(self, run_id: str) -> RunSnapshot:
        loop, row = self._loop, self._ledger.run(run_id)
        run = loop.registry.runs.get(run_id)
        waiting = Counter(job.device_id for job in self._ledger.jobs(run_id) if job.state != "done")
        names = {each.device_id: each.name for each in self._ledger.devices()}
        names |= {key: device.name for key, device in loop.registry.devices.items()}
        matrix = run.matrix if run else run_of_ledger(self._ledger, run_id).matrix
        return RunSnapshot(
            run=run_id,
            name=matrix.name,
            question=matrix.question,
            devices=tuple(sorted(((key, names.get(key, key)) for key in waiting), key=lambda each: each[1])),
            present=frozenset(loop.registry.addresses),
            total=row.jobs,
            done=row.done,
            failed=row.failed,
            waiting=dict(waiting),
            running=self._running(run_id),
            asks=self._asks(run_id),
            status=row.status,
            trouble=loop.trouble,
            after=self._board.count,
        )

    def story(self, run_id: str, job: str, store: Store) -> JobStory:
        loop = self._loop
        present, schedule = frozenset(loop.registry.addresses), loop.schedule
        fleet = FleetState(present, schedule.asks(), loop.rebooting_devices, schedule.blocked())
        return story_of(self._ledger, store, run_id, job, fleet)

    def _running(self, run_id: str) -> tuple[JobSent, ...]:
        run = self._loop.registry.runs.get(run_id)
        return tuple(
            JobSent(run.name_of(job_id), self._loop.registry.name_of(device_id), attempt)
            for device_id, (job_id, attempt) in self._loop.schedule.running_attempts().items()
            if run is not None and job_id in run.jobs
        )

    def _asks(self, run_id: str) -> tuple[str, ...]:
        return tuple(
            describe_ask(ask, self._loop.registry.devices[key])
            for key, ask in self._loop.schedule.asks().items()
            if ask.run_id == run_id
        )

    def status(self) -> StatusView:
        loop, unread = self._loop, ""
        try:
            self._rows = self._ledger.runs()
        except LedgerError as error:  # the rows of the last time, and why they are that old
            unread = str(error)
        views = tuple(
            RunView(row, tuple(each.device.name for each in self._running(row.id)), self._asks(row.id))
            for row in self._rows
        )
        asks = [ask for view in views for ask in loop.schedule.asks().values() if ask.run_id == view.row.id]
        cannot = tuple(
            skip_command(ask, loop.registry.devices[ask.device_id]) for ask in asks
        )  # as the views have them
        backups = self._backups.problem if self._backups else ""
        own = (loop.trouble or unread, *loop.warnings.values(), backups, self._notifier.problem)
        troubles = tuple(filter(None, (*own, *loop.registry.troubles.values(), *self._blocked())))
        return StatusView(views, troubles, cannot, len(loop.registry.addresses), self._absent())

    def _absent(self) -> tuple[AbsentDevice, ...]:
        loop = self._loop
        waiting = {key: jobs.total() for key, jobs in loop.schedule.jobs_of_absent().items()}
        names = {key: device.name for key, device in loop.registry.devices.items()}
        if not waiting.keys() <= names.keys():
            with suppress(LedgerError):  # their ids instead
                names = {each.device_id: each.name for each in self._ledger.devices()} | names
        return tuple(
            AbsentDevice(names.get(key, key), count, time.time() - loop.absences.away_s(key))
            for key, count in waiting.items()
            if count
        )

    def _blocked(self) -> tuple[str, ...]:
        """Why devices that are there take no jobs."""
        loop = self._loop
        lines = [
            f"device {loop.registry.name_of(key).name} {'needs a reboot' if each.needs_reboot else 'waits'}: {each.why}"
            for key, each in loop.schedule.blocked().items()
        ]
        return tuple(sorted(lines))

    def devices(self) -> list[DeviceView]:
        """Devices by their names, then hosts that are none."""
        loop, now = self._loop, time.time()
        views = []
        for seen in self._ledger.seen_devices():
            key = seen.device.device_id
            live = key in loop.registry.addresses
            device = loop.registry.devices.get(key, seen.device)
            address = loop.registry.addresses.get(key) or seen.address
            views.append(DeviceView(device, self._status_of(key), address, now if live else seen.seen_unix_s))
        views.sort(key=lambda each: each.device.name if each.device else "")
        return views + [DeviceView(None, why, node, now) for node, why in loop.registry.troubles.items()]

    def _status_of(self, device_id: str) -> str:
        schedule = self._loop.schedule
        if device_id not in self._loop.registry.addresses:
            return "away"
        if device_id in schedule.running_attempts():
            return "busy"
        if (blocked := schedule.blocked_of(device_id)) is not None:
            return "needs a reboot" if blocked.needs_reboot else "waits for its disk"
        return "waits for its operator" if device_id in schedule.asks() else "free"
