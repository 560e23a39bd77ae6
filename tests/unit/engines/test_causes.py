"""Engines' words for a request that they refuse -> causes."""

from __future__ import annotations

import pytest

from agents.contract.report import Cause
from agents.engines.causes import cause_of_request


@pytest.mark.parametrize(
    "words",
    [
        "The decoder prompt (length 9000) is longer than the maximum model length of 4096",  # vLLM
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000 `inputs` tokens",  # TGI
        "`inputs` must have less than 1024 tokens. Given: 9000",
        "Prompt length 9000 is greater than max_seq_len 4096",  # TabbyAPI
        "Job requires 36 pages (only 16 available) and cannot be enqueued",
        "Prompt tokens 9000 is larger than the model input length limit 4096",  # MLC
        "Prompt length (9000) should not exceed max_num_tokens (8192)",  # TensorRT-LLM
        "litellm.ContextWindowExceededError: 9000 tokens",
        "INPUT_LENGTH_ERROR",  # lmdeploy
        "prompt is too long: 9000 tokens > 4096 maximum",
        "This model's maximum context length is 4096 tokens",
    ],
)
def test_a_prompt_that_is_too_long(words: str) -> None:
    assert cause_of_request(f"HTTP 400: {words}") is Cause.PROMPT_TOO_LONG


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", Cause.VRAM),
        ("std::bad_alloc", Cause.RAM),
        ("unknown field: foo", Cause.REQUEST_REFUSED),
    ],
)
def test_another_reason(words: str, cause: Cause) -> None:
    assert cause_of_request(words) is cause
