"""What a device lacks of the models that a run asks for, and the room on its disk. Asks, and fetches nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from agents.contract.engines import facts_of
from agents.contract.job import LoadSettings
from agents.contract.model_need import ModelNeed
from agents.contract.report import Cause
from agents.errors import AgentError, LoadFailed
from agents.models.lan.fetch import stored_from_path
from agents.models.store.files import MissingFile, absolute, files_at

ASK_S = 5.0
"""Limit for a server's answer, in seconds; one that exceeds it is not asked again for the other models of the run."""

NOT_HERE = "not on this device"


def needs(loads: Sequence[LoadSettings], store: Path, *, endpoint: str | None = None) -> tuple[ModelNeed, ...]:
    """One entry for each source and quantisation that is loaded from files, in the order of ``loads``. Never raises.

    Asks the hub and web servers for sizes, ASK_S at the most for each of them. ``endpoint``: as in ``hub.fetch``.
    """
    survey = _Survey(store, endpoint)
    distinct = {(load.source, load.quantisation): load for load in loads if facts_of(load.engine).takes_files}
    return tuple(survey.need(load) for load in distinct.values())


def free_bytes(store: Path) -> int:
    """Free bytes of the disk that holds ``store``, or will hold it; 0 where the system does not tell."""
    for place in (store.absolute(), *store.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return 0
    return 0


class _Survey:
    """The needs of one run: a server that does not answer is asked once, a file that two models lack counts once."""

    def __init__(self, store: Path, endpoint: str | None) -> None:
        self._store = store
        self._endpoint = endpoint
        self._silent: set[str] = set()
        self._counted: set[Path] = set()

    def need(self, load: LoadSettings) -> ModelNeed:
        try:
            missing = self._missing(load)
        except AgentError as error:
            return ModelNeed(load.model, load.quantisation, False, None, 1, error.detail)
        except Exception as error:  # a question before a run must not end it
            words = f"cannot be told: {type(error).__name__}"
            return ModelNeed(load.model, load.quantisation, False, None, 1, words)
        uncounted = [file for file in missing if file.target not in self._counted]
        self._counted.update(file.target for file in missing)
        sizes = [file.size_bytes for file in uncounted]
        known = [size for size in sizes if size is not None]
        has_unknown = len(known) < len(sizes)
        return ModelNeed(
            model=load.model,
            quantisation=load.quantisation,
            here=not missing,
            missing_bytes=None if has_unknown else sum(known),
            files=len(missing),
            detail="the server does not tell its size" if has_unknown else "",
        )

    def _missing(self, load: LoadSettings) -> tuple[MissingFile, ...]:
        """Raises LoadFailed, whose words are the detail."""
        source = load.source
        if source.tiny is not None:
            from agents.models.tiny.make import missing_files as missing_tiny

            return missing_tiny(source.tiny, load.quantisation, self._store / "tiny")
        if source.path is not None:
            self._check_path(source.path, source.mmproj)
            return ()
        if source.url is not None:
            return self._of_address(load)
        return self._of_hub(load) if source.hf_repo is not None else ()

    def _check_path(self, path: str, mmproj: str | None) -> None:
        try:
            files_at(path, mmproj)
        except LoadFailed as error:
            if error.cause is not Cause.MODEL_FILE_MISSING:
                raise
            if stored_from_path(path, mmproj, self._store) is None:
                words = error.detail if absolute(path).is_file() else NOT_HERE
                raise LoadFailed(error.cause, words) from error

    def _of_address(self, load: LoadSettings) -> tuple[MissingFile, ...]:
        from agents.models.web.download import Unreachable
        from agents.models.web.fetch import missing_files as missing_of_address

        host = urlsplit(str(load.source.url)).hostname or ""
        return self._unless_silent(host, Unreachable, lambda: missing_of_address(load.source, self._store, ASK_S))

    def _of_hub(self, load: LoadSettings) -> tuple[MissingFile, ...]:
        from agents.models.hub.errors import HubUnreachable
        from agents.models.hub.fetch import missing_files as missing_of_hub
        from agents.models.hub.listing import request_of

        request = request_of(load.source, load.quantisation)
        return self._unless_silent(
            "the hub", HubUnreachable, lambda: missing_of_hub(request, self._store, ASK_S, endpoint=self._endpoint)
        )

    def _unless_silent(
        self, server: str, unreachable: type[LoadFailed], ask: Callable[[], tuple[MissingFile, ...]]
    ) -> tuple[MissingFile, ...]:
        if server in self._silent:
            raise LoadFailed(Cause.MODEL_FILE_MISSING, f"{server} did not answer")
        try:
            return ask()
        except unreachable:
            self._silent.add(server)
            raise
