"""A run under a random schedule of faults, with the real ledger, store and loop: is each job there once?"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agents.contract.device import MemoryKind, StateSource
from agents.log import LogFile
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.ledger.backup import back_up, backups_of
from orchestrator.dispatch.ledger.file import NAME
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.ledger.record import record_of, write_record
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.dispatch.messages import RunChanged, RunStatus
from orchestrator.dispatch.repair import prepare
from orchestrator.dispatch.runs import planned_run
from orchestrator.errors import OrchestrateError
from orchestrator.matrix import matrix_to_json
from orchestrator.plan.jobs import plan_jobs
from orchestrator.results.store import Store
from tests.fakes.matrices import matrix_and_cells
from tests.fakes.simulated_fleet import SimulatedDevice, SimulatedFleet, World, some_outcome
from tests.unit.results.made_attempts import DEVICE

GIB = 2**30
RUN = "run-1"
MATRIX = """
name: faults
axes: {model: tiny:llama, workload: [pp8, tg8], context: [1K, 2K], dedicated_vram: [512MiB, 32GiB]}
measure: {repeats: 2}
"""
LONGEST_S = 500_000.0
FAULTS_END_S = 3_000.0  # after that the world is left alone, so that the run can end


class Crash(BaseException):
    """The coordinator's process is gone in the middle of what it did."""


@dataclass
class Outcome:
    """``jobs`` of the run; ``lost`` have no row, ``doubled`` more than one row set; ``wrong`` says what else."""

    seed: int
    jobs: int
    lost: int
    doubled: int
    wrong: tuple[str, ...]
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)  # of the rows: what came of the jobs

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """The coordinator's log, of which a repair takes the attempts that were sent."""
    handler, logger = LogFile(folder / "coordinator.log"), logging.getLogger("orchestrator.dispatch.loop")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


class Schedule:
    """One seed, one folder, one story."""

    def __init__(self, seed: int, folder: Path, devices: int = 3) -> None:
        self.rng = random.Random(seed)
        self.ledger_rng = random.Random(f"{seed} ledger")  # of its own: the other faults stay those of their seed
        self.seed = seed
        self.folder = folder
        self.faults: Counter[str] = Counter()
        self.world = World()
        outcome = some_outcome(self.rng, troubled=0.15)
        self.devices = [
            SimulatedDevice(
                self.world,
                replace(
                    DEVICE,
                    device_id=f"id-{number}",
                    name=f"device-{number}",
                    boot_id="boot-0",
                    memory_kind=MemoryKind.CARVE_OUT,
                    dedicated_vram_bytes=GIB // 2,
                    split_source=StateSource.SEEN,
                    sets_split=number == 0,  # the first one needs no operator
                    carveout_options_bytes=(GIB // 2, 32 * GIB) if number == 0 else (),
                ),
                outcome,
            )
            for number in range(devices)
        ]
        self.full = 0  # writes that will find the head's disk full
        self.quiet = False

    def run(self) -> Outcome:
        with _logged(self.folder):
            return self._run()

    def _run(self) -> Outcome:
        self._submit()
        self.world.after(10.0, self._fault)
        while True:
            ledger, fleet = Ledger(self.folder / "ledger.sqlite", lambda: self.world.now_s), None
            try:
                store = Store(self.folder)
                self._may_fail(ledger, store)
                fleet = SimulatedFleet(self.world, self.devices)
                self._may_crash(fleet)
                loop = CoordinatorLoop(
                    fleet,
                    ledger,
                    store,
                    NoticeBoard(),
                    long_lived=True,
                    monotonic=lambda: self.world.now_s,
                    lease_s=90.0,
                )
                self._operator(loop)
                loop.resume_runs()
                while self._left(ledger):
                    loop.round()
                    self._switch(loop, ledger)
                    if self.world.now_s > LONGEST_S:
                        return self._judged(ledger, ("it does not come to its end",))
                self._settle(loop)
                return self._judged(ledger)
            except Crash:
                self.faults["coordinator crashed"] += 1
            except OrchestrateError:  # it cannot begin while the disk is full: it is started again
                self.faults["coordinator could not begin"] += 1
            finally:
                if fleet is not None:
                    fleet.close()
                ledger.close()
            self._downtime()
            self._lose_ledger()

    def _lose_ledger(self) -> None:
        """While no coordinator runs; it is repaired before the next one does. Now and then there is a backup."""
        path = self.folder / NAME
        if self.quiet or self.ledger_rng.random() > 0.3:
            return
        way = self.ledger_rng.choice(["backed up", "deleted", "overwritten", "an older one put back"])
        older = backups_of(self.folder)
        if way == "backed up" or not path.exists():
            back_up(path)
            return
        if way == "an older one put back" and older:
            path.write_bytes(older[-1].read_bytes())
        elif way == "overwritten":
            path.write_bytes(self.ledger_rng.randbytes(path.stat().st_size))
        else:
            path.unlink()
        repair = prepare(self.folder)
        repair.apply() if repair.is_needed else repair.discard()
        self.faults[f"ledger {way}"] += 1

    def _submit(self) -> None:
        matrix, cells = matrix_and_cells(MATRIX)
        run = planned_run(RUN, matrix, plan_jobs(matrix, cells, [device.facts for device in self.devices]))
        self.jobs = list(run.jobs)
        ledger = Ledger(self.folder / "ledger.sqlite")
        rows = ((job_id, job.cell.cell_id, job.device_id, job.repeat) for job_id, job in run.jobs.items())
        ledger.add(RUN, matrix.name, matrix_to_json(matrix), rows)
        write_record(self.folder, record_of(ledger, RUN))
        ledger.close()

    def _left(self, ledger: Ledger) -> int:
        return ledger.run(RUN).remaining

    def _settle(self, loop: CoordinatorLoop) -> None:
        """Late reports are still on their way: they must change nothing."""
        for _ in range(20):
            loop.round(30.0)

    def _downtime(self) -> None:
        until_s = self.world.now_s + self.rng.choice([1.0, 20.0, 200.0])
        while self.world.advance(until_s):
            pass

    def _fault(self) -> None:
        """Something goes wrong, and the next thing will."""
        if self.world.now_s > FAULTS_END_S:
            self.quiet = True
            for device in self.devices:
                device.disk_full = device.disk_fails = False
            return
        device = self.rng.choice(self.devices)
        faults: dict[str, Callable[[], None]] = {
            "link cut for 20 s": lambda: device.cut(20.0),
            "link cut for 120 s": lambda: device.cut(120.0),
            "link cut for 400 s": lambda: device.cut(400.0),
            "agent killed": device.agent_is_killed,
            "rebooted": device.reboot,
            "rebooted with another split": lambda: device.reboot(self.rng.choice([GIB // 2, 32 * GIB, 8 * GIB])),
            "device's disk full": lambda: setattr(device, "disk_full", not device.disk_full),
            "device's disk takes no writes": lambda: setattr(device, "disk_fails", not device.disk_fails),
            "job process hangs in a driver": device.hangs_in_driver,
            "head's disk full": lambda: setattr(self, "full", self.rng.randint(1, 6)),
        }
        name = self.rng.choice(list(faults))
        self.faults[name] += 1
        faults[name]()
        self.world.after(self.rng.expovariate(1 / 60.0), self._fault)

    def _operator(self, loop: CoordinatorLoop) -> None:
        """Does what is asked, after some minutes; now and then wrongly at first."""

        class Notifier:
            problem = ""

            @staticmethod
            def notify(ask: Any, device: Any, words: str) -> None:
                machine = next(each for each in self.devices if each.device_id == device.device_id)
                wrong = not self.quiet and self.rng.random() < 0.2
                split = 8 * GIB if wrong else ask.state.dedicated_vram_bytes
                self.faults["operator set a wrong split"] += wrong
                self.world.after(self.rng.uniform(30.0, 300.0), lambda: machine.reboot(split))

        loop._effects._dependencies = replace(loop._effects._dependencies, notifier=Notifier())  # type: ignore[arg-type]

    def _switch(self, loop: CoordinatorLoop, ledger: Ledger) -> None:
        """Somebody pauses or cancels the run, and thinks better of it."""
        if self.quiet or self.full or self.rng.random() > 0.01 or RUN not in loop.registry.runs or loop._unwritten:
            status = ledger.run(RUN).status
            if status is not RunStatus.RUNNING and (self.quiet or self.rng.random() < 0.2) and not loop._unwritten:
                with suppress(OrchestrateError):
                    ledger.set_run(RUN, RunStatus.RUNNING)
                    loop.handle([RunChanged(RUN, RunStatus.RUNNING)])
            return
        status = self.rng.choice([RunStatus.PAUSED, RunStatus.CANCELLED])
        self.faults[str(status)] += 1
        with suppress(OrchestrateError):
            ledger.set_run(RUN, status)
            loop.handle([RunChanged(RUN, status)])

    def _may_crash(self, fleet: SimulatedFleet) -> None:
        """Before or after each call that leaves the coordinator."""
        for name in ("send", "acknowledge", "cancel", "call"):
            setattr(fleet, name, self._crashing(getattr(fleet, name)))

    def _crashing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*arguments: Any) -> Any:
            self._crash(0.004)
            done = call(*arguments)
            self._crash(0.004)
            return done

        return maybe

    def _crash(self, chance: float) -> None:
        if not self.quiet and self.rng.random() < chance:
            raise Crash

    def _may_fail(self, ledger: Ledger, store: Store) -> None:
        """Before, in the middle of, and after each write; and where the disk takes no more."""
        append, batch = store.append_many, ledger.batch

        def appended(attempts: Any) -> None:
            self._crash(0.004)
            self._write("store")
            append(attempts)
            self._crash(0.01)

        @contextmanager
        def written() -> Iterator[Any]:
            self._crash(0.002)
            with batch() as db:
                if ledger._depth == 1:
                    self._write("ledger")
                yield db
                self._crash(0.004)
            self._crash(0.004)

        store.append_many = appended  # type: ignore[method-assign]
        ledger.batch = written  # type: ignore[method-assign]

    def _write(self, where: str) -> None:
        if self.full > 0:
            self.full -= 1
            raise OrchestrateError(f"the {where}'s disk is full")

    def _judged(self, ledger: Ledger, wrong: tuple[str, ...] = ()) -> Outcome:
        rows = Store(self.folder).load(RUN, all_attempts=True).to_pylist() if RUN in Store(self.folder).runs() else []
        attempts = {(row["job_id"], row["attempt"]) for row in rows}
        stored = Counter(job_id for job_id, _ in attempts)
        recorded = {row.job_id: row.attempt for row in ledger.jobs(RUN)}
        twice = [key for key, count in Counter((row["job_id"], row["trial"]) for row in rows).items() if count > 1]
        wrong += tuple(f"{key} is there twice" for key in twice)
        wrong += tuple(
            f"{job}-{number} is stored, the ledger says {recorded[job]}"
            for job, number in attempts
            if recorded[job] != number
        )
        for device in self.devices:
            wrong += tuple(f"{key} ran twice" for key, count in Counter(device.ran).items() if count > 1)
            wrong += (f"{device.device_id} still runs {device.running.job_id}",) if device.running else ()
        ends = {row["job_id"]: row["cause"] or "measured" for row in sorted(rows, key=lambda row: row["cause"] or "")}
        return Outcome(
            self.seed,
            len(self.jobs),
            sum(stored[job_id] == 0 for job_id in self.jobs),
            sum(stored[job_id] > 1 for job_id in self.jobs),
            wrong,
            self.faults,
            Counter(ends.values()),
        )
