"""From a job's LoadSettings to the files that an engine loads."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from agents.contract.job import LoadSettings, ModelSource
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.files import ModelFiles
from agents.models.gguf_check import check_model, check_projector
from agents.models.progress import Say

__all__ = ["ModelFiles", "resolve"]


def resolve(settings: LoadSettings, store: Path, say: Say) -> ModelFiles:
    """The model's files on this device: made, found, or fetched into ``store``. ``say`` gets sentences on the way.

    A path may begin with ``~``; a relative one counts from the directory in which the agent was started.
    Raises LoadFailed: MODEL_FILE_MISSING (also for a name that only an engine knows), MODEL_FILE_INVALID, DISK_FULL.
    """
    source = settings.source
    if source.tiny is not None:
        from agents.models.tiny import make_tiny

        return make_tiny(source.tiny, settings.quantisation, store / "tiny", say)
    if source.path is not None:
        return _at_path(source, source.path, settings.quantisation, say)
    if source.hf_repo is not None:
        from agents.models.hub import HubRequest, fetch

        request = HubRequest(source.hf_repo, source.hf_revision, source.hf_file, settings.quantisation, source.mmproj)
        return fetch(request, store, say)
    raise LoadFailed(
        Cause.MODEL_FILE_MISSING,
        f"{settings.engine} loads files, and {settings.model!r} names none: "
        "give a path to a .gguf file, hf:OWNER/REPO, or tiny:ARCH",
    )


def _at_path(source: ModelSource, path: str, quantisation: str | None, say: Say) -> ModelFiles:
    model = _absolute(path)
    facts = check_model(model)
    if quantisation is not None and quantisation.upper() != facts.quantisation.upper():
        say(f"{model.name} calls itself {facts.quantisation}; {quantisation} is asked for")
    mmproj = None
    if source.mmproj is not None:
        mmproj = _projector(source.mmproj, model.parent)
        check_projector(mmproj)
    return ModelFiles(model, mmproj, facts)


def _absolute(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise LoadFailed(Cause.MODEL_FILE_MISSING, f"no such model file: {path} ({error})") from error


def _projector(wanted: str, beside: Path) -> Path:
    """A path as the model's own, or a bare name or glob of one file in the model's directory."""
    if "/" in wanted or "\\" in wanted:
        return _absolute(wanted)
    names = sorted(file.name for file in beside.iterdir() if file.suffix.lower() == ".gguf")
    found = [name for name in names if fnmatchcase(name.lower(), wanted.lower())]
    if len(found) != 1:
        shown = ", ".join(found or names)
        raise LoadFailed(
            Cause.MODEL_FILE_MISSING,
            f"{len(found) or 'no'} files in {beside} match the vision projector {wanted!r}; there are {shown}",
        )
    return beside / found[0]
