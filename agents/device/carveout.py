"""The carve-out of an AMD APU, where its firmware lets Linux choose it. Not yet tried on hardware.

The kernel's documents (Documentation/gpu/amdgpu/driver-misc.rst, "UMA Carveout"): below the card's device,
``uma/carveout_options`` lists ``INDEX: NAME (SIZE MB)`` or ``(SIZE GB)``, one a line; ``uma/carveout`` holds the index
that was chosen, and takes another one, which holds from the next boot. Both are missing where the firmware cannot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agents.contract.device import same_split
from agents.errors import Unsupported
from agents.units import format_size

_OPTION = re.compile(r"^\s*(\d+):.*\((\d+)\s*(MB|GB)\)\s*$", re.MULTILINE)
_UNITS = {"MB": 2**20, "GB": 2**30}  # as firmware menus count


@dataclass(frozen=True, slots=True)
class Option:
    index: int
    size_bytes: int


def parse_options(text: str) -> tuple[Option, ...]:
    """The options of ``uma/carveout_options``; a line of another form is left out. PURE"""
    return tuple(Option(int(index), int(size) * _UNITS[unit]) for index, size, unit in _OPTION.findall(text))


def option_for(wanted_bytes: int, options: Sequence[Option]) -> Option | None:
    """The option that is this size in a firmware's menu, the nearest where several would do. PURE"""
    same = [each for each in options if same_split(wanted_bytes, each.size_bytes)]
    return min(same, key=lambda each: abs(wanted_bytes - each.size_bytes), default=None)


def options_of(sys_root: Path) -> tuple[Option, ...]:
    """What the first card with a carve-out offers; nothing where none does."""
    folder = _folder(sys_root)
    try:
        return parse_options((folder / "carveout_options").read_text(errors="replace")) if folder else ()
    except OSError:
        return ()


def choose(wanted_bytes: int, sys_root: Path) -> str:
    """Has the firmware give this much to the GPU from the next boot on, and reads the choice back; what it was before.

    Raises Unsupported, with the reason, where that cannot be done; nothing is changed then.
    """
    folder, options = _folder(sys_root), options_of(sys_root)
    option = option_for(wanted_bytes, options)
    if folder is None or option is None:
        offered = ", ".join(format_size(each.size_bytes) for each in options) or "none"
        raise Unsupported(f"the firmware offers no carve-out of {format_size(wanted_bytes)}; it offers {offered}")
    file = folder / "carveout"
    try:
        before = _index(file)
        file.write_text(f"{option.index}\n")
        now = _index(file)
    except OSError as error:
        raise Unsupported(f"{file}: cannot be written: {error.strerror or error}") from error
    if now != str(option.index):
        put_back(before, sys_root)
        raise Unsupported(f"{file}: {option.index} was written, and {now!a} is read back")
    return before


def put_back(index: str, sys_root: Path) -> None:
    """The choice as it was, as far as that can be had."""
    if folder := _folder(sys_root):
        with suppress(OSError):
            (folder / "carveout").write_text(f"{index}\n")


def _index(file: Path) -> str:
    with file.open(encoding="ascii", errors="replace") as opened:
        return opened.read(64).strip()


def _folder(sys_root: Path) -> Path | None:
    found = sorted((sys_root / "sys/class/drm").glob("card[0-9]*/device/uma/carveout"))
    return found[0].parent if found else None
