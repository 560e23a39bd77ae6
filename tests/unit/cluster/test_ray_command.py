from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.cluster.ray_command import (
    NODE_VARIABLE,
    PINNED,
    WORKER_PORTS,
    NodeSettings,
    Role,
    node_environment,
    ports_of,
    start_command,
)

HEAD = NodeSettings(Role.HEAD, "10.0.0.1:6379", "10.0.0.1", "0.1.0")
DEVICE = NodeSettings(Role.DEVICE, "10.0.0.1:6379", "10.0.0.2", "0.1.0", temp_dir="/run/o")
COMMON = [
    "--node-manager-port=6380",
    "--object-manager-port=6381",
    "--runtime-env-agent-port=6382",
    "--min-worker-port=20000",
    "--max-worker-port=20099",
    "--num-cpus=1",
    "--object-store-memory=78643200",
    "--include-log-monitor=false",
]


def test_a_head() -> None:
    words = start_command("/x/ray", HEAD, block=False)
    assert words[:4] == ["/x/ray", "start", "--head", "--port=6379"]
    assert set(words) >= {*COMMON, "--node-ip-address=10.0.0.1", "--include-dashboard=false"}
    assert "--labels=orchestrate-role=head,orchestrate-version=0.1.0" in words
    assert not any(word.startswith(("--address", "--temp-dir", "--block")) for word in words)


def test_a_device() -> None:
    words = start_command("/x/ray", DEVICE, block=True)
    assert words[:3] == ["/x/ray", "start", "--address=10.0.0.1:6379"]
    assert set(words) >= {*COMMON, "--node-ip-address=10.0.0.2", "--temp-dir=/run/o", "--block"}
    assert "--labels=orchestrate-role=device,orchestrate-version=0.1.0" in words
    assert not any(word.startswith(("--head", "--port", "--include-dashboard")) for word in words)  # Ray refuses them


def test_a_head_that_is_measured_says_so() -> None:
    words = start_command("/x/ray", replace(HEAD, role=Role.BOTH), block=False)
    assert "--head" in words
    assert "--labels=orchestrate-role=both,orchestrate-version=0.1.0" in words


@pytest.mark.parametrize("settings", [HEAD, DEVICE])
def test_no_port_is_used_twice(settings: NodeSettings) -> None:
    ports = list(ports_of(settings).values())
    assert len(set(ports)) == len(ports)
    assert not any(WORKER_PORTS[0] <= port <= WORKER_PORTS[1] for port in ports)
    assert set(PINNED.values()) < set(ports)


def test_the_port_of_the_cluster_is_opened_on_its_head_only() -> None:
    assert 6379 in ports_of(HEAD).values()
    assert 6379 not in ports_of(DEVICE).values()


def test_what_the_user_has_set_counts_more() -> None:
    environment = node_environment(
        DEVICE,
        {"RAY_worker_niceness": "5", "PATH": "/bin"},
        {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "token"},
        "n",
    )
    assert environment["RAY_worker_niceness"] == "5"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["PATH"] == "/bin"


def test_another_cluster_and_another_node_are_not_inherited() -> None:
    environment = node_environment(DEVICE, {"RAY_ADDRESS": "10.0.0.9:6379", NODE_VARIABLE: "other"}, {}, "mine")
    assert "RAY_ADDRESS" not in environment
    assert environment[NODE_VARIABLE] == "mine"


def test_ports_for_model_files_are_told() -> None:
    assert node_environment(DEVICE, {}, {}, "n")["ORCHESTRATE_MODELS_PORT"] == "6383"
    assert "ORCHESTRATE_HEAD_MODELS_PORT" not in node_environment(DEVICE, {}, {}, "n")
    assert node_environment(HEAD, {}, {}, "n")["ORCHESTRATE_HEAD_MODELS_PORT"] == "6387"


def test_a_device_is_told_of_a_wrong_token_soon_and_a_head_has_time_to_start() -> None:
    assert "RAY_NUM_REDIS_GET_RETRIES" in node_environment(DEVICE, {}, {}, "n")
    assert "RAY_NUM_REDIS_GET_RETRIES" not in node_environment(HEAD, {}, {}, "n")
