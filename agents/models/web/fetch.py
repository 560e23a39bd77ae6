"""Models from an address on the web: the file, all parts of a split model, and the projector beside it.

In the store: ``url/<16 digits>/<file>``, by the SHA-256 that the matrix gives, else by that of the address without its
login. What was fetched is used without asking again: an address is taken to mean one file for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agents.contract.job import ModelSource
from agents.contract.model_peers import Peers
from agents.contract.report import Cause
from agents.contract.web_address import beside, file_name, is_web, key_of, names_one_file, shown
from agents.errors import LoadFailed
from agents.models.gguf.check import SPLIT_NAME, GgufFacts, check_model, check_projector
from agents.models.lan.download import WantedFile, download_once
from agents.models.lan.protocol import SharedFile
from agents.models.lan.shared_files import record_origin, share
from agents.models.progress import Notify
from agents.models.store.disk import locked, os_errors_named, sha256_of, size_of, verified_sha256
from agents.models.store.files import MissingFile, ModelFiles
from agents.models.store.transfer import partial_of
from agents.models.web.download import download_from, size_at

_MAX_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class _WebModel:
    """Files that belong side by side: a model's parts, or its projector. ``sha256`` is that of the first."""

    urls: tuple[str, ...]
    sha256: str | None
    directory: Path
    check: Callable[[Path], GgufFacts]

    @property
    def name(self) -> str:
        return f"url:{shown(self.urls[0])}"

    def target(self, url: str) -> Path:
        return self.directory / file_name(url)

    def sha256_of(self, url: str) -> str | None:
        return self.sha256 if url == self.urls[0] else None

    def missing(self) -> tuple[str, ...]:
        return tuple(url for url in self.urls if not self.target(url).is_file())


def fetch_url(source: ModelSource, store: Path, notify: Notify, peers: Peers | None = None) -> ModelFiles:
    """The files on this device, checked; a file that another device of ``peers`` has is downloaded from there.

    Raises LoadFailed: MODEL_FILE_MISSING, MODEL_FILE_INVALID (then what was fetched is deleted), DISK_FULL.
    """
    model, *projectors = _wanted(source, store)
    for each in (model, *projectors):
        with os_errors_named(f"{each.name} cannot be stored in {each.directory}"):
            _ensure_local(each, store, notify, peers)
    path = model.target(model.urls[0])
    facts = check_model(path)
    mmproj = projectors[0].target(projectors[0].urls[0]) if projectors else None
    if mmproj is not None:
        check_projector(mmproj)
    return ModelFiles(path, mmproj, facts, sha256_of(path, notify))


def missing_files(source: ModelSource, store: Path, timeout_s: float) -> tuple[MissingFile, ...]:
    """What ``fetch_url`` would download; asks the server for sizes. Raises LoadFailed."""
    missing = []
    for each in _wanted(source, store):
        for url in each.missing():
            size_bytes, target = size_at(url, timeout_s), each.target(url)
            remaining = None if size_bytes is None else max(0, size_bytes - size_of(partial_of(target)))
            missing.append(MissingFile(target, remaining))
    return tuple(missing)


def _wanted(source: ModelSource, store: Path) -> tuple[_WebModel, ...]:
    """The model, and the projector where one is asked for. Raises LoadFailed."""
    url, mmproj = str(source.url), source.mmproj
    try:
        home = store / "url"
        directory = home / (source.sha256 or key_of(url))[:16]
        wanted = [_WebModel(_parts_of(url), source.sha256, directory, check_model)]
        if mmproj is not None:
            address = mmproj if is_web(mmproj) else beside(url, mmproj)
            wanted.append(_WebModel((address,), None, home / key_of(address)[:16], check_projector))
    except ValueError:
        raise LoadFailed(Cause.MODEL_FILE_MISSING, f"{shown(url)} is not an address") from None
    for each in wanted:  # the matrix allows no other; a job need not come from a matrix
        if not names_one_file(file_name(each.urls[0])):
            raise LoadFailed(Cause.MODEL_FILE_MISSING, f"{each.name} does not name a .gguf file")
    return tuple(wanted)


def _parts_of(url: str) -> tuple[str, ...]:
    split = SPLIT_NAME.fullmatch(file_name(url))
    if split is None:
        return (url,)
    number, count = int(split["part"]), int(split["count"])
    if number != 1 or not 1 <= count <= _MAX_PARTS:
        raise LoadFailed(
            Cause.MODEL_FILE_INVALID, f"url:{shown(url)} is part {number} of {count}: name the first, of at most 1,000"
        )
    suffix = file_name(url)[-len(".gguf") :]
    names = (f"{split['stem']}-{part:05}-of-{count:05}{suffix}" for part in range(2, count + 1))
    return (url, *(beside(url, name) for name in names))


def _ensure_local(model: _WebModel, store: Path, notify: Notify, peers: Peers | None) -> None:
    """Fetches what is missing; all of it is then verified, and may be fetched by others."""
    if model.missing():
        with locked(model.directory, notify):
            _fetch_missing(model, store, notify, peers)
    for url in model.urls:
        path = model.target(url)
        digest = verified_sha256(path, model.sha256_of(url), "the matrix", notify)
        share(store, path, digest)
        record_origin(store, key_of(url), (SharedFile(path.name, size_of(path), digest),))


def _fetch_missing(model: _WebModel, store: Path, notify: Notify, peers: Peers | None) -> None:
    """Deletes again what turns out to be no model, such as the page of a login."""
    model.directory.mkdir(parents=True, exist_ok=True)
    missing = model.missing()  # again, inside the lock: another process may have fetched them meanwhile
    for url in missing:
        sha256, target = model.sha256_of(url), model.target(url)
        wanted = WantedFile(target.name, target, sha256 or key_of(url), sha256)
        download_once(wanted, store, peers, notify, partial(download_from, url, sha256, target))
    try:
        model.check(model.target(model.urls[0]))
    except LoadFailed as error:
        for url in missing:
            model.target(url).unlink(missing_ok=True)
        raise LoadFailed(error.cause, f"{model.name}: {error.detail}; it was deleted") from error
