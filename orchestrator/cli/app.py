"""The commands and their options; what they do stands in the module of the same name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from orchestrator.errors import OrchestrateError

app = typer.Typer(
    name="orchestrate",
    help="LLM-inference benchmarks over a fleet of laptops and mini-PCs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"orchestrate {version('orchestrate-bench')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """LLM-inference benchmarks over a fleet of laptops and mini-PCs."""


MatrixFile = Annotated[Path, typer.Argument(metavar="FILE", help="Matrix file (YAML).", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", help="Go on with more than 100,000 jobs.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of text.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster, HOST:PORT. Default: RAY_ADDRESS, or the one on this machine.")
]
DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="Name or id, as `orchestrate devices` lists it.")]
AllAttempts = Annotated[bool, typer.Option("--all-attempts", help="Also attempts that `orchestrate retry` superseded.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run, as `orchestrate results` lists it; or `latest`.")]


def _log_level(level: str | None) -> None:
    """For this command and all processes that it starts."""
    import os

    from agents.log import LEVEL_VARIABLE, levels_of
    from orchestrator.errors import UsageError

    if level is not None:
        try:
            levels_of(level)
        except ValueError as error:
            raise UsageError(f"--log-level: {error}") from error
        os.environ[LEVEL_VARIABLE] = level


LogLevel = Annotated[
    str | None,
    typer.Option(
        "--log-level",
        callback=_log_level,
        help="debug, info, warning, error, off: of what this starts. Default: ORCHESTRATE_LOG, or info.",
    ),
]


@app.command()
def plan(
    file: MatrixFile,
    all_cells: Annotated[bool, typer.Option("--all", help="List every cell.")] = False,
    as_json: Json = False,
    yes: Yes = False,
) -> None:
    """Show what would run, in what order, what would be refused, and how long it takes. Runs nothing."""
    from orchestrator.cli.plan import show_plan

    show_plan(file, all_cells=all_cells, as_json=as_json, yes=yes)


@app.command()
def submit(
    file: MatrixFile,
    address: Address = None,
    as_json: Json = False,
    yes: Yes = False,
    detach: Annotated[bool, typer.Option("--detach", help="Hand it to the coordinator, and do not watch.")] = False,
    priority: Annotated[int, typer.Option(help="Higher goes first on a device; equal ones by age.")] = 0,
    absent: Annotated[bool, typer.Option("--absent", help="Also for known devices that are not there now.")] = False,
    _log: LogLevel = None,
) -> None:
    """Run a matrix on the Ray cluster, or on a one-node cluster of its own; then show the table."""
    from orchestrator.cli.submit import submit_matrix

    submit_matrix(file, address=address, as_json=as_json, yes=yes, detach=detach, priority=priority, absent=absent)


@app.command()
def watch(run: Run = "latest", address: Address = None, as_json: Json = False) -> None:
    """Watch a run on the cluster until it is over; Ctrl-C ends the watching, not the run."""
    from orchestrator.cli.submit import watch_run

    watch_run(run, address=address, as_json=as_json)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run to go on with.")] = "latest",
    address: Address = None,
    as_json: Json = False,
    _log: LogLevel = None,
) -> None:
    """Go on with a run that was stopped, paused or cancelled: what is done is not done again."""
    from orchestrator.cli.submit import resume_run

    resume_run(run, address=address, as_json=as_json)


@app.command()
def status(address: Address = None, as_json: Json = False) -> None:
    """Show what runs, what remains, and what operators have to do."""
    from orchestrator.cli.fleet import show_status

    show_status(address, as_json=as_json)


@app.command()
def devices(address: Address = None, as_json: Json = False) -> None:
    """List the devices: what they are, the state that they are in, what they do, when they were last seen."""
    from orchestrator.cli.fleet import show_devices

    show_devices(address, as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Examine this machine as an agent does: engines, memory, sensors; what cannot be used, why, and what to do."""
    from orchestrator.cli.doctor import show_doctor

    show_doctor(as_json=as_json)


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="Print one reading and end.")] = False,
    as_json: Json = False,
) -> None:
    """Show what this device does now: load, memory, clocks, power, temperatures. Ctrl-C ends it."""
    from orchestrator.cli.top import show_top

    show_top(once=once, as_json=as_json)


@app.command()
def pause(run: Run = "latest", address: Address = None) -> None:
    """Send nothing more of a run; what is being measured ends well. `resume` goes on."""
    from orchestrator.cli.fleet import set_run

    set_run(run, "paused", address=address)


@app.command()
def cancel(run: Run = "latest", address: Address = None) -> None:
    """End a run, with what is being measured. What is measured is kept."""
    from orchestrator.cli.fleet import set_run

    set_run(run, "cancelled", address=address)


@app.command(context_settings={"ignore_unknown_options": True})  # -1 is a number here
def priority(
    run: Run,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Higher goes first; 0 is usual.")],
    address: Address = None,
) -> None:
    """Give a run another priority."""
    from orchestrator.cli.fleet import set_priority

    set_priority(run, number, address=address)


@app.command()
def retry(
    run: Run = "latest",
    causes: Annotated[
        list[str] | None, typer.Option("--cause", help="Only jobs that failed so; may be given more than once.")
    ] = None,
    address: Address = None,
) -> None:
    """Run again what failed for reasons that may have passed: a full disk, a lost device or engine, a time-out."""
    from orchestrator.cli.fleet import retry_run

    retry_run(run, causes, address=address)


@app.command()
def state(
    device: DeviceArgument,
    dedicated_vram: Annotated[str | None, typer.Option(help="Size, as in 32GiB; none: nothing is said.")] = None,
    power_limit: Annotated[str | None, typer.Option(help="Watts, as in 80W; none: nothing is said.")] = None,
    address: Address = None,
) -> None:
    """Say in which state a device is, where nothing on it can tell; rows say that it was stated. It holds until
    something else is said, and counts more than what device.yaml states."""
    from orchestrator.cli.fleet import state_device

    state_device(device, dedicated_vram, power_limit, address=address)


@app.command()
def skip(
    device: DeviceArgument,
    dedicated_vram: Annotated[str | None, typer.Option(help="Size, as in 48GiB.")] = None,
    power_limit: Annotated[str | None, typer.Option(help="Watts, as in 80W.")] = None,
    address: Address = None,
) -> None:
    """Say that a device cannot be brought into a state, or (without one) is waited for no longer: the jobs that wait
    become rows that say so."""
    from orchestrator.cli.fleet import skip_device

    skip_device(device, dedicated_vram, power_limit, address=address)


@app.command()
def repair(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Make a damaged, lost or outdated ledger anew, from its newest backup and from runs/; say before what is known."""
    from orchestrator.cli.repair import repair_ledger

    repair_ledger(yes=yes)


@app.command(hidden=True)
def wake(address: Address = None) -> None:
    """Have the cluster's coordinator begin, or go on, with what its ledger holds."""
    from orchestrator.cli.fleet import ensure_coordinator

    ensure_coordinator(address)


@app.command()
def results(as_json: Json = False) -> None:
    """List the runs that are kept."""
    from orchestrator.cli.results import list_runs

    list_runs(as_json=as_json)


@app.command()
def show(
    run: Run = "latest",
    as_json: Json = False,
    why: Annotated[
        str | None, typer.Option("--why", metavar="JOB", help="One job's story; its id, or how that begins.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="With --why: the cluster to ask, HOST:PORT.")] = None,
    all_attempts: AllAttempts = False,
) -> None:
    """Show one run: a line for each cell, with what failed and why. With --why: what became of one job, and why."""
    if why is not None:
        from orchestrator.cli.why import show_why

        show_why(run, why, address=address, as_json=as_json)
        return
    from orchestrator.cli.results import show_run

    show_run(run, as_json=as_json, all_attempts=all_attempts)


@app.command()
def logs(
    name: Annotated[
        str | None,
        typer.Argument(metavar="RUN|DEVICE", help="Only lines on this run, or this device.", show_default=False),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written; Ctrl-C ends it.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Show so many of the last lines.")] = 100,
    address: Annotated[
        str | None, typer.Option(help="Of the coordinator of this cluster, HOST:PORT. Default: of this machine.")
    ] = None,
) -> None:
    """Show what the coordinator and the agent of this machine logged: each event, each command, how each job ended."""
    from orchestrator.cli.logs import show_logs

    show_logs(name, follow=follow, most_lines=lines, address=address)


@app.command()
def export(
    run: Run,
    to: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="File to write; its ending says the format.", show_default=False),
    ] = None,
    table: Annotated[str, typer.Option(help="trials, tokens, steps, readings or devices.")] = "trials",
    file_format: Annotated[
        str | None, typer.Option("--format", help="parquet, arrow, csv, jsonl ...; or llama-bench, its JSON.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="PATH", help="The same as PATH.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="llama-bench: AXIS=VALUE, only these cells.")] = None,
    build: Annotated[str | None, typer.Option(help="llama-bench: name to write as the build's commit.")] = None,
    all_attempts: AllAttempts = False,
) -> None:
    """Write a run's table as Parquet, Arrow IPC, CSV or JSON lines; or its synthetic workloads as llama-bench does."""
    from orchestrator.cli.export import export_run

    export_run(
        run,
        to,
        output,
        table=table,
        file_format=file_format,
        where=where or [],
        build=build,
        all_attempts=all_attempts,
    )


@app.command(name="import")
def import_(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="JSON, JSON lines or CSV; - reads a pipe.")],
    name: Annotated[str | None, typer.Option("--run", help="Name of the run. Default: the file's.")] = None,
    device: Annotated[str | None, typer.Option(help="Name of the device. Default: what the file tells.")] = None,
    mapping: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="YAML: which of their columns is which of ours.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take llama-bench's results, or another tool's by a mapping, as a run; it is marked as imported."""
    from orchestrator.cli.imports import import_results

    import_results(files, run=name, device=device, mapping=mapping, as_json=as_json)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, exported files, or reference:NAME.")],
    rows: Annotated[list[str] | None, typer.Option(help="Axis for the rows; may be given more than once.")] = None,
    cols: Annotated[list[str] | None, typer.Option(help="Axis for the columns; may be given more than once.")] = None,
    value: Annotated[
        list[str] | None, typer.Option(help="Metric, e.g. decode_tps; more than once: more tables.")
    ] = None,
    also: Annotated[str | None, typer.Option("--with", help="Second metric, in brackets.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="AXIS=VALUE: only these cells.")] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="AXIS=VALUE: show the ratio to these cells.")] = None,
    output: Annotated[str, typer.Option("--format", help="terminal, markdown, csv ...")] = "terminal",
) -> None:
    """Compare runs in a pivot table: axes against axes, one metric in the cells."""
    from orchestrator.cli.compare import compare_runs

    compare_runs(runs, rows, cols, value, also=also, where=where or [], baseline=baseline or [], output=output)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the matrix file, for editors."""
    import json

    from orchestrator.matrix import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def run() -> NoReturn:
    """Runs the command line and exits: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        app()
    except OrchestrateError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `orchestrate show | head`
        sys.stderr.close()
        sys.exit(1)
    except Exception:
        typer.echo(f"error: a fault of orchestrate itself; please report it with {_keep_traceback()}", err=True)
        sys.exit(1)
    sys.exit(0)


def _keep_traceback() -> Path:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="orchestrate-", suffix=".txt", delete=False, encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return Path(file.name)
