"""The files of a model, as every source returns them; and models that lie at a path on this device."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.gguf.check import GgufFacts, check_model, check_projector


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
    """A file that is not in the store yet, and its bytes still to download; None where those are not known."""

    target: Path
    size_bytes: int | None


def files_at(path: str, wanted_mmproj: str | None) -> ModelFiles:
    """The model at ``path`` and its projector, checked. ``wanted_mmproj``: a path, or a name or glob beside the model.

    Raises LoadFailed: MODEL_FILE_MISSING, MODEL_FILE_INVALID.
    """
    model = absolute(path)
    facts = check_model(model)
    if wanted_mmproj is None:
        return ModelFiles(model, None, facts)
    mmproj = _projector(wanted_mmproj, model.parent)
    check_projector(mmproj)
    return ModelFiles(model, mmproj, facts)


def absolute(path: str) -> Path:
    """``~`` is the home of the user that the agent runs as. Raises LoadFailed for a home that is not there."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise LoadFailed(Cause.MODEL_FILE_MISSING, f"no such model file: {path} ({error})") from error


def _projector(wanted: str, beside: Path) -> Path:
    """A path as the model's own, or a bare name or glob of one file in the model's directory."""
    if "/" in wanted or "\\" in wanted:
        return absolute(wanted)
    names = sorted(file.name for file in beside.iterdir() if file.suffix.lower() == ".gguf")
    found = [name for name in names if fnmatchcase(name.lower(), wanted.lower())]
    if len(found) != 1:
        shown = ", ".join(found or names)
        raise LoadFailed(
            Cause.MODEL_FILE_MISSING,
            f"{len(found) or 'no'} files in {beside} match the vision projector {wanted!r}; there are {shown}",
        )
    return beside / found[0]
