"""What a model and its quantisation may be called in a matrix, and the addresses of model files. PURE

A login or a query in an address can be a secret: no message repeats it.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from agents.contract.job import TINY_NAMES, ModelSource
from agents.contract.web_address import file_name, is_web, names_one_file, shown
from orchestrator.matrix.parsers import parse_name
from orchestrator.matrix.problems import BadValue, not_one_of, quoted

HF = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w./-]+))?")
_COMMON_QUANTISATIONS = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "IQ4_NL", "IQ4_XS", "IQ3_M", "IQ3_XXS", "IQ2_M", "MXFP4"),
)
_LLAMA_QUANTISATION = re.compile(
    r"(?:UD-)?(?:Q[2-8]_(?:[01](?:_\d_\d)?|K|K_(?:XS|S|M|L|XL))|IQ[1-4]_(?:NL|XXS|XS|S|M)|TQ[12]_0)"
)
_LOOKS_LIKE_LLAMA = re.compile(r"(?:UD-)?(?:I|T)?Q[0-9]", re.IGNORECASE)
_FREE_QUANTISATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")
_PATH = re.compile(r"(?:/|\./|\.\./|~/|[A-Za-z]:[\\/]).*|.*\.gguf", re.IGNORECASE)
ADDRESS_ALLOWED = "http:// or https://, a host, and a path that ends in .gguf; a query may follow"
ADDRESS_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^/\s]+/\S*\.[Gg][Gg][Uu][Ff]",
}
SHA256_SCHEMA: dict[str, Any] = {"type": ["string", "number"], "pattern": "^[0-9A-Fa-f]{64}$"}
_LONGEST = 8192  # a signed address can have some thousand characters


def parse_model(text: str) -> str:
    if text.startswith("tiny:") and text.removeprefix("tiny:") not in TINY_NAMES:
        raise not_one_of(text, "a tiny model", [f"tiny:{name}" for name in TINY_NAMES])
    if text.startswith("hf:") and not HF.fullmatch(text):
        raise BadValue(
            f"{quoted(text)} is not a Hugging Face name. Allowed: hf:OWNER/REPO, hf:OWNER/REPO/FILE.gguf,"
            " either with @REVISION"
        )
    return parse_literal_address(text) if is_web(text) else parse_name(text)


def parse_quantisation(text: str) -> str:
    """llama.cpp's own notation is checked and written in capitals; other engines' words pass as they stand."""
    upper = text.upper()
    if upper in _COMMON_QUANTISATIONS or _LLAMA_QUANTISATION.fullmatch(upper):
        return upper
    if _LOOKS_LIKE_LLAMA.match(text) or not _FREE_QUANTISATION.fullmatch(text):
        raise not_one_of(
            text, "a quantisation", _COMMON_QUANTISATIONS, also="or another engine's word such as 4bit, AWQ"
        )
    return text


def literal_source(model: str) -> ModelSource:
    """``tiny:ARCH``, ``hf:OWNER/REPO[/FILE][@REVISION]``, an address, a path; else the engine's own name."""
    if model.startswith("tiny:"):
        return ModelSource(tiny=model.removeprefix("tiny:"))
    if found := HF.fullmatch(model):
        return ModelSource(hf_repo=found["repo"], hf_file=found["file"], hf_revision=found["revision"])
    if is_web(model):
        return ModelSource(url=model)
    return ModelSource(path=model) if _PATH.fullmatch(model) else ModelSource()


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
