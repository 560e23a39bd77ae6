"""A small program that a power method runs: its words, or LimitNotHeld with them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from agents.power.methods.base import LimitNotHeld

PROGRAM_S = 10.0
WORDS = 300  # characters of a program's output that go into a message


def on_path(program: str) -> str | None:
    return shutil.which(program)


def output_of(command: Sequence[str]) -> str:
    """What it prints. Raises LimitNotHeld where it cannot be run, takes long, or ends with another code than 0."""
    shown = " ".join((os.path.basename(command[0]), *command[1:]))  # noqa: PTH119  a word, not a file
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROGRAM_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},  # what it prints is parsed: numbers and words must not be translated
        )
    except subprocess.TimeoutExpired as error:
        raise LimitNotHeld(f"{shown}: no answer within {PROGRAM_S:g} s") from error
    except OSError as error:
        raise LimitNotHeld(f"{shown}: {error.strerror or error}") from error
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        words = " ".join(f"{text} {done.stderr.decode('utf-8', 'replace')}".split())[:WORDS]
        raise LimitNotHeld(f"{shown}: exit code {done.returncode}: {words or 'it says nothing'}")
    return text
