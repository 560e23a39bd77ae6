"""Who may join a cluster, what a node opens, what is left of it: `orchestrate head`, `join`, `leave` on real hosts."""

from __future__ import annotations

import json
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster.ray_command import HEAD_PORT, MODELS_PORT, PINNED, WORKER_PORTS
from tests.fleet.hosts import Host, Lan
from tests.fleet.machines import NO_GPU
from tests.waiting import until

ORCHESTRATE = (sys.executable, "-m", "orchestrator")
NOBODY = "10.77.0.99"
WRONG = "c0ffee" * 8
# Ray by itself is that slow to say that the token is wrong, and that there is no head. We are quicker by far, but for
# a busy machine.
RAY_ALONE_S, RAY_HEAD_S = 21.0, 60.0
RAY_ALONE = ("--disable-usage-stats", "--include-log-monitor=false", "--num-cpus=1", "--object-store-memory=78643200")
# Joins as any program of this host would, and prints the nodes' roles.
NODES = """
import json, os, sys
from orchestrator.cluster.environment import cluster_environment, recorded_address
os.environ.update(cluster_environment())
import ray
ray.init(recorded_address(), _node_ip_address=sys.argv[1], log_to_driver=False)
print("nodes", json.dumps(sorted(node["Labels"]["orchestrate-role"] for node in ray.nodes() if node["Alive"])))
"""


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    with Lan(tmp_path_factory.mktemp("join") / "lan", ["head", "one"], machines={"head": NO_GPU}) as made:
        yield made


@pytest.fixture(scope="module")
def head(lan: Lan) -> Host:
    """A head that runs, without TLS."""
    up = lan.hosts["head"]
    up.run(*ORCHESTRATE, "head", "--address", up.address)
    return up


@pytest.fixture
def one(lan: Lan) -> Iterator[Host]:
    """A host that never joined anything."""
    host = lan.hosts["one"]
    yield host
    host.crash()
    for path in (token_of(host), host.home / "cluster.json"):
        path.unlink(missing_ok=True)


def token_of(host: Host) -> Path:
    return host.folder / "user" / ".ray" / "auth_token"


def join(host: Host, *words: str | Path, token: str | None = None) -> tuple[int, str, float]:
    """Exit code, output, and the seconds that it took."""
    began = time.monotonic()
    given = () if token is None else ("--token-file", "-")
    done = host.run(*ORCHESTRATE, "join", *words, *given, input=token, check=False)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


def roles(host: Host) -> list[str]:
    """Of the nodes that are alive, as a program on this host sees them."""
    printed = host.run(sys.executable, "-c", NODES, host.address).stdout
    found: list[str] = json.loads(next(line for line in printed.splitlines() if line.startswith("nodes "))[6:])
    return found


def listening(host: Host, *programs: str) -> set[int]:
    """TCP ports that are open on a host; with ``programs``, only theirs."""
    lines = host.run("ss", "-H", "-l", "-t", "-n", "-p").stdout.splitlines()
    wanted = [line for line in lines if not programs or any(f'"{each}' in line for each in programs)]
    return {int(line.split()[3].rpartition(":")[2]) for line in wanted}


class TestWithoutTheToken:
    def test_none_at_all(self, head: Host, one: Host) -> None:
        code, printed, _ = join(one, head.address)
        assert (code, one.processes()) == (2, [])
        assert re.search(r"no token: .*auth_token is not there.*--token-file", printed)

    def test_a_wrong_one(self, head: Host, one: Host) -> None:
        code, printed, took_s = join(one, head.address, token=WRONG)
        assert (code, one.processes()) == (1, [])
        assert re.fullmatch(r"error: the cluster at \S+ wants another token: [^\n]+\n", printed)
        assert WRONG not in printed
        assert took_s < RAY_ALONE_S
        assert not (one.home / "cluster.json").exists()

    def test_ray_itself_does_not_get_in_either(self, head: Host, one: Host) -> None:
        one.variables["RAY_NUM_REDIS_GET_RETRIES"] = "2"
        done = one.run(
            *("ray", "start", f"--address={head.address}:{HEAD_PORT}", f"--node-ip-address={one.address}"),
            *RAY_ALONE,
            check=False,
        )
        del one.variables["RAY_NUM_REDIS_GET_RETRIES"]
        assert done.returncode != 0
        assert "InvalidAuthToken" in done.stderr


def test_a_device_joins_and_leaves_and_nothing_is_left(head: Host, one: Host) -> None:
    token = token_of(head).read_text()
    code, printed, _ = join(one, f"{head.address}:{HEAD_PORT}", "--name", "lab-1", "--label", "lab=munich", token=token)
    assert code == 0, printed
    assert roles(one) == ["device", "head"]
    assert stat.S_IMODE(token_of(head).stat().st_mode) == stat.S_IMODE(token_of(one).stat().st_mode) == 0o600

    pinned = {*PINNED.values(), MODELS_PORT, *range(WORKER_PORTS[0], WORKER_PORTS[1] + 1)}
    of_ray = {PINNED["node-manager-port"], PINNED["object-manager-port"], PINNED["runtime-env-agent-port"]}
    assert of_ray <= listening(one) <= pinned
    assert of_ray | {HEAD_PORT} == listening(head, "gcs_server", "raylet", "ray::RuntimeEnv")

    for host in (head, one):
        shown = [text for each in host.processes() for text in (*each.cmdline(), *each.environ().values())]
        files = [path for path in (*host.home.rglob("*"), *host.temporary.rglob("*")) if path.is_file()]
        assert not any(token in text for text in shown)
        assert not [path for path in files if token.encode() in path.read_bytes()]
        assert token not in printed

    assert "already" in join(one, head.address)[1]
    one.run(*ORCHESTRATE, "leave")
    assert one.processes() == []
    assert not (one.home / "cluster.json").exists()
    assert "name: lab-1" in (one.home / "device" / "device.yaml").read_text()


@pytest.mark.parametrize(
    ("there", "why"), [(NOBODY, "No route to host|timed out"), ("10.77.0.1:6999", "Connection refused")]
)
def test_a_head_that_is_not_there(head: Host, one: Host, there: str, why: str) -> None:
    code, printed, took_s = join(one, there, token=WRONG)
    assert (code, one.processes()) == (1, [])
    assert re.fullmatch(rf"error: the head at \S+ cannot be joined: ({why})\n", printed)
    assert took_s < RAY_HEAD_S


def test_a_port_that_is_taken_is_named(head: Host, one: Host) -> None:
    holder = one.start(sys.executable, "-u", "-m", "http.server", str(PINNED["object-manager-port"]))
    until(lambda: "Serving" in holder.out, holder.describe)
    code, printed, _ = join(one, head.address, token=token_of(head).read_text())
    assert code == 1
    assert re.search(
        rf"port {PINNED['object-manager-port']} \(object-manager-port\) is taken by \S+ \(process", printed
    )


def test_a_watched_node_comes_back_and_ends_with_its_watcher(head: Host, one: Host) -> None:
    token_of(one).parent.mkdir(exist_ok=True)
    token_of(one).write_text(token_of(head).read_text())
    watcher = one.start(*ORCHESTRATE, "join", head.address, "--block")
    until(lambda: watcher.out.count("is up") == 1, watcher.describe)
    one.process("raylet/raylet").kill()
    until(lambda: watcher.out.count("is up") == 2, watcher.describe)
    assert "its mode is 600 now" in watcher.err
    one.run(*ORCHESTRATE, "leave")
    assert watcher.wait(10) == 0
    assert one.processes() == []


def test_with_tls_only_those_with_a_certificate_of_this_head_join(head: Host, one: Host) -> None:
    """The last: it ends the head."""
    token = token_of(head).read_text()
    head.run(*ORCHESTRATE, "leave")
    assert head.processes() == []
    head.run(*ORCHESTRATE, "head", "--address", head.address, "--tls")
    code, printed, took_s = join(one, head.address, token=token)
    assert (code, one.processes()) == (1, [])
    assert "it was started with --tls" in printed
    assert took_s < RAY_HEAD_S
    head.run(*ORCHESTRATE, "certificate", "10.77.0.98", "--to", one.folder / "others")
    code, printed, _ = join(one, head.address, "--tls", one.folder / "others")
    assert code == 2
    assert re.search(rf"is for 10\.77\.0\.98, .*this host is {one.address}", printed)
    head.run(*ORCHESTRATE, "certificate", one.address, "--to", one.folder / "certificate")
    code, printed, _ = join(one, head.address, "--tls", one.folder / "certificate")
    assert code == 0, printed
    assert roles(one) == ["device", "head"]
    keys = [*head.home.rglob("*.key"), one.folder / "certificate" / "server.key"]
    assert len(keys) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    for host in (one, head):
        host.run(*ORCHESTRATE, "leave")
        assert host.processes() == []
