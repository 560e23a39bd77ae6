"""From a job's LoadSettings to the files that an engine loads."""

from __future__ import annotations

from pathlib import Path

from agents.contract.job import LoadSettings
from agents.contract.model_peers import Peers
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.gguf.types import FILE_TYPES
from agents.models.lan.fetch import fetch_path, kept_from_path
from agents.models.progress import Say
from agents.models.store.files import ModelFiles, files_at

__all__ = ["ModelFiles", "resolve"]


def resolve(settings: LoadSettings, store: Path, say: Say, peers: Peers | None = None) -> ModelFiles:
    """The model's files on this device: made, found, or fetched into ``store``. ``say`` gets sentences on the way.

    A path may begin with ``~``; a relative one counts from the directory in which the agent was started. What another
    device of ``peers`` has comes from there, not from the internet.
    Raises LoadFailed: MODEL_FILE_MISSING (also for a name that only an engine knows), MODEL_FILE_INVALID, DISK_FULL.
    """
    source = settings.source
    if source.tiny is not None:
        from agents.models.tiny.make import make_tiny

        return make_tiny(source.tiny, settings.quantisation, store / "tiny", say)
    if source.path is not None:
        files = _at_path(source.path, source.mmproj, store, say, peers)
        return _quantisation_said(files, settings.quantisation, say)
    if source.url is not None:
        from agents.models.web.fetch import fetch_url

        return _quantisation_said(fetch_url(source, store, say, peers), settings.quantisation, say)
    if source.hf_repo is not None:
        from agents.models.hub.fetch import fetch
        from agents.models.hub.listing import request_of

        return fetch(request_of(source, settings.quantisation), store, say, peers=peers)
    raise LoadFailed(
        Cause.MODEL_FILE_MISSING,
        f"{settings.engine} loads files, and {settings.model!r} names none: "
        "give a path or an address of a .gguf file, hf:OWNER/REPO, or tiny:ARCH",
    )


def _at_path(path: str, mmproj: str | None, store: Path, say: Say, peers: Peers | None) -> ModelFiles:
    """Where it lies on this device, else from another one, once."""
    try:
        return files_at(path, mmproj)
    except LoadFailed as error:
        if error.cause is not Cause.MODEL_FILE_MISSING:
            raise
        files = kept_from_path(path, mmproj, store)
        if files is None and peers is not None:
            files = fetch_path(path, mmproj, store, peers, say)
            if files is None:
                others = len([peer for peer in peers.urls if peer.device_id != peers.own])
                raise LoadFailed(error.cause, f"{error.detail}, nor at any of {others} other devices") from error
        if files is None:
            raise
        return files


def _quantisation_said(files: ModelFiles, asked: str | None, say: Say) -> ModelFiles:
    """``files``; where the file calls itself another quantisation than is asked for, and that is one which files call
    themselves, it is refused: a row would tell of a file that was not measured. Names of their own (``UD-Q4_K_XL``)
    are believed, and that is said."""
    if asked is None or files.facts is None or asked.upper() == files.facts.quantisation.upper():
        return files
    words = f"{files.path.name} calls itself {files.facts.quantisation}; {asked} is asked for"
    if asked.upper() in FILE_TYPES.values():
        raise LoadFailed(Cause.MODEL_FILE_INVALID, words)
    say(words)
    return files
