"""The limits of AMD's mobile processors, set by the program ``ryzenadj``. Not yet tried on hardware.

Documents: github.com/FlyGoat/RyzenAdj (README, main.c). It needs root, and for reading back the kernel module
ryzen_smu or /dev/mem (``iomem=relaxed``); without them ``ryzenadj -i`` prints no table, and nothing can be held. Limits
are set in mW and printed in W: ``stapm-limit`` (minutes), ``slow-limit`` (seconds), ``fast-limit`` (at once); all get
one value, as in its README. ``nan`` is printed for what a family's table does not hold. It may say success without
effect, and firmware may set its own values again (a cable pulled, another profile): what was set is read back, and
looked at after every trial. It has no bounds: see ``bounds_of``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from agents.power.methods.base import Levels, LimitNotHeld, MethodKind, PowerMethod, bounds_of
from agents.power.methods.program import on_path, output_of

LIMITS = ("stapm-limit", "fast-limit", "slow-limit")
_ROW = re.compile(r"^\|[^|]*\|\s*([0-9.]+|-?nan|inf)\s*\|\s*([a-z-]+)\s*\|\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RyzenAdj:
    program: str
    most_w: float | None
    name: str = "ryzenadj"

    def read(self) -> Levels:
        text = output_of((self.program, "-i"))
        levels = parse_table(text)
        if not levels:
            words = " ".join(text.split())[:300]
            raise LimitNotHeld(
                f"ryzenadj -i: no table of limits, so nothing could be read back: {words or 'it prints nothing'}"
                " (it needs its kernel module ryzen_smu, or iomem=relaxed)"
            )
        return levels

    def write(self, levels: Levels) -> None:
        settings = [f"--{limit}={round(float(levels[limit]) * 1000)}" for limit in LIMITS if limit in levels]
        output_of((self.program, *settings))

    def bounds(self) -> tuple[float, float]:
        stands = max(level for level in self.read().values() if isinstance(level, float))
        return bounds_of(None, None, stands, self.most_w)

    def levels_for(self, limit_w: float) -> Levels:
        return dict.fromkeys(self.read(), limit_w)


def parse_table(text: str) -> Levels:
    """The limits of ``ryzenadj -i`` that hold a number, in W. PURE"""
    rows = {parameter: value for value, parameter in _ROW.findall(text) if parameter in LIMITS}
    return {limit: float(rows[limit]) for limit in LIMITS if limit in rows and 0 < float(rows[limit]) < math.inf}


def find(root: Path, most_w: float | None) -> PowerMethod | str:  # noqa: ARG001  a program has no tree
    program = on_path("ryzenadj")
    if program is None:
        return "no program ryzenadj on the PATH of the agent"
    method = RyzenAdj(program, most_w)
    try:
        method.read()
    except LimitNotHeld as error:
        return error.detail
    return method


RYZENADJ = MethodKind("ryzenadj", find, of="package")
