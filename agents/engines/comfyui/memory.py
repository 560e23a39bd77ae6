"""Memory in use as ComfyUI reports it in ``/system_stats``, polled while a graph runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from agents.errors import AgentError

POLL_S = 1.0  # ComfyUI answers from the process that computes: often enough for a peak, too rare to cost anything
_WITHOUT_VRAM = ("cpu", "mps")  # for these it reports the RAM again, as VRAM and as PyTorch's


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in use. ``vram_bytes``: by all programs; ``torch_bytes``: reserved by PyTorch. None: not reported."""

    vram_bytes: int | None = None
    torch_bytes: int | None = None
    ram_bytes: int | None = None


def memory_in(stats: Any) -> Memory:
    """Memory in an answer of ``/system_stats``, summed over its devices. PURE"""
    system = _mapping(_mapping(stats).get("system"))
    listed = _mapping(stats).get("devices")
    devices = [_mapping(each) for each in listed] if isinstance(listed, list) else []
    gpus = [each for each in devices if each.get("type") not in _WITHOUT_VRAM]
    return Memory(
        vram_bytes=_sum([_used(each, "vram_total", "vram_free") for each in gpus]),
        torch_bytes=_sum([_bytes(each.get("torch_vram_total")) for each in gpus]),
        ram_bytes=_used(system, "ram_total", "ram_free"),
    )


def peak(one: Memory, other: Memory) -> Memory:
    return Memory(
        _most(one.vram_bytes, other.vram_bytes),
        _most(one.torch_bytes, other.torch_bytes),
        _most(one.ram_bytes, other.ram_bytes),
    )


class MemoryPeak:
    """The highest figures seen so far."""

    def __init__(self) -> None:
        self.memory = Memory()


@contextmanager
def polling_memory(stats: Callable[[], Any], every_s: float = POLL_S) -> Iterator[MemoryPeak]:
    """Calls ``stats`` in a thread at once, every ``every_s`` seconds, and at the end, and yields the peak. A call that
    fails is left out."""
    found, over = MemoryPeak(), threading.Event()

    def ask() -> None:
        last = False
        while not last:
            last = over.is_set()
            with suppress(AgentError):
                found.memory = peak(found.memory, memory_in(stats()))
            over.wait(every_s)

    thread = threading.Thread(target=ask, name="system-stats", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _bytes(value: Any) -> int | None:
    is_count = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**60
    return int(value) if is_count else None


def _used(values: Mapping[str, Any], total: str, free: str) -> int | None:
    total_bytes, free_bytes = _bytes(values.get(total)), _bytes(values.get(free))
    return max(total_bytes - free_bytes, 0) if total_bytes is not None and free_bytes is not None else None


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _most(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)
