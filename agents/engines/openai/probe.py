"""One short chat before anything is measured: does the server have the model, and take the fields that we send?"""

from __future__ import annotations

import json
from collections.abc import Iterable

from agents.contract.report import Cause
from agents.engines.base import LoadPlace, Request
from agents.engines.causes import cause_of_load
from agents.engines.server.api import CALL_S, NOT_READY
from agents.engines.stream.chunks import error_text, refusal_text, stream_events
from agents.engines.stream.exchange import Exchange, ExchangeEnd, Limits, exchange
from agents.engines.stream.shapes import whole
from agents.engines.stream.sse import Response, StreamEvent, read_response
from agents.errors import LoadFailed, NotReady, RequestFailed, Unsupported

_STANDARD = {"model", "messages", "max_tokens", "stream"}
_CAUSES = {
    ExchangeEnd.CANCELLED: Cause.CANCELLED,
    ExchangeEnd.FIRST_TOKEN_TIMEOUT: Cause.LOAD_TIMEOUT,
    ExchangeEnd.TRIAL_TIMEOUT: Cause.LOAD_TIMEOUT,
    ExchangeEnd.UNREACHABLE: Cause.ENGINE_LOST,
    ExchangeEnd.BROKEN: Cause.ENGINE_LOST,
}


def probe(request: Request, place: LoadPlace, token_hint: str) -> str | None:
    """Sends ``request``. What the server calls its build in the stream (``system_fingerprint``), if it does.

    Raises Unsupported for a field or a token that is refused, NotReady, LoadFailed for all else. A cancel is obeyed.
    """
    limits = Limits(CALL_S, place.timeout_s, place.timeout_s)
    done = exchange(request.url, request.body, request.headers, limits, cancelled=place.cancelled)
    if done.end is not ExchangeEnd.COMPLETE:
        raise LoadFailed(_CAUSES[done.end], _detail_of(done, place))
    try:
        response = read_response(done.reads)
        if not response.is_good:
            _refuse(request, response, token_hint)
        events = stream_events(response)
    except RequestFailed as error:
        answered = error.cause is not Cause.STREAM_BROKEN  # else the text may be the model's own
        raise LoadFailed(cause_of_load(error.detail) if answered else Cause.LOAD_FAILED, error.detail) from error
    for chunk in request.decode(events):
        if chunk.error is not None:
            raise LoadFailed(cause_of_load(chunk.error), chunk.error)
    return _fingerprint(events)


def _detail_of(done: Exchange, place: LoadPlace) -> str:
    if done.end is ExchangeEnd.CANCELLED:
        return "cancelled while the model was loading"
    if _CAUSES[done.end] is Cause.LOAD_TIMEOUT:
        return f"the server said no word within {place.timeout_s:g} s"
    return done.detail


def _refuse(request: Request, response: Response, token_hint: str) -> None:
    status, text, refusal = response.status, error_text(response.body), refusal_text(response)
    if status in (401, 403):
        raise Unsupported(f"{refusal}; {token_hint}")
    if status in NOT_READY:
        raise NotReady(refusal)
    sent = json.loads(request.body)
    named = [field for field in sent if field not in _STANDARD and field in text]
    if status in (400, 422) and named:
        raise Unsupported(
            f"the server refuses the field {named[0]}, without which it cannot be measured here: {refusal}"
        )
    raise LoadFailed(cause_of_load(text), refusal)


def _fingerprint(events: Iterable[StreamEvent]) -> str | None:
    for event in events:
        try:
            found = whole(json.loads(event.data))
        except (ValueError, RecursionError):
            continue
        fingerprint = found.get("system_fingerprint") if isinstance(found, dict) else None
        if isinstance(fingerprint, str) and fingerprint:
            return fingerprint
    return None
