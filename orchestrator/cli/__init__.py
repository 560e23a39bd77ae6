"""The command line. Each command imports what it needs when it runs, so that ``--help`` comes at once."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``orchestrate``: errors for people become text and an exit code; nobody sees a traceback."""
    from orchestrator.cli import cluster_commands  # noqa: F401  its commands are there once it is imported
    from orchestrator.cli.app import run

    run()
