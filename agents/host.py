"""The one place where an agent is assembled: runs one job at a time on this machine, and keeps a loaded engine."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agents.clock import Clock, SystemClock
from agents.contract.device import Device, EngineFound, StateSource, same_power, same_split, why_no_split
from agents.contract.job import Job, LoadSettings, Workload
from agents.contract.measure import Trial
from agents.contract.report import Cause, Failed, Loaded, MachineSeen, Measured, Outcome, Refused, Report
from agents.device_file import read_device_file
from agents.engines import engines_of
from agents.engines.base import Engine, LoadPlace, Session, refuse_what_it_cannot
from agents.engines.http_stream import Progress
from agents.errors import AgentError, LoadFailed, Unsupported
from agents.inventory import inventory
from agents.measure import measure
from agents.models.peers import Peers
from agents.power import METHODS
from agents.power.holding import PowerHold

LOG_LIMIT = 256 * 1024  # characters of an engine's log that travel with a report

PASSING = frozenset({Cause.CANCELLED, Cause.DISK_FULL})
"""Causes of a failed load that say nothing of the next try with the same settings."""

Say = Callable[[str, Progress | None], None]
"""Told of each phase as it begins ("loading", "measuring"), with the live view of the stream if there is one."""


@dataclass
class Host:
    """Engines and state of this device. ``run`` never raises for what a job can do wrong: that is an outcome."""

    device: Device
    folder: Path  # device root: models/, logs/
    engines: tuple[Engine, ...]
    clock: Clock = field(default_factory=SystemClock)
    power: PowerHold = field(default_factory=lambda: PowerHold((), Path("unused")))
    peers: Peers | None = None  # devices that model files can be fetched from
    _failed: tuple[LoadSettings, LoadFailed] | None = None  # the last load, if it failed: repeats come one by one
    _session: Session | None = None
    _settings: LoadSettings | None = None
    _warmed: set[Workload] = field(default_factory=set)
    _log: Path | None = None

    @classmethod
    def of_this_machine(cls, folder: Path) -> Host:
        engines = engines_of(read_device_file(folder))
        device = inventory(folder, found_of(engines))
        methods = [method for method in METHODS if method.name in device.power_methods]
        power = PowerHold(methods, folder / "power-journal.json")
        power.restore_left()
        return cls(device, folder, engines, power=power)

    def run(self, job: Job, cancelled: threading.Event, say: Say) -> Report:
        """One attempt at ``job``. The engine stays loaded for a next job with equal settings."""
        started = self.clock.unix_s()
        outcome = self._outcome(job, cancelled, say)
        machine = self._machine()
        log = self._engine_log(outcome)
        if not isinstance(outcome, Measured):
            self.unload()  # what failed is not trusted with the next cell
        return Report(
            job_id=job.job_id,
            attempt=job.attempt,
            campaign_id=job.campaign_id,
            device_id=self.device.device_id,
            fingerprint=self.device.fingerprint,
            boot_id=self.device.boot_id,
            started_unix_s=started,
            ended_unix_s=self.clock.unix_s(),
            outcome=outcome,
            log=log,
            machine=machine,
        )

    def _outcome(self, job: Job, cancelled: threading.Event, say: Say) -> Outcome:
        loaded: Loaded | None = None
        trials: list[Trial] = []
        try:
            self._enter_state(job)
            session, reused = self._loaded(job, cancelled, say)
            loaded = replace(session.loaded, reused=reused)
            warmups = 0 if job.workload in self._warmed else job.warmups
            for trial in measure(job, session, warmups, cancelled, say):
                trials.append(trial)  # noqa: PERF402  kept one by one: what was complete stays when a later one fails
            self._warmed.add(job.workload)
            return Measured(loaded, tuple(trials))
        except Unsupported as error:
            return Refused(error.cause, error.detail)
        except AgentError as error:
            return Failed(error.cause, error.detail, loaded, tuple(trials), error.log_tail)
        except OSError as error:
            cause = Cause.DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else Cause.AGENT_FAULT
            return Failed(cause, f"{type(error).__name__}: {error}", loaded, tuple(trials))

    def _enter_state(self, job: Job) -> None:
        """Raises Unsupported if the device is not in the state that the job asks for, and cannot be brought there."""
        device, wanted = self.device, job.state.dedicated_vram_bytes
        if wanted is not None and not same_split(wanted, device.dedicated_vram_bytes):
            raise Unsupported(why_no_split(wanted, device) or _set_it(wanted, device), Cause.WRONG_STATE)
        limit_w = job.state.power_limit_w
        if limit_w is None:
            self.power.release()
        elif self.power.methods:
            self.power.at(limit_w)
        elif not same_power(limit_w, device.power_limit_w):
            stated = "none is stated" if device.power_limit_w is None else f"{device.power_limit_w:g} W is stated"
            raise Unsupported(
                f"no method is allowed to hold {device.name} at {limit_w:g} W, and {stated}:"
                f" set it and say so with: orchestrate state {device.name} --power-limit {limit_w:g}W",
                Cause.WRONG_STATE,
            )

    def _machine(self) -> MachineSeen:
        device, held_w = self.device, self.power.limit_w
        return MachineSeen(
            dedicated_vram_seen_bytes=device.dedicated_vram_bytes,
            dedicated_vram_source=device.split_source,
            power_limit_seen_w=device.power_limit_w if held_w is None else held_w,
            power_limit_source=device.power_source if held_w is None else StateSource.HELD,
        )

    def _loaded(self, job: Job, cancelled: threading.Event, say: Say) -> tuple[Session, bool]:
        if self._session is not None and self._settings == job.load:
            with suppress(AgentError):  # it ended between two jobs: loaded again
                self._session.check_alive(within_s=0.0)
                return self._session, True
        self.unload()
        if self._failed is not None and self._failed[0] == job.load:
            before = self._failed[1]
            raise LoadFailed(before.cause, f"{before.detail} (not tried again: it failed so just before)")
        engine = self._engine(job)
        refuse_what_it_cannot(engine, job.load, job.workload)
        self._log = self.folder / "logs" / job.campaign_id / f"{job.job_id}-{job.attempt}.log"
        self._log.unlink(missing_ok=True)  # of the same attempt before a crash: not this engine's words

        def tell(phase: str) -> None:
            if cancelled.is_set():  # a download or a hash may take long, and looks nowhere else
                raise LoadFailed(Cause.CANCELLED, "cancelled while the model was prepared")
            say(phase, None)

        place = LoadPlace(
            models=self.folder / "models",
            log=self._log,
            timeout_s=job.timeouts.load_s,
            clock=self.clock,
            cancelled=cancelled,
            say=tell,
            peers=self.peers,
        )
        self._failed = None
        try:
            self._session = engine.load(job.load, place)
        except LoadFailed as error:
            if error.cause not in PASSING:
                self._failed = (job.load, error)
            raise
        self._settings = job.load
        return self._session, False

    def _engine(self, job: Job) -> Engine:
        for engine in self.engines:
            if engine.name == job.load.engine:
                return engine
        have = ", ".join(engine.name for engine in self.engines)
        raise Unsupported(f"this agent has no adapter for engine {job.load.engine}; it has {have}")

    def _engine_log(self, outcome: Outcome) -> str:
        """The engine's log where this job loaded it or failed on it; a later job on the same engine adds nothing."""
        news = isinstance(outcome, Failed) or (isinstance(outcome, Measured) and not outcome.loaded.reused)
        if not news or self._log is None or not self._log.exists():
            return ""
        try:
            text = self._log.read_text("utf-8", "replace")
        except OSError as error:
            return f"the log cannot be read: {error}"
        return text if len(text) <= LOG_LIMIT else f"{text[: LOG_LIMIT // 2]}\n[...]\n{text[-LOG_LIMIT // 2 :]}"

    def unload(self) -> None:
        if self._session is not None:
            self._session.close()
        if self._log is not None:  # it went with the report of the job that loaded the engine, or failed on it
            with suppress(OSError):
                self._log.unlink(missing_ok=True)
                self._log.parent.rmdir()
        self._session = self._settings = self._log = None
        self._warmed.clear()


def found_of(engines: Iterable[Engine]) -> list[EngineFound]:
    """What is there of them."""
    found = []
    for engine in engines:
        with suppress(Unsupported):
            found.append(engine.find())
    return found


def _set_it(wanted_bytes: int, device: Device) -> str:
    seen = device.dedicated_vram_bytes
    now = "cannot be seen here" if seen is None else f"is {seen / 2**20:.0f} MiB now"
    return (
        f"dedicated VRAM of {device.name} {now}; the cell asks for {wanted_bytes / 2**20:.0f} MiB:"
        " set it in the firmware and reboot"
    )
