"""Keeps a Ray node up until it is stopped: `ray start --block`, started again with growing pauses when it ends."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from orchestrator.cluster.addresses import address_towards, own_addresses
from orchestrator.cluster.node import is_permanent_failure, ray_program, remove_stale, why_not_started
from orchestrator.cluster.processes import END_S, end_all
from orchestrator.cluster.ray_command import NODE_VARIABLE, NodeSettings, start_command
from orchestrator.errors import OrchestrateError

# most: a laptop that comes back to the network is in the cluster again within half a minute
LEAST_PAUSE_S, MOST_PAUSE_S = 1.0, 30.0
LOOK_S = 3.0
"""Between two looks at this host's own addresses: a lease of an address may end while the node runs."""
WELL_S = 120.0
"""A node that was up for so long has started well: the next pause is the least again."""
# SIGHUP: a terminal that is closed must not leave the node behind; Windows has none
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def pauses(least_s: float = LEAST_PAUSE_S, most_s: float = MOST_PAUSE_S) -> Iterator[float]:
    """Seconds before each new start: doubled from the least to the most. PURE"""
    pause_s = least_s
    while True:
        yield min(pause_s, most_s)
        pause_s = min(pause_s * 2, most_s)


def moved_to(address: str, own: Collection[str], towards: str | None) -> str | None:
    """This host's address now, where ``address`` is its own no longer; None where it is, or where nobody can say. PURE

    ``towards``: the address on the way to the head. That alone is no reason: a cable that is plugged in beside the
    Wi-Fi changes the way, and the node goes on under the address that it has.
    """
    if address in own or address.startswith("127.") or towards == address:
        return None
    return towards


class Supervisor:
    """``why_not_yet`` returns why the node cannot be started now; it is asked again until it can.

    ``after_start`` is called each time that the node is up, from another thread. ``notify`` gets lines for people.
    """

    def __init__(
        self,
        settings: NodeSettings,
        environment: Mapping[str, str],
        *,
        why_not_yet: Callable[[], str | None] = lambda: None,
        after_start: Callable[[], None] = lambda: None,
        notify: Callable[[str], None] = print,
        pauses: Callable[[], Iterator[float]] = pauses,
        own_addresses: Callable[[], Collection[str]] = own_addresses,
        towards: Callable[[str], str] = address_towards,
        look_s: float = LOOK_S,
    ) -> None:
        self._settings = settings
        self._environment = dict(environment)
        self._node = environment[NODE_VARIABLE]
        self._why_not_yet = why_not_yet
        self._after_start = after_start
        self._notify = notify
        self._pauses = pauses
        self._own_addresses = own_addresses
        self._address_towards = towards
        self._look_s = look_s
        self._stop = threading.Event()
        self._child: subprocess.Popen[str] | None = None

    def stop(self, *_: object) -> None:
        """From a signal, or any thread."""
        self._stop.set()
        # read once: run() may replace it between the test and the call, for this may be another thread
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()

    def run(self) -> None:
        """Until ``stop``, SIGINT, SIGTERM or SIGHUP. Nothing of the node stays after it.

        Raises OrchestrateError where the node never came up, for a reason that will not pass.
        """
        # before the first start: a signal in between would kill this process and leave Ray's
        for number in SIGNALS:
            signal.signal(number, self.stop)
        waits, was_up = self._pauses(), False
        try:
            while self._can_start():
                began = time.monotonic()
                up, output = self._once()
                was_up = was_up or up
                if self._stop.is_set():
                    return
                # once it was up, the same output may pass: the head is being updated, say, and this host waits for it
                if not was_up and is_permanent_failure(output):
                    raise OrchestrateError(why_not_started(output, self._settings))
                # by its time, not by `up`: a node that comes up and crashes at once must not be started each second
                if time.monotonic() - began > WELL_S:
                    waits = self._pauses()
                pause_s = next(waits)
                why = "the Ray node ended" if up else why_not_started(output, self._settings)
                self._notify(f"{why}; it is started again in {pause_s:g} s")
                self._stop.wait(pause_s)
        finally:
            # on each way out, an exception's too: Ray's processes have an own session and would outlive this one
            end_all(self._node)

    def _can_start(self) -> bool:
        """True when the node can be started, which a device waits for: its head may start later. False at a stop."""
        reported = None
        while not self._stop.is_set():
            why = self._why_not_yet()
            if why is None:
                return not self._stop.is_set()
            if why != reported:
                self._notify(f"{why}: waiting")
                reported = why
            self._stop.wait(next(self._pauses()))
        return False

    def _once(self) -> tuple[bool, str]:
        """One life of the node: whether it was up, and its last output."""
        if not self._settings.stated_address and not self._settings.is_head:
            with suppress(OrchestrateError):  # no way there now: Ray will report it
                self._settings = replace(self._settings, address=self._address_towards(self._settings.cluster))
        remove_stale(self._settings)
        command = start_command(ray_program(), self._settings, block=True)
        self._child = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # else Ctrl-C goes to Ray's processes as well, which then end in any order, before end_all can order them
            start_new_session=True,
        )
        # bounded: a node may run for weeks, and only what it printed last explains its end
        output: deque[str] = deque(maxlen=200)
        up = threading.Event()
        reader = threading.Thread(target=self._read, args=(self._child, output, up), daemon=True)
        # a thread, for a pipe that nobody reads fills up and stops the node
        reader.start()
        # stop() may have come before _child was set, and then ended nobody
        if self._stop.is_set():
            self.stop()
        self._wait_for_end(self._child)
        end_all(self._node, session=self._child.pid)  # what remains of it would hold the ports
        # with a limit: a process that inherited the pipe and escaped end_all would keep it open
        reader.join(timeout=END_S)
        return up.is_set(), "".join(output)

    def _wait_for_end(self, child: subprocess.Popen[str]) -> None:
        """Ends a device's node whose address this host has no more: Ray itself would notice after minutes."""
        is_reported = False
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(self._look_s)
                return
            towards = None
            with suppress(OrchestrateError):  # the network is away for now
                towards = self._address_towards(self._settings.cluster)
            now = moved_to(self._settings.address, self._own_addresses(), towards)
            if now is None or is_reported:
                continue
            is_reported = True
            before = self._settings.address
            if self._settings.is_head:
                words = "devices look for it there. Start it again under the new one, and let them join that"
            elif self._settings.stated_address:
                words = "its node was told to use that one. Start it again with another --address, or with none"
            else:
                words = "its node is started again"
                child.terminate()
            self._notify(f"the address of this host is {now} now, and {before} is gone: {words}")

    def _read(self, child: subprocess.Popen[str], output: deque[str], up: threading.Event) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            output.append(line)
            if "Ray runtime started" in line:
                up.set()
                self._notify(f"node {self._settings.address} is up in the cluster {self._settings.cluster}")
                self._after_start()
        child.stdout.close()
