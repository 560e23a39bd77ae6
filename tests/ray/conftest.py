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

from tests.ray.sandbox import Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """An empty home and no cluster."""
    with _sandbox(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A cluster that was started by ``ray start``; commands of this sandbox join it."""
    with _sandbox(tmp_path_factory.mktemp("cluster")) as made:
        start_cluster(made)
        yield made


def _sandbox(folder: Path) -> Sandbox:
    # sockets of Ray lie below its folder, and their paths must stay under 107 characters
    return Sandbox(folder, Path(tempfile.mkdtemp(prefix="oc-")))


def start_cluster(sandbox: Sandbox) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    if not ray.exists():
        ray = Path(shutil.which("ray") or "ray")
    address = f"127.0.0.1:{port}"
    command = [str(ray), "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=1"]
    command += ["--include-dashboard=false", "--include-log-monitor=false", "--no-monitor", "--disable-usage-stats"]
    command += ["--object-store-memory=78643200", f"--temp-dir={sandbox.ray_folder / 'ray'}"]
    done = subprocess.run(command, env=sandbox.environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    sandbox.variables["RAY_ADDRESS"] = address
