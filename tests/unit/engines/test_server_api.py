"""Control calls: what an answer that is none means, and whose words the cause is read from."""

from __future__ import annotations

import httpx
import pytest

from agents.contract.report import Cause
from agents.engines.server.api import Api, ApiError
from agents.errors import EngineAway, NotReady, Unsupported


def answering(status: int, text: str) -> Api:
    return Api("http://engine", transport=httpx.MockTransport(lambda request: httpx.Response(status, text=text)))


@pytest.mark.parametrize(
    ("path", "status", "text", "cause"),
    [
        ("/models/load", 404, "Not Found", Cause.LOAD_FAILED),  # "models" is the path's word
        ("/models/load", 500, '{"error": "device not found"}', Cause.LOAD_FAILED),
        ("/api/v1/models/load", 404, '{"error": "model qwen not found"}', Cause.MODEL_FILE_MISSING),
        ("/load", 500, '{"error": "cudaMalloc failed: out of memory"}', Cause.VRAM),
        ("/load", 500, "", Cause.LOAD_FAILED),
    ],
)
def test_the_cause_of_a_refused_load_is_in_the_engines_own_words(
    path: str, status: int, text: str, cause: Cause
) -> None:
    with pytest.raises(ApiError) as caught:
        answering(status, text).post(path, {})
    assert caught.value.as_failed_load().cause is cause
    assert caught.value.as_failed_load().detail.startswith(f"POST {path}: HTTP {status}")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, NotReady), (429, NotReady), (500, Unsupported), (404, Unsupported), (401, Unsupported)],
)
def test_a_server_that_is_not_ready_is_asked_again(status: int, kind: type[Unsupported]) -> None:
    with pytest.raises(ApiError) as caught:
        answering(status, "no").get("/health")
    assert type(caught.value.as_refusal("no")) is kind


def test_a_redirect_is_not_followed_and_says_where_to() -> None:
    elsewhere = httpx.MockTransport(lambda _: httpx.Response(307, headers={"location": "https://there/v1/models"}))
    with pytest.raises(ApiError, match=r"HTTP 307 to https://there/v1/models"):
        Api("http://engine", transport=elsewhere).get("/v1/models")


def test_texts_are_made_of_whole_characters() -> None:
    assert answering(200, '{"owned_by\\ud800": ["a\\udfff", 1]}').get("/v1/models") == {
        "owned_by\ufffd": ["a\ufffd", 1]
    }


def test_a_server_that_is_not_there_is_away_and_a_load_on_it_lost() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused")

    with pytest.raises(ApiError, match=r"^http://engine does not answer: Connection refused$") as caught:
        Api("http://engine", transport=httpx.MockTransport(refuse)).get("/health")
    assert type(caught.value.as_refusal("no")) is EngineAway
    assert caught.value.as_failed_load().cause is Cause.ENGINE_LOST


def test_a_token_that_no_header_can_hold_is_not_sent() -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json={})

    for token in ("secret", "schlüssel"):
        Api("http://engine", token, httpx.MockTransport(answer)).get("/health")
    assert seen == ["Bearer secret", None]
