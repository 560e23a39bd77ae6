"""One word from a chat server before anything is measured: does it have the model, and take the fields that we send?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from agents.contract.report import Cause
from agents.engines.base import LoadPlace, Request
from agents.engines.causes import cause_of_load
from agents.engines.server.api import CALL_S, LATER
from agents.engines.stream.chunks import Event, Response, engine_words, read_response, refusal_words, stream_events
from agents.engines.stream.exchange import Exchange, ExchangeEnd, Limits, exchange
from agents.engines.stream.shapes import whole
from agents.errors import LoadFailed, NotReady, RequestFailed, Unsupported

_STANDARD = {"model", "messages", "max_tokens", "stream"}
_ENDED = {
    ExchangeEnd.CANCELLED: Cause.CANCELLED,
    ExchangeEnd.FIRST_TOKEN_TIMEOUT: Cause.LOAD_TIMEOUT,
    ExchangeEnd.TRIAL_TIMEOUT: Cause.LOAD_TIMEOUT,
    ExchangeEnd.UNREACHABLE: Cause.ENGINE_LOST,
    ExchangeEnd.BROKEN: Cause.ENGINE_LOST,
}


@dataclass(frozen=True, slots=True)
class Word:
    """``fingerprint``: what the server calls its build in the stream, if it does."""

    fingerprint: str | None


def first_word(request: Request, place: LoadPlace, token_hint: str) -> Word:
    """Raises Unsupported for a field or a token that is refused, NotReady, LoadFailed for all else; a cancel is
    obeyed."""
    limits = Limits(CALL_S, place.timeout_s, place.timeout_s)
    done = exchange(request.url, request.body, request.headers, limits, cancelled=place.cancelled)
    if done.end is not ExchangeEnd.COMPLETE:
        raise LoadFailed(_ENDED[done.end], _words_of(done, place))
    try:
        response = read_response(done.reads)
        if not response.is_good:
            _refuse(request, response, token_hint)
        events = stream_events(response)
    except RequestFailed as error:
        answered = error.cause is not Cause.STREAM_BROKEN  # else the words may be the model's own
        raise LoadFailed(cause_of_load(error.detail) if answered else Cause.LOAD_FAILED, error.detail) from error
    for chunk in request.decode(events):
        if chunk.error is not None:
            raise LoadFailed(cause_of_load(chunk.error), chunk.error)
    return Word(_fingerprint(events))


def _words_of(done: Exchange, place: LoadPlace) -> str:
    if done.end is ExchangeEnd.CANCELLED:
        return "cancelled while the model was loading"
    if _ENDED[done.end] is Cause.LOAD_TIMEOUT:
        return f"the server said no word within {place.timeout_s:g} s"
    return done.detail


def _refuse(request: Request, response: Response, token_hint: str) -> None:
    status, words, said = response.status, engine_words(response.body), refusal_words(response)
    if status in (401, 403):
        raise Unsupported(f"{said}; {token_hint}")
    if status in LATER:
        raise NotReady(said)
    sent = json.loads(request.body)
    named = [field for field in sent if field not in _STANDARD and field in words]
    if status in (400, 422) and named:
        raise Unsupported(f"the server refuses the field {named[0]}, without which it cannot be measured here: {said}")
    raise LoadFailed(cause_of_load(words), said)


def _fingerprint(events: Iterable[Event]) -> str | None:
    for event in events:
        try:
            found = whole(json.loads(event.data))
        except (ValueError, RecursionError):
            continue
        told = found.get("system_fingerprint") if isinstance(found, dict) else None
        if isinstance(told, str) and told:
            return told
    return None
