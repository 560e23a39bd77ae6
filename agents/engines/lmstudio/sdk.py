"""Loads through LM Studio's Python SDK, for the axes that REST has not. The package is optional: extra ``lmstudio``.

Written for ``lmstudio`` 1.5. It speaks websockets on the server's port; its log lines go where the host's logging goes.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from agents.contract.report import Cause
from agents.engines.base import LoadPlace
from agents.engines.causes import cause_of_load
from agents.engines.server.api import run_with_deadline
from agents.errors import AgentError, LoadFailed, Unsupported

INSTALL = "install the package lmstudio where the agent runs: pip install 'orchestrate-bench[lmstudio]'"
T = TypeVar("T")


class SdkFailed(AgentError):
    """The SDK raised; ``detail`` is its message."""


def installed() -> bool:
    return importlib.util.find_spec("lmstudio") is not None


class Sdk:
    """LM Studio's SDK, connected to the server at ``url``. Raises Unsupported for a ``url`` or a token that it cannot
    take."""

    def __init__(self, url: str, token: str | None) -> None:
        if not installed():
            raise Unsupported(INSTALL)
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.path not in ("", "/"):
            raise Unsupported(f"LM Studio's SDK takes a host and a port, without TLS and path; device.yaml says {url}")
        if token is not None and not _takes_token():
            raise Unsupported(
                "the installed lmstudio package takes no API token, and the server has one; a newer one does"
            )
        self._host = f"{parts.hostname}:{parts.port or 80}"
        self._token = token

    def version(self) -> str | None:
        """LM Studio's own, such as ``0.4.21+2``; None where it does not report one."""
        try:
            with self._client() as client:
                answer = client.system.remote_call("version")
                return f"{answer['version']}+{int(answer['build'])}"
        except (AgentError, KeyError, TypeError, ValueError):
            return None

    def load(self, model: str, instance: str, config: Mapping[str, Any], place: LoadPlace) -> Mapping[str, Any]:
        """Loads ``model`` as ``instance``, a name of ours, and returns the configuration that LM Studio reports for it.

        Raises LoadFailed; after a cancel or a time-out LM Studio may go on: the caller unloads.
        """
        try:
            with self._client(place.timeout_s) as client:

                def load() -> Mapping[str, Any]:
                    handle = client.llm.load_new_instance(model, instance, ttl=None, config=dict(config))
                    reported = handle.get_load_config()
                    return dict(reported if isinstance(reported, Mapping) else reported.to_dict())

                return run_with_deadline(lambda: _sdk_call(load), place)
        except SdkFailed as error:
            raise LoadFailed(error.cause, error.detail) from error

    def unload(self, instance: str) -> None:
        """Unloads ``instance``. Raises SdkFailed."""
        with self._client() as client:
            _sdk_call(lambda: client.llm.unload(instance))

    @contextmanager
    def _client(self, timeout_s: float | None = None) -> Iterator[Any]:
        import lmstudio

        if timeout_s is not None:  # between two messages of the server; a module's setting, 60 s by itself
            lmstudio.set_sync_api_timeout(timeout_s)
        client: Any = _sdk_call(self._new)
        try:
            yield client
        finally:
            client.close()

    def _new(self) -> Any:
        import lmstudio

        if not lmstudio.Client.is_valid_api_host(self._host):
            raise SdkFailed(Cause.ENGINE_LOST, f"LM Studio is not reachable at {self._host}")
        if self._token is None:
            return lmstudio.Client(self._host)
        make: Any = lmstudio.Client
        return make(self._host, api_token=self._token)


def _takes_token() -> bool:
    import lmstudio

    return "api_token" in inspect.signature(lmstudio.Client).parameters


def _sdk_call(do: Callable[[], T]) -> T:
    import httpx
    import lmstudio

    try:
        return do()
    except (lmstudio.LMStudioError, httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise SdkFailed(cause_of_load(detail), f"LM Studio's SDK: {detail}") from error
