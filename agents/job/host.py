"""The one place where an agent is assembled: runs one job at a time on this machine, and keeps a loaded engine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agents.clock import Clock, SystemClock
from agents.contract.device import Device, MemoryKind, same_split, why_no_split
from agents.contract.job import Job, LoadSettings, Workflow, Workload
from agents.contract.measure import Flag, Trial
from agents.contract.model_peers import Peers
from agents.contract.rates import decode_tps
from agents.contract.report import CAUSES, Cause, Failed, Loaded, MachineSeen, Measured, Outcome, Refused, Report
from agents.contract.stages import ENDING, UNLOADING
from agents.device.bandwidth import above_bound
from agents.device.doctor import found_of, look_for
from agents.device.inventory import inventory
from agents.device_file import read_device_file
from agents.engines import engines_of
from agents.engines.base import Engine, LoadPlace, Restores, Session, Support, refuse_settings, refuse_workload
from agents.engines.stream.exchange import LiveCount
from agents.errors import AgentError, EngineAway, LoadFailed, NotReady, Unsupported, cause_of_os_error
from agents.job.measure import measure
from agents.log import Entry, suppressed
from agents.power.methods.base import NotRestored
from agents.power.state import PowerControls, PowerState, find_power
from agents.telemetry.recorder import JobRecord, LoadRecord, Recorder, TrialsRecord
from agents.telemetry.validity import Machine
from agents.units import format_size

log = logging.getLogger(__name__)

LOG_LIMIT = 256 * 1024  # characters of an engine's log that travel with a report
READY_AGAIN_S = 0.5

Notify = Callable[[str, LiveCount | None], None]
"""Called with each stage as it begins ("loading", "measuring"), and the live view of the stream if there is one."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt at a job, as each of its steps needs it."""

    job: Job
    record: JobRecord
    cancelled: threading.Event
    notify: Notify

    def notify_stage(self, stage: str) -> None:
        self.notify(stage, None)


@dataclass
class Host:
    """Engines and state of this device. ``run`` never raises for what a job can do wrong: that is an outcome."""

    device: Device
    folder: Path  # device root: models/, logs/
    engines: tuple[Engine, ...]
    clock: Clock = field(default_factory=SystemClock)
    power: PowerState = field(default_factory=lambda: PowerState(PowerControls(Path("/")), Path("unused")))
    peers: Peers | None = None  # devices that model files can be fetched from
    recorder: Recorder = field(default_factory=Recorder)  # telemetry; by default none
    _failed: tuple[LoadSettings, LoadFailed] | None = None  # the last load, if it failed: repeats come one by one
    _session: Session | None = None
    _settings: LoadSettings | None = None
    _support: Mapping[str, Support] = field(default_factory=dict)  # of what is loaded now
    _warmed: set[Workload] = field(default_factory=set)
    _log: Path | None = None

    @classmethod
    def of_this_machine(cls, folder: Path) -> Host:
        own = read_device_file(folder)
        engines = engines_of(own)
        power = PowerState(find_power(own.allow, Path("/")), folder)
        power.restore_from_journal()  # before anybody looks at what stands
        recorder = Recorder.of_this_machine()  # it finds its sources while we look for the engines
        try:
            device = cls._looked_at(folder, engines, power)
        except BaseException:
            recorder.close()
            raise
        recorder.idle.begin()
        return cls(device, folder, engines, power=power, recorder=recorder)

    @staticmethod
    def _looked_at(folder: Path, engines: tuple[Engine, ...], power: PowerState) -> Device:
        for engine in engines:
            if isinstance(engine, Restores):
                # A load on this engine meets the same failure, and reports it.
                with suppressed(log, "EngineNotRestored", AgentError, engine=engine.name):
                    engine.restore_after_crash()
        return inventory(folder, found_of(look_for(engines)), power=power.controls)

    def run(self, job: Job, cancelled: threading.Event, notify: Notify) -> Report:
        """One attempt at ``job``. The engine stays loaded for a next job with equal settings."""
        started, began_ns = self.clock.unix_s(), self.clock.monotonic_ns()
        record = self.recorder.begin(job.conditions)
        outcome = self._outcome(_Attempt(job, record, cancelled, notify))
        notify(ENDING, None)
        machine = self._machine()
        recorded = record.end(outcome, self._judged(job))
        # Before ``unload``, which deletes the file.
        log = self._engine_log(outcome)
        if isinstance(outcome, Failed):
            self.unload()  # what failed is not trusted with the next cell
        return Report(
            job_id=job.job_id,
            attempt=job.attempt,
            run_id=job.run_id,
            device_id=self.device.device_id,
            fingerprint=self.device.fingerprint,
            boot_id=self.device.boot_id,
            started_unix_s=started,
            ended_unix_s=self.clock.unix_s(),
            duration_s=(self.clock.monotonic_ns() - began_ns) / 1e9,
            outcome=recorded.outcome,
            log=log,
            machine=machine,
            readings=recorded.readings,
            usage=recorded.usage,
            energy=recorded.energy,
        )

    def _outcome(self, attempt: _Attempt) -> Outcome:
        job, record = attempt.job, attempt.record
        # Filled step by step: the report of a failure holds what was reached until then.
        loaded: Loaded | None = None
        trials: list[Trial] = []
        try:
            self._enter_state(job)
            record.wait_until_ready(attempt.notify_stage, attempt.cancelled)
            session, reused = self._loaded(attempt)
            loaded = replace(session.loaded, reused=reused)
            warmups = 0 if self._is_warm(job) else job.warmups
            trials_record = record.before_trials()
            self._measure(attempt, session, warmups, trials_record, trials)
            for _ in range(job.conditions.again):
                # Another trial costs its time only where it may be without what the last one is flagged for. Not for
                # images: those would come from the engine's cache.
                if isinstance(job.workload, Workflow) or not trials_record.may_pass(trials[-1], self._judged(job)):
                    break
                record.wait_until_ready(attempt.notify_stage, attempt.cancelled)
                self._measure(attempt, session, 0, trials_record, trials)
            return Measured(loaded, tuple(trials))
        except NotRestored:
            raise  # the machine is in nobody's state: no job may run here
        except Unsupported as error:
            return Refused(error.cause, error.detail)
        except AgentError as error:
            return Failed(error.cause, error.detail, loaded, tuple(trials), error.log_tail)
        except OSError as error:
            cause = cause_of_os_error(error) or Cause.AGENT_FAULT
            return Failed(cause, f"{type(error).__name__}: {error}", loaded, tuple(trials))

    def _measure(
        self, attempt: _Attempt, session: Session, warmups: int, record: TrialsRecord, trials: list[Trial]
    ) -> None:
        """Adds each trial to ``trials`` as soon as it is complete: those stay if a later one fails."""
        job = attempt.job
        for trial in measure(job, session, warmups, attempt.cancelled, attempt.notify, attempt.record.zero_ns):
            record.trial_ended()
            trials.append(self._bounded(replace(trial, index=len(trials)), session.loaded))
            # After the trial is kept: where the limit was lost the job fails, and its report still shows the trial.
            self.power.check()
        self._warmed.add(job.workload)

    def _is_warm(self, job: Job) -> bool:
        """Not for images: each cell sends the same graph, and a warm-up between two is what keeps the second from
        coming out of the engine's cache."""
        return job.workload in self._warmed and not isinstance(job.workload, Workflow)

    def _judged(self, job: Job) -> Machine:
        """What a trial is held against: of power limits, only the one that its cell asks for."""
        limit_w = self._machine().power_limit_seen_w if job.state.power_limit_w is not None else None
        gpu_in_package = self.device.memory_kind in (MemoryKind.CARVE_OUT, MemoryKind.UNIFIED)
        return Machine(self.recorder.cores, limit_w, gpu_in_package, self.power.limit_of)

    def _bounded(self, trial: Trial, loaded: Loaded) -> Trial:
        """Flagged where its decode rate passes what the memory of this device could feed."""
        if above_bound(decode_tps(trial), loaded.active_bytes, self.device.memory_bandwidth_bytes_per_s):
            return replace(trial, flags=(*trial.flags, Flag.ABOVE_BANDWIDTH))
        return trial

    def _enter_state(self, job: Job) -> None:
        """Raises Unsupported if the device is not in the state that the job asks for, and cannot be brought there."""
        device, wanted = self.device, job.state.dedicated_vram_bytes
        if wanted is not None and not same_split(wanted, device.dedicated_vram_bytes):
            raise Unsupported(why_no_split(wanted, device) or _set_it(wanted, device), Cause.WRONG_STATE)
        self.power.enter(job.state, device)

    def _machine(self) -> MachineSeen:
        device = self.device
        return MachineSeen(device.dedicated_vram_bytes, device.split_source, *self.power.now(device))

    def _loaded(self, attempt: _Attempt) -> tuple[Session, bool]:
        """The session that the job is measured on, and whether it was there before.

        Raises AgentError: Unsupported, LoadFailed, EngineAway where the engine never was here.
        """
        job = attempt.job
        engine = self._engine(job)
        if self._session is not None and self._settings == job.load and _is_alive(self._session):
            refuse_workload(engine.name, self._support, job.workload)
            return self._session, True
        if self._session is not None:
            attempt.notify_stage(UNLOADING)
        # Before the next load, not after it: two models may not fit into the memory at once.
        self.unload()
        if self._failed is not None and self._failed[0] == job.load:
            before = self._failed[1]
            raise LoadFailed(before.cause, f"{before.detail} (not tried again: it failed so just before)")
        self._support = engine.capabilities()
        # Refused before a load, which may take many minutes and a download.
        refuse_settings(engine.name, self._support, job.load)
        refuse_workload(engine.name, self._support, job.workload)
        self._failed = None
        load = attempt.record.before_load()
        try:
            with self._load_logged(job):
                self._session = self._when_ready(engine, job, self._place(attempt, load))
        except EngineAway as error:
            if engine.name not in {found.name for found in self.device.engines}:
                raise  # it never was here
            raise LoadFailed(Cause.ENGINE_LOST, error.detail) from error
        except LoadFailed as error:
            # Each repeat of the cell would fail alike after the same minutes. Causes that may pass are not remembered.
            if CAUSES[error.cause].remembered:
                self._failed = (job.load, error)
            raise
        self._settings = job.load
        load.loaded(engine.name, self._session)
        return self._session, False

    def _place(self, attempt: _Attempt, load: LoadRecord) -> LoadPlace:
        job = attempt.job
        self._log = self.folder / "logs" / job.run_id / f"{job.job_id}-{job.attempt}.log"
        self._log.unlink(missing_ok=True)  # of the same attempt before a crash: not this engine's words

        def notify_unless_cancelled(stage: str) -> None:
            if attempt.cancelled.is_set():  # a download or a hash may take long, and looks nowhere else
                raise LoadFailed(Cause.CANCELLED, "cancelled while the model was prepared")
            attempt.notify_stage(stage)

        return LoadPlace(
            models=self.folder / "models",
            log=self._log,
            timeout_s=job.timeouts.load_s,
            clock=self.clock,
            cancelled=attempt.cancelled,
            notify=notify_unless_cancelled,
            peers=self.peers,
            on_emptied=load.emptied,
        )

    @contextmanager
    def _load_logged(self, job: Job) -> Iterator[None]:
        began_ns, what = self.clock.monotonic_ns(), {"engine": job.load.engine, "model": job.load.model}
        log.info(Entry("LoadStarted", job, **what))
        try:
            yield
        except AgentError as error:
            seconds = (self.clock.monotonic_ns() - began_ns) / 1e9
            log.warning(Entry("LoadFailed", job, **what, seconds=seconds, cause=error.cause, detail=error.detail))
            raise
        log.info(Entry("Loaded", job, **what, seconds=(self.clock.monotonic_ns() - began_ns) / 1e9))

    def _when_ready(self, engine: Engine, job: Job, place: LoadPlace) -> Session:
        """Loads; where the server is not ready, again and again for as long as a load may take."""
        deadline = self.clock.monotonic_ns() + int(job.timeouts.load_s * 1e9)
        while True:
            try:
                return engine.load(job.load, place)
            except NotReady as error:
                if self.clock.monotonic_ns() > deadline:
                    words = f"not ready within {job.timeouts.load_s:g} s: {error.detail}"
                    raise LoadFailed(Cause.LOAD_TIMEOUT, words) from error
                place.notify("waiting until the server is ready")
                self.clock.sleep(READY_AGAIN_S)

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
        # Of a long log both ends count: the load is at its head, and the failure at its tail.
        return text if len(text) <= LOG_LIMIT else f"{text[: LOG_LIMIT // 2]}\n[...]\n{text[-LOG_LIMIT // 2 :]}"

    def unload(self) -> None:
        if self._session is not None:
            log.info(Entry("Unloaded", engine=self._settings.engine if self._settings else None))
            self._session.close()
        if self._log is not None:  # it went with the report of the job that loaded the engine, or failed on it
            with suppress(OSError):
                self._log.unlink(missing_ok=True)
                # Fails as long as logs of other attempts lie there, as it should.
                self._log.parent.rmdir()
        self._session = self._settings = self._log = None
        self._warmed.clear()


def _is_alive(session: Session) -> bool:
    """Else it ended between two jobs, and is loaded again."""
    try:
        session.check_alive(within_s=0.0)
    except AgentError:
        return False
    return True


def _set_it(wanted_bytes: int, device: Device) -> str:
    seen = device.dedicated_vram_bytes
    now = "cannot be seen here" if seen is None else f"is {format_size(seen)} now"
    return (
        f"dedicated VRAM of {device.name} {now}; the cell asks for {format_size(wanted_bytes)}:"
        " set it in the firmware and reboot"
    )
