"""What the client adds to the times it takes, against a scripted server that logs the truth.

Run from the repository's root, on an idle machine: ``python benchmarks/client_overhead.py`` (about 5 minutes). Side by
side, each in a process of its own and the rounds interleaved: a C client (the limit; needs ``cc``), a bare Python
socket, the project's client, the same with httpx iterating over lines as most tools do. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
BODY = b"x" * 2_000  # a prompt of a few hundred tokens


@dataclass(frozen=True, slots=True)
class Taken:
    """What a client saw of one stream: when it had sent, each receive (ns, bytes) or each token's own stamp."""

    sent_ns: int
    cpu_ns: int
    wall_ns: int
    reads: list[tuple[int, int]]
    token_ns: list[int]


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of stream, and how often it is taken."""

    name: str
    tokens: int
    interval_s: float
    first_s: float
    streams: int

    @property
    def target(self) -> str:
        return f"/?tokens={self.tokens}&interval_s={self.interval_s}&first_s={self.first_s}"


COLUMNS = (
    "client",
    "first token off by, ms: median / p99",
    "receive delay, ms: median / p99",
    "decode rate off by: median / worst",
    "CPU, of a core",
    "bunched",
)
LOADS = (
    Load("first token, five more at 1 ms", tokens=6, interval_s=0.001, first_s=0.013, streams=200),
    Load("50 tokens/s", tokens=1_000, interval_s=0.02, first_s=0.2, streams=1),
    Load("1,000 tokens/s", tokens=2_000, interval_s=0.001, first_s=0.2, streams=5),
    Load("flat out", tokens=20_000, interval_s=0.0, first_s=1.0, streams=5),
)


def take_with_socket(url: str, target: str) -> Taken:
    """The same receive loop as the C client's, in Python."""
    host, port = url.removeprefix("http://").split(":")
    cpu_ns, start_ns = time.process_time_ns(), time.perf_counter_ns()
    reads: list[tuple[int, int]] = []
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n\r\n"
        connection.sendall(head.encode() + BODY)
        sent_ns = time.perf_counter_ns()
        while data := connection.recv(65_536):
            reads.append((time.perf_counter_ns(), len(data)))
    wall_ns = time.perf_counter_ns() - start_ns
    return Taken(sent_ns, time.process_time_ns() - cpu_ns, wall_ns, reads, [])


def take_with_project(url: str, target: str) -> Taken:
    from agents.engines.stream.exchange import ExchangeEnd, Limits, exchange

    cpu_ns, start_ns = time.process_time_ns(), time.perf_counter_ns()
    done = exchange(url + target, BODY, {"Content-Type": "application/json"}, Limits(5, 60, 600))
    cpu_ns, wall_ns = time.process_time_ns() - cpu_ns, time.perf_counter_ns() - start_ns
    assert done.end is ExchangeEnd.COMPLETE, done.detail
    return Taken(done.sent_ns, cpu_ns, wall_ns, [(at_ns, len(data)) for at_ns, data in done.reads], [])


def take_with_httpx(url: str, target: str) -> Taken:
    import httpx

    with httpx.Client(trust_env=False) as client:
        cpu_ns, start_ns = time.process_time_ns(), time.perf_counter_ns()
        with client.stream("POST", url + target, content=BODY, headers={"Connection": "close"}) as response:
            stamps = [time.perf_counter_ns() for line in response.iter_lines() if line.startswith("data:")]
        cpu_ns, wall_ns = time.process_time_ns() - cpu_ns, time.perf_counter_ns() - start_ns
    return Taken(start_ns, cpu_ns, wall_ns, [], stamps)


PYTHON_CLIENTS: dict[str, Callable[[str, str], Taken]] = {
    "bare Python socket": take_with_socket,
    "this project (httpx, tapped)": take_with_project,
    "httpx iter_lines": take_with_httpx,
}


def serve_orders(client: str) -> None:
    """A client's process: one line "URL TARGET" in, one line of JSON out, until the input ends."""
    for line in sys.stdin:
        url, target = line.split()
        taken = PYTHON_CLIENTS[client](url, target)
        print(json.dumps([taken.sent_ns, taken.cpu_ns, taken.wall_ns, taken.reads, taken.token_ns]), flush=True)


@contextmanager
def child(*command: str) -> Iterator[tuple[IO[str], IO[str]]]:
    """A process of this project's, ended with the block: its standard input and output."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    try:
        yield process.stdin, process.stdout
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True, slots=True)
class Result:
    """One stream, the client's times against the server's."""

    first_ms: float
    delay_ms: float
    rate_error: float
    cpu_share: float
    bunched: float | None


def judge(taken: Taken, truth: dict[str, Any], tokens: int) -> Result:
    """The truth's sends are: the head, each token, the stop event, the last chunk."""
    sent_ns, offsets = truth["send_ns"][1 : tokens + 1], truth["sent_bytes"][1 : tokens + 1]
    stamps, reads = taken.token_ns[:tokens], []
    if taken.reads:
        stamps = []
        received = list(accumulate(size for _, size in taken.reads))
        read = 0
        for offset in offsets:
            while received[read] < offset:
                read += 1
            stamps.append(taken.reads[read][0])
            reads.append(read)
    assert len(stamps) == tokens
    ours, theirs = stamps[-1] - stamps[0], sent_ns[-1] - sent_ns[0]
    return Result(
        first_ms=((stamps[0] - taken.sent_ns) - (sent_ns[0] - truth["arrived_ns"])) / 1e6,
        delay_ms=(stamps[0] - sent_ns[0]) / 1e6,
        rate_error=theirs / ours - 1 if ours else float("inf"),
        cpu_share=taken.cpu_ns / taken.wall_ns,
        bunched=sum(a == b for a, b in pairwise(reads)) / tokens if reads else None,
    )


def c_client(folder: Path) -> Path | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    built = folder / "raw_client"
    subprocess.run([compiler, "-O2", "-o", str(built), str(ROOT / "benchmarks" / "raw_client.c")], check=True)
    return built


def take_with_c(built: Path, url: str, target: str) -> Taken:
    command = [str(built), url.rsplit(":", 1)[1], target, str(len(BODY))]
    first, *rest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    cpu_ns, wall_ns, sent_ns = map(int, first.split())
    reads = [(int(at), int(size)) for at, size in (line.split() for line in rest)]
    return Taken(sent_ns, cpu_ns, wall_ns, reads, [])


def order(pipes: tuple[IO[str], IO[str]], url: str, target: str) -> Taken:
    pipes[0].write(f"{url} {target}\n")
    pipes[0].flush()
    sent_ns, cpu_ns, wall_ns, reads, token_ns = json.loads(pipes[1].readline())
    return Taken(sent_ns, cpu_ns, wall_ns, [(at, size) for at, size in reads], token_ns)


def run(clients: dict[str, Callable[[str, str], Taken]], truths: IO[str], url: str, load: Load) -> None:
    """Every client takes every stream of the load, turn by turn, after a short one that does not count."""
    results: dict[str, list[Result]] = {name: [] for name in clients}
    for take in clients.values():
        take(url, LOADS[0].target)
        truths.readline()
    for _ in range(load.streams):
        for name, take in clients.items():
            taken = take(url, load.target)
            results[name].append(judge(taken, json.loads(truths.readline()), load.tokens))
    print(f"\n**{load.name}** ({load.streams} x {load.tokens:,} tokens)\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, found in results.items():
        print(f"| {name} | {_row(found, load.tokens)} |", flush=True)


def _row(found: list[Result], tokens: int) -> str:
    def middle_and_p99(values: list[float]) -> str:
        ordered = sorted(values)
        p99 = f" / {ordered[int(len(ordered) * 0.99)]:.2f}" if len(ordered) >= 100 else ""
        return f"{statistics.median(ordered):.2f}{p99}"

    rates = sorted(abs(each.rate_error) * 100 for each in found)
    bunched = [each.bunched for each in found if each.bunched is not None]
    return " | ".join(
        (
            middle_and_p99([abs(each.first_ms) for each in found]),
            middle_and_p99([each.delay_ms for each in found]),
            f"{statistics.median(rates):.4f} / {rates[-1]:.4f} %" if tokens >= 1_000 else "-",
            f"{statistics.median(each.cpu_share for each in found) * 100:.2f} %",
            f"{statistics.median(bunched) * 100:.1f} %" if bunched else "not known",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=PYTHON_CLIENTS, help="be one of the clients (used by the program itself)")
    parser.add_argument("--only", default="", help="only loads whose name holds this")
    given = parser.parse_args()
    if given.client:
        serve_orders(given.client)
        return
    python = sys.executable
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, truths = stack.enter_context(child(python, "tests/fakes/scripted_server.py"))
        url = truths.readline().strip()
        clients: dict[str, Callable[[str, str], Taken]] = {}
        built = c_client(folder)
        if built is not None:
            clients["C"] = partial(take_with_c, built)
        for name in PYTHON_CLIENTS:
            pipes = stack.enter_context(child(python, "-m", "benchmarks.client_overhead", "--client", name))
            clients[name] = partial(order, pipes)
        for load in LOADS:
            if given.only in load.name:
                run(clients, truths, url, load)


if __name__ == "__main__":
    main()
