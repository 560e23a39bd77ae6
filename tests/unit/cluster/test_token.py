from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import pytest

from orchestrator.cluster.token import ensure_token, take_token
from orchestrator.errors import UsageError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
TOKEN = "c0ffee" * 8


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the token belongs, on a host that has none yet."""
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return tmp_path / ".ray" / "auth_token"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_head_makes_one_that_only_its_owner_reads_whatever_the_umask(place: Path) -> None:
    before = os.umask(0)
    try:
        assert ensure_token() == place
    finally:
        os.umask(before)
    assert mode(place) == 0o600
    assert mode(place.parent) == 0o700
    assert len(place.read_text()) == 64
    assert list(place.parent.iterdir()) == [place]


def test_a_head_keeps_what_is_there_and_mends_its_mode(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place.parent.mkdir()
    place.write_text(TOKEN)
    place.chmod(0o644)
    ensure_token()
    assert place.read_text() == TOKEN
    assert mode(place) == 0o600
    said = capsys.readouterr()
    assert str(place) in said.err
    assert TOKEN not in said.err + said.out


def test_two_heads_have_two_tokens(place: Path) -> None:
    first = ensure_token().read_text()
    place.unlink()
    assert ensure_token().read_text() != first


def test_a_device_takes_it_from_a_file(place: Path, tmp_path: Path) -> None:
    (tmp_path / "brought").write_text(f"{TOKEN}\n")
    take_token(str(tmp_path / "brought"))
    assert place.read_text() == TOKEN
    assert mode(place) == 0o600


def test_a_device_takes_it_from_standard_input(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TOKEN}\nmore"))
    take_token("-")
    assert place.read_text() == TOKEN


def test_a_device_asks_for_it_on_a_terminal(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: TOKEN)
    take_token(None)
    assert place.read_text() == TOKEN


def test_a_device_uses_what_lies_there(place: Path) -> None:
    place.parent.mkdir()
    place.write_text(TOKEN)
    assert take_token(None) == place


def test_without_a_token_a_device_says_how_to_get_one(place: Path) -> None:
    with pytest.raises(UsageError, match=r"auth_token.*--token-file"):
        take_token(None)
    assert not place.exists()


@pytest.mark.parametrize("bad", ["", "short", f"{TOKEN} {TOKEN}", f"é{TOKEN}", TOKEN * 20])
def test_what_is_no_token_is_refused_and_not_repeated(place: Path, tmp_path: Path, bad: str) -> None:
    (tmp_path / "brought").write_text(bad, encoding="utf-8")
    with pytest.raises(UsageError, match="Allowed: one word") as error:
        take_token(str(tmp_path / "brought"))
    assert TOKEN not in str(error.value)
    assert not place.exists()


def test_a_file_that_is_not_there_is_named(place: Path) -> None:
    with pytest.raises(UsageError, match="--token-file nowhere"):
        take_token("nowhere")


def test_ray_s_own_variable_for_the_place_is_followed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
    assert ensure_token() == tmp_path / "elsewhere"
    assert not place.exists()


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", TOKEN)])
def test_variables_that_ray_would_follow_instead_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    for take in (ensure_token, lambda: take_token(None)):
        with pytest.raises(UsageError, match=name) as error:
            take()
        assert TOKEN not in str(error.value)
