"""Addresses of model files at the door. A login or a query in one can be a secret: no message repeats it. PURE"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from agents.contract.web_address import file_name, is_web, names_one_file, shown
from orchestrator.matrix.problems import BadValue, quoted

ADDRESS_ALLOWED = "http:// or https://, a host, and a path that ends in .gguf; a query may follow"
ADDRESS_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^/\s]+/\S*\.[Gg][Gg][Uu][Ff]",
}
SHA256_SCHEMA: dict[str, Any] = {"type": ["string", "number"], "pattern": "^[0-9A-Fa-f]{64}$"}
_LONGEST = 8192  # a signed address can have some thousand characters


def parse_address(text: str) -> str:
    """The address of one .gguf file, as it stands."""
    if not _is_address(text):
        raise BadValue(f"{quoted(shown(text))} is not the address of a model file. Allowed: {ADDRESS_ALLOWED}")
    return text


def parse_literal_address(text: str) -> str:
    """An address that is the model's name too: it stands in tables and messages, so it holds nothing to hide."""
    parse_address(text)
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadValue(
            f"{quoted(text)} comes with a login or a query, and a model's name stands in tables and messages."
            " Allowed: a name here, and the address under models: {NAME: {url: ...}}"
        )
    return text


def parse_sha256(text: str) -> str:
    if not re.fullmatch("[0-9A-Fa-f]{64}", text):
        raise BadValue(f"{quoted(text)} is not a SHA-256. Allowed: 64 hex digits")
    return text.lower()


def _is_address(text: str) -> bool:
    if not is_web(text) or len(text) > _LONGEST or not text.isprintable() or re.search(r"\s", text):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and (parts.port or 1) > 0 and names_one_file(file_name(text))
    except ValueError:  # a port that is no number, a bracket too many
        return False
