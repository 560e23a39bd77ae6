from __future__ import annotations

import re
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cluster import node
from orchestrator.cluster.node import is_permanent_failure, remove_stale, start, why_not_started
from orchestrator.cluster.ray_command import NodeSettings, Role
from orchestrator.errors import OrchestrateError
from tests.unit.cluster.conftest import FakeRay

DEVICE = NodeSettings(Role.DEVICE, "10.0.0.1:6379", "10.0.0.2", "0.1.0")

# As Ray 2.60.0 says them, but for the middle of the tracebacks.
WRONG_TOKEN = """
RuntimeError: Failed to connect to GCS. Last connection error: Traceback (most recent call last):
  File "python/ray/includes/common.pxi", line 119, in ray._raylet.check_status
ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: Authentication token is missing or incorrect. Ensure
"""
MISMATCH = """
    raise RuntimeError(error_message)
RuntimeError: Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.11.7
This process on node 127.0.0.1 was started with:
    Ray: 2.59.0
    Python: 3.12.3
"""
PATCH_WARNING = "WARNING utils.py: Python patch version mismatch: The cluster was started with:\n    Ray: 2.60.0\n"
TIMED_OUT = f"{PATCH_WARNING}\n  File x\nException: The current node timed out during startup. This could happen\n"


@pytest.mark.parametrize(
    ("output", "words", "for_good"),
    [
        (WRONG_TOKEN, r"the cluster at 10\.0\.0\.1:6379 wants another token: copy ~/\.ray/auth_token", True),
        (MISMATCH, r"the head has Ray 2\.60\.0 and Python 3\.11\.7, this host Ray 2\.59\.0 and Python 3\.12\.3", True),
        (TIMED_OUT, r"the Ray node did not start: Exception: The current node timed out", False),
        ("something\nelse\n\n", "the Ray node did not start: else", False),
        ("", "the Ray node did not start: it said nothing", False),
    ],
)
def test_what_ray_says_becomes_a_line(output: str, words: str, for_good: bool) -> None:
    line = why_not_started(output, DEVICE)
    assert re.match(f"(versions: )?{words}", line)
    assert "\n" not in line
    assert is_permanent_failure(output) is for_good


def test_a_node_that_is_up_stays(ray: FakeRay) -> None:
    ray.plan("fork\nsay Ray runtime started.\nexit 0")
    start(DEVICE, ray.environment)
    assert len(ray.started()) == 1
    assert "--block" not in ray.started()[0]
    assert len(ray.left()) == 1


def test_of_a_node_that_does_not_start_nothing_is_left(ray: FakeRay) -> None:
    ray.plan("fork\nsay ValueError: no such thing\nexit 1")
    with pytest.raises(OrchestrateError, match="did not start: ValueError: no such thing"):
        start(DEVICE, ray.environment)
    assert ray.left() == []


def test_of_a_node_that_does_not_end_its_start_nothing_is_left(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "START_S", 0.5)
    ray.plan("fork\nstay")
    with pytest.raises(OrchestrateError, match=r"did not start within 0\.5 s"):
        start(DEVICE, ray.environment)
    assert ray.left() == []


def test_without_a_ray_program_it_is_said_where_it_should_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OrchestrateError, match=f"no program `ray` beside {tmp_path}"):
        node.ray_program()


def test_the_note_of_a_cluster_that_is_gone_is_removed_and_that_of_a_live_one_kept(tmp_path: Path) -> None:
    left = tmp_path / "ray_current_cluster"
    settings = replace(DEVICE, temp_dir=str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as alive:
        left.write_text(f"127.0.0.1:{alive.getsockname()[1]}")
        remove_stale(settings)
        assert left.exists()
    remove_stale(settings)
    assert not left.exists()
    remove_stale(settings)
