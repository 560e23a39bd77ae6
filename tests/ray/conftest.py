"""Real Ray, a real engine, tiny models. Every process that a test starts carries the test's folder in its environment:

so all of them can be found, also those whose parent was killed, and ended by their ids.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty home and no cluster."""
    with _place(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A cluster that was started by ``ray start``; commands of this place join it."""
    with _place(tmp_path_factory.mktemp("cluster")) as made:
        start_cluster(made)
        yield made


def _place(folder: Path) -> Place:
    # sockets of Ray lie below its folder, and their paths must stay under 107 characters
    return Place(folder, Path(tempfile.mkdtemp(prefix="oc-")))


def start_cluster(place: Place) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    if not ray.exists():
        ray = Path(shutil.which("ray") or "ray")
    address = f"127.0.0.1:{port}"
    command = [str(ray), "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=1"]
    command += ["--include-dashboard=false", "--include-log-monitor=false", "--object-store-memory=78643200"]
    command += ["--disable-usage-stats", f"--temp-dir={place.ray_folder / 'ray'}"]
    done = subprocess.run(command, env=place.environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    place.variables["RAY_ADDRESS"] = address
