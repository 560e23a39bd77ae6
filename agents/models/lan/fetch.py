"""Fetches a model that the matrix names by a path, and that is on another device alone, into the store.

In the store: ``lan/<first 16 digits of the model's SHA-256>/``, with all parts of a split model and the projector.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

from agents.contract.model_peers import Peers
from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.gguf.check import check_model, check_projector
from agents.models.lan import download as peer_download
from agents.models.lan.announcement import announcing
from agents.models.lan.catalogue import path_key
from agents.models.lan.client import PeerClient
from agents.models.lan.download import WantedFile, download_from_peers
from agents.models.lan.protocol import Answer, FileStatus, SharedFile, path_query
from agents.models.lan.shared_files import files_from_origin, record_origin, share
from agents.models.progress import Notify
from agents.models.store.disk import locked, os_errors_named, sha256_of, size_of
from agents.models.store.files import ModelFiles
from agents.models.store.transfer import partial_of

Files = tuple[SharedFile, ...]


def stored_from_path(path: str, mmproj: str | None, store: Path) -> ModelFiles | None:
    """The model fetched earlier from another device for this path; None where none was, or it is no longer whole."""
    files = files_from_origin(store, path_key(path, mmproj))
    if files is None or any(size_of(_target(store, files, file)) != file.size_bytes for file in files):
        return None
    with suppress(LoadFailed):
        return _checked(store, files, mmproj)
    return None


def fetch_path(path: str, mmproj: str | None, store: Path, peers: Peers, notify: Notify) -> ModelFiles | None:
    """The model at ``path`` on another device, fetched; None where no device that answers has one there.

    Raises LoadFailed: DISK_FULL, MODEL_FILE_MISSING where no device sends it any more, MODEL_FILE_INVALID.
    """
    files = _locate(path, mmproj, peers, notify)
    if files is None:
        return None
    folder = _target(store, files, files[0]).parent
    with os_errors_named(f"{path} cannot be stored in {folder}"), locked(folder, notify):
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            target = _target(store, files, file)
            if size_of(target) != file.size_bytes or sha256_of(target, notify) != file.sha256:
                _download(file, target, store, peers, notify)
            share(store, target, file.sha256)
        model = _checked(store, files, mmproj)
        record_origin(store, path_key(path, mmproj), files)
        return model


def _locate(path: str, mmproj: str | None, peers: Peers, notify: Notify) -> Files | None:
    """Asks all devices which files they have at ``path``; waits for those that hash them, or measure."""
    others = [peer for peer in peers.peers if peer.device_id != peers.own]
    with PeerClient(peers.token) as client:
        while True:
            answers = client.ask_all(others, path_query(path, mmproj))
            found = [answer for answer in answers if answer.status is FileStatus.HAS]
            if found:
                return _commonest(path, found, notify)
            later = [answer for answer in answers if answer.status in (FileStatus.READS, FileStatus.MEASURES)]
            if not later:
                return None
            doing = "measures now" if later[0].status is FileStatus.MEASURES else "is hashing it"
            notify(f"waiting for {later[0].peer.shown}, which has {path} and {doing}")
            others = [answer.peer for answer in later]
            peer_download.PACE.wait(peer_download.PACE.poll_interval_s(later[0].status))


def _commonest(path: str, found: list[Answer], notify: Notify) -> Files:
    """The files that most devices have there. Where devices differ, notifies: another choice is another model."""
    counted = Counter(answer.files for answer in found)
    files, _ = counted.most_common(1)[0]
    if len(counted) > 1:
        chosen = next(answer.peer.shown for answer in found if answer.files == files)
        notify(f"{path} is not the same file on all devices: that of {chosen} is taken")
    return files


def _download(file: SharedFile, target: Path, store: Path, peers: Peers, notify: Notify) -> None:
    wanted = WantedFile(file.name, target, file.sha256, file.sha256, file.size_bytes)
    with announcing(store, wanted.key, partial_of(target)) as announcement:
        if not download_from_peers(wanted, peers, announcement, notify, has_internet=False):
            raise LoadFailed(Cause.MODEL_FILE_MISSING, f"{file.name} lies on another device, which does not send it")


def _checked(store: Path, files: Files, mmproj: str | None) -> ModelFiles:
    """The first file is the model; with ``mmproj`` the last one is the projector."""
    model, projector = _target(store, files, files[0]), _target(store, files, files[-1])
    facts = check_model(model)
    if mmproj is None:
        return ModelFiles(model, None, facts, files[0].sha256)
    check_projector(projector)
    return ModelFiles(model, projector, facts, files[0].sha256)


def _target(store: Path, files: Files, file: SharedFile) -> Path:
    return store / "lan" / files[0].sha256[:16] / file.name
