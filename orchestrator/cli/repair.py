"""``orchestrate repair``: a damaged ledger is made anew, after it was said what that brings and what it cannot."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from agents.places import data_root
from orchestrator.cli.texts import format_count
from orchestrator.dispatch.home import HomeLocked, lock_home
from orchestrator.dispatch.ledger.file import NAME
from orchestrator.dispatch.repair import Repair, RunRepair, prepare
from orchestrator.errors import OrchestrateError, UsageError


def repair_ledger(*, yes: bool) -> None:
    root = data_root()
    if not root.exists():
        print(f"nothing to repair: {root} is not there")
        return
    try:
        lock = lock_home(root)
    except HomeLocked as error:
        raise OrchestrateError(
            f"a coordinator works on {root}, and nothing is changed under it. Repair when it has ended: orchestrate"
            " leave, or Ctrl-C where the head or the submit runs"
        ) from error
    with lock:
        repair = prepare(root)
        try:
            for line in description(repair):
                print(line)
            if repair.is_needed and _is_confirmed(yes=yes):
                _apply(repair)
        finally:
            repair.discard()


def _apply(repair: Repair) -> None:
    kept = repair.apply()
    print(f"repaired{f'; what was there before is kept: {kept}' if kept else ''}")
    if any(run.remaining for run in repair.runs):
        print("where a head runs, its runs go on by themselves; else with: orchestrate resume RUN")


def _is_confirmed(*, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("nothing was changed: nobody is there to be asked. To repair without a question: --yes")
    print("repair it so? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    print("nothing was changed")
    return False


def description(repair: Repair) -> Iterator[str]:
    changed = [run for run in repair.runs if run.is_changed]
    missing = [run for run in repair.runs if run.missing]
    if not repair.is_needed and repair.base is None:
        yield f"nothing to repair: no ledger is in {repair.root}, and nothing that one could be made of"
    elif not repair.is_needed:
        count = format_count(len(repair.runs), "run")
        yield f"nothing to repair: {repair.root / NAME} is whole, and knows every row of {count}"
    elif repair.damage:
        yield repair.damage
        yield f"it is made anew from {_origin(repair.base)}; your rows in runs/ stay as they are"
    else:
        yield f"{repair.root / NAME} is whole, and older than runs/: it is brought up to date"
    yield from (f"  {_describe(run)}" for run in changed)
    if repair.is_needed and len(changed) < len(repair.runs):
        yield f"  {format_count(len(repair.runs) - len(changed), 'run')} as in {_origin(repair.base)}"
    for run in missing:
        count = format_count(run.missing, "done job")
        yield f"  {run.run_id}: {count} without any row in runs/: done all the same, for the files may lie elsewhere"
    for each in repair.damaged:
        yield f"  {each.path}: cannot be read; it is kept beside its name, and what stood in it is measured again"
    if repair.unknown:
        yield "what is not known any more:"
        yield from (f"  {words}" for words in repair.unknown)


def _origin(base: Path | None) -> str:
    if base is None:
        return "runs/ alone, for there is no backup that is whole"
    return "the present ledger" if base.name == NAME else f"the backup {base.name} and runs/"


def _describe(run: RunRepair) -> str:
    parts = [f"added, {format_count(run.jobs, 'job')}"] if run.is_added else []
    if run.done:
        parts.append(f"{run.done} done by their rows")
    if run.put_back:
        parts.append(f"{run.put_back} put back, for their rows cannot be read")
    return f"{run.run_id}: {', '.join((*parts, f'{run.remaining} remain'))}"
