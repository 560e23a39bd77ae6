"""Control calls: what an answer that is none means, and whose words the cause is read from."""

from __future__ import annotations

import httpx
import pytest

from agents.contract.report import Cause
from agents.engines.http_api import Api, ApiError


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


@pytest.mark.parametrize(("status", "away"), [(503, True), (500, False), (404, False), (401, False)])
def test_a_server_that_is_not_ready_is_away(status: int, away: bool) -> None:
    with pytest.raises(ApiError) as caught:
        answering(status, "no").get("/health")
    assert caught.value.away is away


def test_a_server_that_is_not_there_is_away_and_a_load_on_it_lost() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused")

    with pytest.raises(ApiError, match=r"^http://engine does not answer: Connection refused$") as caught:
        Api("http://engine", transport=httpx.MockTransport(refuse)).get("/health")
    assert caught.value.away and caught.value.as_failed_load().cause is Cause.ENGINE_LOST


def test_a_token_that_no_header_can_hold_is_not_sent() -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json={})

    for token in ("secret", "schlüssel"):
        Api("http://engine", token, httpx.MockTransport(answer)).get("/health")
    assert seen == ["Bearer secret", None]
