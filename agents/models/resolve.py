"""From a job's LoadSettings to the files that an engine loads."""

from __future__ import annotations

from pathlib import Path

from agents.contract.job import LoadSettings
from agents.contract.model_peers import Peers
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.gguf.types import FILE_TYPES
from agents.models.lan.fetch import fetch_path, stored_from_path
from agents.models.progress import Notify
from agents.models.store.files import ModelFiles, files_at

__all__ = ["ModelFiles", "resolve"]


def resolve(settings: LoadSettings, store: Path, notify: Notify, peers: Peers | None = None) -> ModelFiles:
    """The model's files on this device: made, found, or fetched into ``store``. ``notify`` is called with its progress.

    A path may begin with ``~``; a relative one counts from the directory in which the agent was started. What another
    device of ``peers`` has is downloaded from there, not from the internet.
    Raises LoadFailed: MODEL_FILE_MISSING (also for a name that only an engine knows), MODEL_FILE_INVALID, DISK_FULL.
    """
    source = settings.source
    if source.tiny is not None:
        from agents.models.tiny.make import make_tiny

        return make_tiny(source.tiny, settings.quantisation, store / "tiny", notify)
    if source.path is not None:
        files = _at_path(source.path, source.mmproj, store, notify, peers)
        return _check_quantisation(files, settings.quantisation, notify)
    if source.url is not None:
        from agents.models.web.fetch import fetch_url

        return _check_quantisation(fetch_url(source, store, notify, peers), settings.quantisation, notify)
    if source.hf_repo is not None:
        from agents.models.hub.fetch import fetch
        from agents.models.hub.listing import request_of

        return fetch(request_of(source, settings.quantisation), store, notify, peers=peers)
    raise LoadFailed(
        Cause.MODEL_FILE_MISSING,
        f"{settings.engine} loads files, and {settings.model!r} names none: "
        "give a path or an address of a .gguf file, hf:OWNER/REPO, or tiny:ARCH",
    )


def _at_path(path: str, mmproj: str | None, store: Path, notify: Notify, peers: Peers | None) -> ModelFiles:
    """The files at ``path`` on this device, else those fetched earlier from another device, else fetched now."""
    try:
        return files_at(path, mmproj)
    except LoadFailed as error:
        if error.cause is not Cause.MODEL_FILE_MISSING:
            raise
        files = stored_from_path(path, mmproj, store)
        if files is None and peers is not None:
            files = fetch_path(path, mmproj, store, peers, notify)
            if files is None:
                others = len([peer for peer in peers.peers if peer.device_id != peers.own])
                raise LoadFailed(error.cause, f"{error.detail}, nor at any of {others} other devices") from error
        if files is None:
            raise
        return files


def _check_quantisation(files: ModelFiles, asked: str | None, notify: Notify) -> ModelFiles:
    """Returns ``files``, unless the file states another quantisation than ``asked``: its row would name a file that was
    not measured. A name that no file states (``UD-Q4_K_XL``) is believed, with a notification. Raises LoadFailed."""
    if asked is None or files.facts is None or asked.upper() == files.facts.quantisation.upper():
        return files
    words = f"{files.path.name} calls itself {files.facts.quantisation}; {asked} is asked for"
    if asked.upper() in FILE_TYPES.values():
        raise LoadFailed(Cause.MODEL_FILE_INVALID, words)
    notify(words)
    return files
