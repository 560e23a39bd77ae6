"""What of an address may be shown, and what names the file."""

from __future__ import annotations

import pytest

from agents.contract.web_address import (
    beside,
    file_name,
    is_web,
    key_of,
    login_of,
    names_one_file,
    shown,
    without_login,
)

FULL = "https://annie:p%40ss@host.org:8443/a/b%20c.gguf?token=s3cr3t#part"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (FULL, "https://host.org:8443/a/b%20c.gguf?..."),
        ("http://host/m-{quantisation}.gguf", "http://host/m-{quantisation}.gguf"),
        ("https://annie:p@host/m.gguf", "https://host/m.gguf"),
        ("HTTPS://annie:p@ss@host/m.gguf", "https://host/m.gguf"),
        ("http://annie:pw@[::1/m.gguf", "an address that cannot be read"),
        ("annie:pw@host/m.gguf?token=s3cr3t", "host/m.gguf"),
    ],
)
def test_what_is_shown(url: str, words: str) -> None:
    assert shown(url) == words


def test_the_parts_of_an_address() -> None:
    assert without_login(FULL) == "https://host.org:8443/a/b%20c.gguf?token=s3cr3t"
    assert login_of(FULL) == ("annie", "p@ss")
    assert login_of("https://token@host/m.gguf") == ("token", "")
    assert login_of("https://host/m.gguf") is None
    assert file_name(FULL) == "b c.gguf"
    assert beside(FULL, "d e.gguf") == "https://annie:p%40ss@host.org:8443/a/d%20e.gguf?token=s3cr3t#part"
    assert [is_web(text) for text in (FULL, "HTTP://x", "ftp://x", "httpx", "/http://x")] == [True, True, *[False] * 3]


def test_a_key_is_the_same_with_any_login_and_another_with_another_query() -> None:
    bare = key_of("https://host.org:8443/a/b%20c.gguf?token=s3cr3t")
    assert key_of(FULL) == bare != key_of(FULL.replace("s3cr3t", "other"))
    assert len(bare) == 64


@pytest.mark.parametrize("name", ["m.gguf", "M-Q4_0.GGUF", "a b (1).gguf", "模型.gguf", "x" * 200 + ".gguf"])
def test_names_of_files(name: str) -> None:
    assert names_one_file(name)


@pytest.mark.parametrize(
    "name", ["", ".gguf", ".m.gguf", "a/m.gguf", "a\\m.gguf", "m.bin", "m\n.gguf", "\0.gguf", "x" * 300]
)
def test_what_names_no_file(name: str) -> None:
    assert not names_one_file(name)
