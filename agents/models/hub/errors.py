"""What the Hugging Face hub and its library raise, as LoadFailed with a cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.store.disk import os_failure

_LOG_IN = "log in on this device (`hf auth login`, or HF_TOKEN in the agent's environment)"


class HubUnreachable(LoadFailed):
    """The hub does not answer, or may not be asked: files that are on the device can still be used."""

    def __init__(self, why: str) -> None:
        super().__init__(Cause.MODEL_FILE_MISSING, why)


@contextmanager
def hub_errors_named(repo: str, revision: str | None) -> Iterator[None]:
    """Everything that asking for ``repo`` can raise becomes LoadFailed, without a header or a token in its words."""
    try:
        yield
    except LoadFailed:
        raise
    except Exception as error:
        raise _as_load_failed(error, repo, revision) from error


def _as_load_failed(error: Exception, repo: str, revision: str | None) -> LoadFailed:  # noqa: PLR0911  a table of cases
    import httpx2
    from huggingface_hub import errors

    # The order matters: HfHubHTTPError is a httpx2.HTTPError and an OSError, GatedRepoError a RepositoryNotFoundError.
    match error:
        case errors.GatedRepoError():
            return _missing(f"hf:{repo} is gated: accept its terms on the hub's page, then {_LOG_IN}")
        case errors.RevisionNotFoundError():
            return _missing(f"hf:{repo} has no revision {revision!r}")
        case errors.RepositoryNotFoundError():
            return _missing(f"hf:{repo} is not on the hub, or it is private: then {_LOG_IN}")
        case errors.HfHubHTTPError():
            return _from_http_status(repo, error.response.status_code)
        case errors.HFValidationError():
            return _missing(f"{repo!r} is not the name of a repository: OWNER/NAME is expected")
        case errors.OfflineModeIsEnabled():
            return HubUnreachable("HF_HUB_OFFLINE is set")
        case httpx2.HTTPError() | httpx2.InvalidURL() | errors.LocalEntryNotFoundError():
            return HubUnreachable(f"the hub cannot be reached ({type(error).__name__})")
        case OSError():
            return os_failure(error, f"hf:{repo} cannot be stored")
        case ValueError() | TypeError() | KeyError():  # an answer that is not the hub's: a captive portal, a proxy
            return HubUnreachable("what answers in the hub's place does not speak as the hub does")
        case _:
            return LoadFailed(Cause.LOAD_FAILED, f"hf:{repo} cannot be fetched: {type(error).__name__}")


def _from_http_status(repo: str, status: int) -> LoadFailed:
    if status in (401, 403):
        return _missing(f"the hub refuses hf:{repo} to this device's token (HTTP {status}): {_LOG_IN}")
    if status == 404:
        return _missing(f"hf:{repo}: the hub no longer has the file (HTTP 404)")
    if status == 429 or status >= 500:
        return HubUnreachable(f"the hub answers HTTP {status}")
    return _missing(f"hf:{repo}: the hub answers HTTP {status}")


def _missing(detail: str) -> LoadFailed:
    return LoadFailed(Cause.MODEL_FILE_MISSING, detail)
