"""The token that opens the cluster: made on the head, brought to each device, never shown."""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

from orchestrator.cluster.environment import token_file
from orchestrator.cluster.private_files import mend_mode, write_private
from orchestrator.errors import UsageError

_TOKEN = re.compile(r"[!-~]{16,512}")  # one word: a token is sent in a header


def ensure_token() -> Path:
    """The head's: made if there is none. Raises OrchestrateError, UsageError."""
    _check_variables()
    path = token_file()
    if not path.exists():
        write_private(path, secrets.token_hex(32).encode())
    _checked(_read(path), str(path))
    mend_mode(path)
    return path


def take_token(source: str | None) -> Path:
    """A device's: from a file, from stdin (``-``), from where it lies already, or typed. Raises UsageError."""
    _check_variables()
    path = token_file()
    if source == "-":
        write_private(path, _checked(sys.stdin.readline(), "standard input"))
    elif source is not None:
        write_private(path, _checked(_read(Path(source).expanduser()), source))
    elif not path.exists():
        if not sys.stdin.isatty():
            raise UsageError(
                f"no token: {path} is not there. Copy it from the head (mode 600), or give --token-file FILE,"
                " or --token-file - to read it from standard input"
            )
        import getpass

        typed = getpass.getpass("token of the cluster (on the head: ~/.ray/auth_token): ")
        write_private(path, _checked(typed, "what was typed"))
    _checked(_read(path), str(path))
    mend_mode(path)
    return path


def _check_variables() -> None:
    """Ray would follow them rather than the file. Raises UsageError."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode.lower() != "token":
        raise UsageError(f"RAY_AUTH_MODE is {mode!r} in the environment: unset it, or give --no-token")
    if os.environ.get("RAY_AUTH_TOKEN"):
        raise UsageError(
            "RAY_AUTH_TOKEN is set, which every process here inherits: unset it, and have the token in a file"
            " (--token-file FILE, or RAY_AUTH_TOKEN_PATH)"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise UsageError(f"--token-file {path}: cannot be read: {error.strerror or error}") from error


def _checked(text: str, where: str) -> bytes:
    """The token, which is in no message. Raises UsageError."""
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"{where} holds no token. Allowed: one word of 16 to 512 printable ASCII characters")
    return token.encode()
