"""The tiny models in the real engine: each loads in llama.cpp, and greedy text is words without end."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from agents.models.store.files import ModelFiles
from agents.models.tiny.make import QUANTISATIONS, make_tiny

SERVE = """
import json, os, sys
import xllamacpp
model, mmproj = json.loads(sys.argv[1])
settings = xllamacpp.CommonParams()
settings.model.path = model
if mmproj:
    settings.mmproj.path = mmproj
settings.n_ctx = 1024
settings.fit_params = False
settings.cache_ram_mib = 0
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(settings)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""


@contextmanager
def served(files: ModelFiles, log: Path) -> Iterator[httpx.Client]:
    """A client of llama.cpp with ``files`` loaded, in a child process on a free port of the loopback."""
    names = json.dumps([str(files.path), str(files.mmproj) if files.mmproj else None])
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", SERVE, names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "GOMP_SPINCOUNT": "1000"},
        ) as child,
    ):
        try:
            assert child.stdout is not None
            address = child.stdout.readline().decode().strip()
            assert address, f"the engine did not come up: {log.read_text(errors='replace')[-2000:]}"
            with httpx.Client(base_url=address, headers={"Connection": "close"}, timeout=60) as client:
                yield client
        finally:
            child.kill()


def completion(client: httpx.Client, prompt: str, count: int) -> str:
    answer = client.post(
        "/completion", json={"prompt": prompt, "n_predict": count, "temperature": 0, "cache_prompt": False}
    )
    answer.raise_for_status()
    body = answer.json()
    assert body["tokens_predicted"] == count  # not ended by an end-of-text token
    text: str = body["content"]
    return text


SMALL = [(name, kind) for name in ("llama", "qwen3moe", "deepseek2", "qwen3vl") for kind in ("F16", "Q8_0", "Q4_0")]
OTHER_TYPES = [("llama", kind) for kind in QUANTISATIONS if kind not in ("F16", "Q8_0", "Q4_0")]


@pytest.mark.parametrize(("name", "quantisation"), SMALL + OTHER_TYPES)
def test_it_loads_and_generates_words_without_end(name: str, quantisation: str, tmp_path: Path) -> None:
    files = make_tiny(name, quantisation, tmp_path)
    with served(files, tmp_path / "log") as client:
        text = completion(client, "Which device is best, and why?", 32)
        words = text.split(" ")
        assert words[0] == "" and len(words) == 33  # every token is a space and four syllables
        assert all(len(word) == 8 and word.isascii() and word.isalpha() for word in words[1:])
        assert len(set(words)) > 2  # not one word over and over
        assert completion(client, "Which device is best, and why?", 32) == text


def test_a_prompt_matters(tmp_path: Path) -> None:
    with served(make_tiny("llama", "F16", tmp_path), tmp_path / "log") as client:
        assert completion(client, "one prompt", 16) != completion(client, "another prompt", 16)


def test_qwen3vl_answers_about_an_image_and_sees_it(tmp_path: Path) -> None:
    files = make_tiny("tiny:qwen3vl", "Q8_0", tmp_path)
    assert files.mmproj is not None
    with served(files, tmp_path / "log") as client:
        text_only, _ = described(client, None)
        red_tokens, red = described(client, png_of((255, 0, 0)))
        blue_tokens, blue = described(client, png_of((0, 60, 200)))
        assert red_tokens == blue_tokens >= text_only + 16  # 128 x 128 pixels, 32 x 32 a token
        assert red and blue and red != blue


def described(client: httpx.Client, png: bytes | None) -> tuple[int, str]:
    """Prompt tokens, and the answer."""
    parts: list[dict[str, object]] = [{"type": "text", "text": "What is it?"}]
    if png is not None:
        url = "data:image/png;base64," + base64.b64encode(png).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    question = {"messages": [{"role": "user", "content": parts}], "max_tokens": 16, "temperature": 0}
    answer = client.post("/v1/chat/completions", json=question)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["usage"]["prompt_tokens"], body["choices"][0]["message"]["content"]


def png_of(colour: tuple[int, int, int], side: int = 128) -> bytes:
    """A PNG of one colour, ``side`` pixels square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
