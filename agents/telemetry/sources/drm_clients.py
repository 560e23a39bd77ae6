"""What one user of a GPU has done there: the text of ``/proc/PID/fdinfo/FD`` -> figures. PURE

The kernel's Documentation/gpu/drm-usage-stats.rst, and for the names of engines and regions amdgpu_fdinfo.c,
i915_drm_client.c and xe_drm_client.c. A client is one opened device; all descriptors of it carry its client id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from agents.telemetry.sources.files import whole_in


class Group(StrEnum):
    COPY = "copy"
    COMPUTE = "compute"
    GRAPHICS = "graphics"
    VIDEO = "video"


GPU_ENGINES: Mapping[str, Mapping[str, Group]] = {
    "amdgpu": {
        **{"dma": Group.COPY, "compute": Group.COMPUTE, "gfx": Group.GRAPHICS},
        **dict.fromkeys(("dec", "enc", "enc_1", "jpeg", "vpe"), Group.VIDEO),
    },
    "i915": {
        **{"copy": Group.COPY, "compute": Group.COMPUTE, "render": Group.GRAPHICS},
        **dict.fromkeys(("video", "video-enhance"), Group.VIDEO),
    },
    "xe": {
        **{"bcs": Group.COPY, "ccs": Group.COMPUTE, "rcs": Group.GRAPHICS},
        **dict.fromkeys(("vcs", "vecs"), Group.VIDEO),
    },
}
_MEMORY_KEYS = ("drm-resident-", "drm-memory-", "drm-total-")  # the first that a driver gives counts
_UNITS = {b"": 1, b"KiB": 2**10, b"MiB": 2**20, b"GiB": 2**30}

Key = tuple[str, int]
"""PCI slot and client id: the id alone may repeat on another device."""


@dataclass(frozen=True, slots=True)
class Client:
    """``busy``: cumulative work and what it is a part of: ns of wall time (None: the reader's own clock), or cycles."""

    driver: str
    slot: str
    id: int
    busy: Mapping[str, tuple[int, int | None]]
    capacity: Mapping[str, int]
    vram_bytes: int
    gtt_bytes: int

    @property
    def key(self) -> Key:
        return self.slot, self.id


def parse(data: bytes | None) -> Client | None:
    """None where this is no client of a driver that is known here. What is no number is left out."""
    if not data:
        return None
    lines = (line.partition(b":") for line in data.splitlines())
    pairs = {key.strip().decode(errors="replace"): value.split() for key, _, value in lines}
    driver = _word(pairs, "drm-driver")
    client_id = _count(pairs.get("drm-client-id"))
    if driver not in GPU_ENGINES or client_id is None:
        return None
    busy: dict[str, tuple[int, int | None]] = {}
    capacity: dict[str, int] = {}
    for engine in GPU_ENGINES[driver]:
        cycles, total = _count(pairs.get(f"drm-cycles-{engine}")), _count(pairs.get(f"drm-total-cycles-{engine}"))
        ns = _count(pairs.get(f"drm-engine-{engine}"))
        if cycles is not None and total is not None:
            busy[engine] = (cycles, total)
        elif ns is not None:
            busy[engine] = (ns, None)
        capacity[engine] = _count(pairs.get(f"drm-engine-capacity-{engine}")) or 1
    memory = _memory(pairs)
    vram = sum(size for region, size in memory.items() if region.startswith(("vram", "local")))
    gtt = sum(size for region, size in memory.items() if region.startswith(("gtt", "system")))
    return Client(driver, _word(pairs, "drm-pdev"), client_id, busy, capacity, vram, gtt)


def shares(before: Client, now: Client, elapsed_ns: int) -> dict[str, float]:
    """How busy this client kept each engine, in %. A counter may go back for a while: then it did nothing. PURE"""
    found = {}
    for engine, (done, whole) in now.busy.items():
        if engine not in before.busy:
            continue
        done_before, whole_before = before.busy[engine]
        span = elapsed_ns if whole is None or whole_before is None else whole - whole_before
        if span > 0:
            found[engine] = 100 * max(0, done - done_before) / span / now.capacity[engine]
    return found


def latest(before: Client | None, now: Client) -> Client:
    """``now``, its counters kept from going back, as the kernel's document asks of its readers. PURE"""
    if before is None:
        return now
    held = {
        engine: max(value, before.busy.get(engine, value), key=lambda each: each[0])
        for engine, value in now.busy.items()
    }
    return Client(now.driver, now.slot, now.id, held, now.capacity, now.vram_bytes, now.gtt_bytes)


def _word(pairs: Mapping[str, list[bytes]], key: str) -> str:
    value = pairs.get(key)
    return value[0].decode(errors="replace") if value else ""


def _count(value: list[bytes] | None) -> int | None:
    return whole_in(value[0]) if value else None


def _memory(pairs: Mapping[str, list[bytes]]) -> dict[str, int]:
    """Bytes by region."""
    found: dict[str, int] = {}
    for prefix in _MEMORY_KEYS:
        for key, value in pairs.items():
            size, unit = _count(value), value[1] if len(value) > 1 else b""
            if key.startswith(prefix) and size is not None and unit in _UNITS:
                found.setdefault(key.removeprefix(prefix), size * _UNITS[unit])
    return found
