"""What every way to a model gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.models.gguf.check import GgufFacts


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one model on this device.

    ``path`` is the model, or the first part of a split one; ``mmproj`` the vision projector that goes with it.
    ``sha256`` is that of ``path``, hex, where it is known without reading a file of the user's from end to end.
    """

    path: Path
    mmproj: Path | None = None
    facts: GgufFacts | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class MissingFile:
    """A file that is not in the store yet, and what of it is still to come; None where that cannot be told."""

    target: Path
    size_bytes: int | None
