"""The canary: one fixed short cell, run before, between and after all others; its drift tells the device's. PURE

It is the same in every run of every matrix, so it can be compared over months too: the embedded engine on the model
with random weights and 0.6 B parameters, which every device makes for itself, on whatever back end the engine takes.
"""

from __future__ import annotations

from orchestrator.matrix.axes import Value
from orchestrator.matrix.cells import Block, Cell, World
from orchestrator.matrix.matrix import Dim, Grid, Matrix

VALUES: dict[str, Value] = {
    "engine": "embedded",
    "model": "tiny:llama-0.6b",
    "quantisation": "Q4_0",
    "context": 512,
    "workload": "pp64+tg32",
}


def canary_cell(matrix: Matrix) -> Cell | None:
    """None where the matrix wants none."""
    if not matrix.measure.canary:
        return None
    block = Block(Grid((Dim(tuple(VALUES), (tuple(VALUES.values()),)),)), World(matrix))
    return block.cell(0)
