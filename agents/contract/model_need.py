"""What a device lacks of one model, and the room that its disk keeps free. PURE"""

from __future__ import annotations

from dataclasses import dataclass

DISK_MARGIN_BYTES = 64 << 20
"""Left free on the disk: logs and results are written beside the models."""


@dataclass(frozen=True, slots=True)
class ModelNeed:
    """One model in one quantisation on one device. ``files`` and ``missing_bytes`` count what is not here yet.

    ``missing_bytes`` None: it cannot be told, and ``detail`` says why. A file of two models counts at the first.
    """

    model: str
    quantisation: str | None
    here: bool
    missing_bytes: int | None
    files: int
    detail: str = ""
