"""A model that the matrix names by a path, and that lies on another device: fetched into the store, once.

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
from agents.models.lan.announcement import announced
from agents.models.lan.catalogue import path_key
from agents.models.lan.client import Line
from agents.models.lan.download import Wanted, fetch_from_peers
from agents.models.lan.protocol import Answer, SharedFile, State, at_path
from agents.models.lan.shared_files import from_origin, keep_origin, offer
from agents.models.progress import Say
from agents.models.store.disk import alone, os_errors_named, sha256_of, size_of
from agents.models.store.files import ModelFiles
from agents.models.store.transfer import partial_of

Files = tuple[SharedFile, ...]


def kept_from_path(path: str, mmproj: str | None, store: Path) -> ModelFiles | None:
    """What was fetched from another device for this path; None where nothing was, or it is no longer whole."""
    files = from_origin(store, path_key(path, mmproj))
    if files is None or any(size_of(_target(store, files, file)) != file.size_bytes for file in files):
        return None
    with suppress(LoadFailed):
        return _checked(store, files, mmproj)
    return None


def fetch_path(path: str, mmproj: str | None, store: Path, peers: Peers, say: Say) -> ModelFiles | None:
    """The model that lies at ``path`` on another device; None where it lies on none of those that answer.

    Raises LoadFailed: DISK_FULL, MODEL_FILE_MISSING where it can no longer be had, MODEL_FILE_INVALID.
    """
    files = _found(path, mmproj, peers, say)
    if files is None:
        return None
    folder = _target(store, files, files[0]).parent
    with os_errors_named(f"{path} cannot be stored in {folder}"), alone(folder, say):
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            target = _target(store, files, file)
            if size_of(target) != file.size_bytes or sha256_of(target, say) != file.sha256:
                _fetch(file, target, store, peers, say)
            offer(store, target, file.sha256)
        model = _checked(store, files, mmproj)
        keep_origin(store, path_key(path, mmproj), files)
        return model


def _found(path: str, mmproj: str | None, peers: Peers, say: Say) -> Files | None:
    """Asks all, and waits for those that are hashing the file, or measure."""
    others = [peer for peer in peers.urls if peer.device_id != peers.own]
    with Line(peers.token) as line:
        while True:
            answers = line.ask_all(others, at_path(path, mmproj))
            found = [answer for answer in answers if answer.state is State.HAS]
            if found:
                return _most_common(path, found, say)
            later = [answer for answer in answers if answer.state in (State.READS, State.MEASURES)]
            if not later:
                return None
            doing = "measures now" if later[0].state is State.MEASURES else "is hashing it"
            say(f"waiting for {later[0].peer.shown}, which has {path} and {doing}")
            others = [answer.peer for answer in later]
            peer_download.PACE.wait(peer_download.PACE.between(later[0].state))


def _most_common(path: str, found: list[Answer], say: Say) -> Files:
    """Where devices have different files under one path, that of most; said, for it is another model."""
    counted = Counter(answer.files for answer in found)
    files, _ = counted.most_common(1)[0]
    if len(counted) > 1:
        chosen = next(answer.peer.shown for answer in found if answer.files == files)
        say(f"{path} is not the same file on all devices: that of {chosen} is taken")
    return files


def _fetch(file: SharedFile, target: Path, store: Path, peers: Peers, say: Say) -> None:
    wanted = Wanted(file.name, target, file.sha256, file.sha256, file.size_bytes)
    with announced(store, wanted.key, partial_of(target)) as announcement:
        if not fetch_from_peers(wanted, peers, announcement, say, other_way=False):
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
