"""Copy, compute, 3D and video engines of AMD and Intel GPUs on Linux, from ``/proc/PID/fdinfo``.

All readable processes, and the engine's own share; one source a card. Work that ROCm sends through /dev/kfd is not
counted there by the kernel. Engines of several instances, whose number amdgpu does not give, may pass 100 %.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agents.clock import SystemClock
from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.drm import DrmCard, cards
from agents.telemetry.sources.drm_clients import GPU_ENGINES, Client, Group, Key, latest, parse, shares
from agents.telemetry.sources.engine_tree import RESCAN_S, EngineTree, pids_of
from agents.telemetry.sources.files import LEAST_SPAN_S, HeldFile

RESCAN_ALL_S = 10.0  # a look at every descriptor of every process takes tens of milliseconds

_ALL = {
    Group.COPY: Quantity.COPY_BUSY,
    Group.COMPUTE: Quantity.COMPUTE_BUSY,
    Group.GRAPHICS: Quantity.GRAPHICS_BUSY,
    Group.VIDEO: Quantity.VIDEO_BUSY,
}
_ENGINE = {
    Group.COPY: Quantity.ENGINE_COPY_BUSY,
    Group.COMPUTE: Quantity.ENGINE_COMPUTE_BUSY,
    Group.GRAPHICS: Quantity.ENGINE_GRAPHICS_BUSY,
    Group.VIDEO: Quantity.ENGINE_VIDEO_BUSY,
}


class Clients:
    """All users of GPUs that can be seen, each held open by one of its descriptors. Shared by the cards' sources."""

    def __init__(self, root: Path) -> None:
        self._proc = root / "proc"
        self.tree = EngineTree(root)
        self._held: dict[Key, HeldFile] = {}
        self._owners: dict[Key, set[int]] = {}
        self._scanned_all_ns: int | None = None
        self._scanned_tree_ns: int | None = None
        self.unreadable = 0
        self.seen = 0

    def read(self, slot: str, at_ns: int) -> tuple[dict[Key, Client], set[Key]]:
        """The clients of the device in this slot, and which of them are the engine's."""
        mine = self.tree.pids(at_ns)
        if self._due(self._scanned_all_ns, at_ns, RESCAN_ALL_S):
            self._scanned_all_ns = self._scanned_tree_ns = at_ns
            self.scan()
        elif mine and self._due(self._scanned_tree_ns, at_ns, RESCAN_S):
            self._scanned_tree_ns = at_ns
            self._scan(mine)
        found = {}
        for key, file in list(self._held.items()):
            if key[0] not in {"", slot}:
                continue
            client = parse(file.data())
            if client is None or client.key != key:  # closed, or its number is another file's by now
                self._held.pop(key).close()
                self._scanned_tree_ns = None
                continue
            found[key] = client
        return found, {key for key in found if not mine.isdisjoint(self._owners.get(key, ()))}

    @staticmethod
    def _due(last_ns: int | None, at_ns: int, every_s: float) -> bool:
        return last_ns is None or at_ns - last_ns >= every_s * 1e9

    def scan(self) -> None:
        self._owners = {}
        self.seen, self.unreadable = 0, 0
        self._scan(pids_of(self._proc))

    def _scan(self, pids: Iterable[int]) -> None:
        for pid in pids:
            self.seen += 1
            for number in self._gpu_descriptors(pid):
                file = HeldFile.open(self._proc / str(pid) / "fdinfo" / number)
                client = parse(file.data()) if file else None
                if file is None:
                    continue
                if client is None or client.key in self._held:
                    file.close()
                else:
                    self._held[client.key] = file
                if client is not None:
                    self._owners.setdefault(client.key, set()).add(pid)

    def _gpu_descriptors(self, pid: int) -> list[str]:
        folder = f"{self._proc}/{pid}/fd"
        found: list[str] = []
        try:
            # a Path for each of thousands would cost more than the look
            found = [number for number in os.listdir(folder) if _leads_to_gpu(f"{folder}/{number}")]  # noqa: PTH208
        except PermissionError:
            self.unreadable += 1
        except OSError:  # it ended
            pass
        return found

    def close(self) -> None:
        for file in self._held.values():
            file.close()
        self._held.clear()


def _leads_to_gpu(link: str) -> bool:
    try:
        return os.readlink(link).startswith("/dev/dri/")  # noqa: PTH115
    except OSError:
        return False


class DrmFdinfo:
    """One card's engines."""

    def __init__(self, card: DrmCard, clients: Clients, now_ns: Callable[[], int] = SystemClock.monotonic_ns) -> None:
        self.name = f"drm_fdinfo:{card.name}"
        self._card = card
        self._clients = clients
        self._now_ns = now_ns
        self._before: dict[Key, Client] = {}
        self._before_ns: int | None = None
        self._values: list[Value] = []

    def follow(self, pids: Sequence[int]) -> None:
        self._clients.tree.follow(pids)
        self._before_ns = None  # what was read is not of these processes

    def read(self) -> Sequence[Value]:
        at_ns = self._now_ns()
        if self._before_ns is not None and at_ns - self._before_ns < LEAST_SPAN_S * 1e9:
            return self._values
        self._values = self._read(at_ns)
        return self._values

    def _read(self, at_ns: int) -> list[Value]:
        clients, engines = self._clients.read(self._card.slot, at_ns)
        now = {
            key: latest(self._before.get(key), client)
            for key, client in clients.items()
            if client.driver == self._card.driver
        }
        before, before_ns = self._before, self._before_ns
        self._before, self._before_ns = now, at_ns
        busy: dict[Key, dict[str, float]] | None = None
        if before_ns is not None:
            elapsed_ns = at_ns - before_ns
            busy = {key: shares(before[key], client, elapsed_ns) for key, client in now.items() if key in before}
        values: list[Value] = self._busy(_ALL, busy)
        if self._clients.tree.follows:
            of_engine = None if busy is None else {key: each for key, each in busy.items() if key in engines}
            values += self._busy(_ENGINE, of_engine)
            values.append((Quantity.ENGINE_VRAM, float(sum(now[key].vram_bytes for key in engines if key in now))))
            values.append((Quantity.ENGINE_GTT, float(sum(now[key].gtt_bytes for key in engines if key in now))))
        return values

    def _busy(self, words: dict[Group, Quantity], busy: dict[Key, dict[str, float]] | None) -> list[Value]:
        """A group of engines is as busy as its busiest."""
        if busy is None:
            return [(quantity, None) for quantity in words.values()]
        most = dict.fromkeys(words, 0.0)
        for engine, group in GPU_ENGINES[self._card.driver].items():
            most[group] = max(most[group], sum(each.get(engine, 0.0) for each in busy.values()))
        return [(words[group], share) for group, share in most.items()]

    def close(self) -> None:
        self._clients.close()


class DrmFdinfoFinder:
    name = "drm_fdinfo"

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        found = cards(root, *GPU_ENGINES)
        if not found:
            return (), (Missing(self.name, "no GPU that amdgpu, i915 or xe runs"),)
        clients = Clients(root)
        clients.scan()
        missing = []
        if clients.unreadable:
            why = (
                f"{clients.unreadable} of {clients.seen} processes belong to others: their work on the GPU is not seen"
            )
            missing.append(Missing(self.name, why, "run the agent as root, or with the capability CAP_SYS_PTRACE"))
        return [DrmFdinfo(card, clients) for card in found], missing
