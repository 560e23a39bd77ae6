"""Addresses of model files on the web: what of them may be shown, and what names the file. PURE

A login (``user:pw@``) and the values of a query can be secrets: they go to the server alone.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

_FILE_NAME = re.compile(r"[^./\\][^/\\]{0,199}\.gguf", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)


def is_web(text: str) -> bool:
    return _WEB.match(text) is not None


def shown(url: str) -> str:
    """The address for people: no login; of a query only that there is one."""
    if not is_web(url):
        return url.rpartition("@")[2].partition("?")[0]
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=_host(parts), query="..." if parts.query else "", fragment="").geturl()
    except ValueError:
        return "an address that cannot be read"


def without_login(url: str) -> str:
    """The address as the server hears it, but for login and fragment. Raises ValueError where it is none."""
    parts = urlsplit(url)
    return parts._replace(netloc=_host(parts), fragment="").geturl()


def login_of(url: str) -> tuple[str, str] | None:
    """User and password, where the address has them."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def key_of(url: str) -> str:
    """SHA-256 of the address without its login, hex: names it without telling it."""
    return hashlib.sha256(without_login(url).encode()).hexdigest()


def file_name(url: str) -> str:
    """Name of the file, as a path's last part: ``https://host/a/b.gguf?x=1`` -> ``b.gguf``."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def names_one_file(name: str) -> bool:
    """Whether ``name`` is that of a .gguf file, without a folder: it comes from elsewhere, and is written to a disk."""
    return _FILE_NAME.fullmatch(name) is not None and name.isprintable()


def beside(url: str, name: str) -> str:
    """The address of ``name`` in the same folder, with the same login and query."""
    parts = urlsplit(url)
    folder = parts.path.rpartition("/")[0]
    return parts._replace(path=f"{folder}/{quote(name)}").geturl()


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]
