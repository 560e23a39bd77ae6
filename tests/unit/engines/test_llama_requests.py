from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.job import Chat, Image, Sampling, Stop, Synthetic, Workload
from agents.engines.base import Request
from agents.engines.llama.requests import llama_request
from agents.engines.stream.chunks import llama_completion_chunks, openai_chat_chunks

URL = "http://127.0.0.1:8080"


def request(workload: Workload, nonce: int = 0, n_vocab: int = 2048) -> Request:
    return llama_request(URL, workload, n_vocab, nonce)


def body_of(workload: Workload, nonce: int = 0) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request(workload, nonce).body)
    return body


def test_a_chat() -> None:
    made = request(Chat("hello", "Say hello.", 32, system="Be short."))
    assert made.url == f"{URL}/v1/chat/completions"
    assert json.loads(made.body) == {
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say hello."}],
        "max_tokens": 32,
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,
        "cache_prompt": False,
        "ignore_eos": False,
        "seed": 0,
        "temperature": 0.0,
    }
    assert made.decode is openai_chat_chunks
    assert (made.prime, made.expected_cached_tokens, made.expected_tokens) == (None, 0, None)


def test_an_exact_chat_ignores_the_end_of_text_and_expects_its_count() -> None:
    made = request(Chat("hello", "Say hello.", 32, stop=Stop.EXACT))
    assert json.loads(made.body)["ignore_eos"] is True
    assert made.expected_tokens == 32
    assert len(json.loads(made.body)["messages"]) == 1


def test_an_image_goes_before_the_text_as_a_data_url() -> None:
    image = Image("cat.png", "image/png", 2, 2, "aGVsbG8=")
    (message,) = body_of(Chat("cat", "What is it?", 8, image=image))["messages"]
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}},
        {"type": "text", "text": "What is it?"},
    ]


@pytest.mark.parametrize("workload", [Chat("c", "x", 4), Synthetic("s", 4, 4)])
def test_only_the_sampling_that_is_set_is_sent(workload: Chat | Synthetic) -> None:
    names = {"seed", "temperature", "top_k", "top_p", "min_p", "repeat_penalty"}
    assert names & body_of(workload).keys() == {"seed", "temperature"}
    sampling = Sampling(7, 0.5, 40, 0.9, 0.05, 1.1)
    whole = body_of(type(workload)(**{**fields_of(workload), "sampling": sampling}))
    assert {name: whole[name] for name in names} == {
        "seed": 7,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
    }


def fields_of(workload: Chat | Synthetic) -> dict[str, Any]:
    return {name: getattr(workload, name) for name in workload.__dataclass_fields__}


@pytest.mark.parametrize(
    ("workload", "prompt", "generate", "prime", "cached"),
    [
        (Synthetic("pp512", prompt_tokens=512), 512, 1, None, 0),  # one token ends the prompt
        (Synthetic("tg128", generate_tokens=128), 1, 128, None, 0),  # one token starts it
        (Synthetic("pp64+tg32", 64, 32), 64, 32, None, 0),
        (Synthetic("tg32 @ d256", generate_tokens=32, depth=256), 256, 32, None, 0),  # depth is simply the prompt
        (Synthetic("pp64 @ d256", prompt_tokens=64, depth=256), 320, 1, 256, 256),
        (Synthetic("pp64+tg8 @ d256", 64, 8, 256), 320, 8, 256, 256),
    ],
)
def test_synthetic_shapes(workload: Synthetic, prompt: int, generate: int, prime: int | None, cached: int) -> None:
    made = request(workload)
    body = json.loads(made.body)
    assert made.url == f"{URL}/completion"
    assert made.decode is llama_completion_chunks
    assert (len(body["prompt"]), body["n_predict"]) == (prompt, generate)
    assert (body["ignore_eos"], body["stream"], body["id_slot"]) == (True, True, 0)
    assert (made.expected_tokens, made.expected_cached_tokens) == (generate, cached)
    assert body["cache_prompt"] is (prime is not None)
    if prime is None:
        assert made.prime is None
    else:
        assert made.prime is not None
        first = json.loads(made.prime)
        assert (first["prompt"], first["n_predict"], first["cache_prompt"]) == (body["prompt"][:prime], 0, True)


@given(
    n_vocab=st.integers(2, 300_000),
    nonce=st.integers(0, 100),
    seed=st.integers(0, 2**32),
    sizes=st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)),
)
def test_ids_lie_in_the_vocabulary_and_follow_from_seed_and_nonce_alone(
    n_vocab: int, nonce: int, seed: int, sizes: tuple[int, int, int]
) -> None:
    work = Synthetic("s", *sizes, sampling=Sampling(seed=seed))
    made = request(work, nonce, n_vocab)
    prompt = json.loads(made.body)["prompt"]
    assert len(prompt) == max(1, sizes[0] + sizes[2])
    assert all(0 <= each < n_vocab for each in prompt)
    again = request(work, nonce, n_vocab)
    assert (again.body, again.prime) == (made.body, made.prime)


def test_other_nonces_and_other_seeds_make_other_prompts() -> None:
    prompts = [
        body_of(Synthetic("s", 64, sampling=Sampling(seed)), nonce)["prompt"] for seed in (0, 1) for nonce in range(9)
    ]
    firsts = [tuple(prompt[:4]) for prompt in prompts]
    assert len(set(firsts)) == len(firsts)  # they part at once: no cache holds a common beginning


def test_the_depth_does_not_change_what_a_nonce_draws_first() -> None:
    """Prompts of two sizes share their beginning: what a longer one adds is all that differs."""
    short, long = (body_of(Synthetic("s", size))["prompt"] for size in (16, 64))
    assert long[:16] == short
