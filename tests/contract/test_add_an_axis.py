"""An axis is one entry in AXES and, where no job carries it yet, one field of the load: nothing else lists them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

FIELD = '    rope_scale: float | None = column("Factor that stretches the context, asked for", default=None)\n'
ENTRY = """    Axis(
        name="rope",
        part="load",
        columns=("rope_scale",),
        parse=lambda text: units.parse_decimal(text, 0, 64),
        schema={"type": "number"},
        help="Factor that stretches the context",
        tag="rope",
    ),
"""


def test_a_made_up_axis_is_a_field_and_an_entry(tmp_path: Path) -> None:
    """Written into a copy of the source, as a person would; another process runs a matrix through it."""
    for package in ("agents", "orchestrator"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    insert(tmp_path / "agents" / "contract" / "job.py", FIELD, before="    source: ModelSource = ModelSource()\n")
    insert(tmp_path / "orchestrator" / "matrix" / "axes.py", ENTRY, before=")\n\nBY_NAME")
    added = subprocess.run(
        [sys.executable, "-m", "tests.contract.added_axis", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert added.returncode == 0, added.stderr


def insert(file: Path, text: str, before: str) -> None:
    source = file.read_text(encoding="utf-8")
    assert source.count(before) == 1
    file.write_text(source.replace(before, text + before), encoding="utf-8")
