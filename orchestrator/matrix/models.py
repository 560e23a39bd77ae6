"""Models: what one may be called in a matrix, its section under ``models``, and where its files come from. PURE

A login or a query in an address can be a secret: no message repeats it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, create_model, model_validator

from agents.contract.engines import engine_names
from agents.contract.job import TINY_NAMES, ModelSource
from agents.contract.web_address import file_name, is_web, names_one_file, shown, without_login
from orchestrator.matrix.parsers import WORD, MaybeName, Parsed, Section, parse_name
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
_ADDRESS_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^/\s]+/\S*\.[Gg][Gg][Uu][Ff]",
}
_SHA256_SCHEMA: dict[str, Any] = {"type": ["string", "number"], "pattern": "^[0-9A-Fa-f]{64}$"}
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


SOURCES = ("hf", "path", "url", "tiny")

_PLACE = re.compile(r"\{quantisation(_lower)?\}")
_FILE_NAME = re.compile(r"[^/\\*?\[\]]+\.gguf", re.IGNORECASE)


def _parse_tiny(text: str) -> str:
    if text not in TINY_NAMES:
        raise not_one_of(text, "a tiny model", TINY_NAMES)
    return text


def _parse_repo(text: str) -> str:
    if text.count("/") != 1 or not HF.fullmatch(f"hf:{text}"):
        raise BadValue(f"{quoted(text)} is not a Hugging Face repository. Allowed: OWNER/REPO")
    return text


_REPO = Parsed(_parse_repo, {"type": "string", "pattern": r"^[\w.-]+/[\w.-]+$"})
_TINY = Parsed(_parse_tiny, {"enum": list(TINY_NAMES)})
_ADDRESS = Parsed(parse_address, _ADDRESS_SCHEMA)
_SHA256 = Parsed(parse_sha256, _SHA256_SCHEMA)
_PROJECTOR = Parsed(lambda text: parse_address(text) if is_web(text) else parse_name(text), WORD)

_called: dict[str, Any] = {
    name: (MaybeName, Field(default=None, description=f"Name in {name}")) for name in engine_names()
}
EngineNamesSpec: Any = create_model("EngineNamesSpec", __base__=Section, **_called)


class ModelSpec(Section):
    hf: Annotated[str | None, _REPO] = Field(default=None, description="Hugging Face repository, OWNER/REPO")
    revision: MaybeName = Field(default=None, description="Branch, tag or commit of the repository")
    file: MaybeName = Field(
        default=None, description="File in the repository, or a glob; {quantisation} stands for the cell's"
    )
    path: MaybeName = Field(default=None, description="File on the device; {quantisation} stands for the cell's")
    url: Annotated[str | None, _ADDRESS] = Field(
        default=None, description="Address of a .gguf file, http:// or https://; {quantisation} stands for the cell's"
    )
    sha256: Annotated[str | None, _SHA256] = Field(
        default=None, description="SHA-256 of the file at url; of a split model: of its first part"
    )
    tiny: Annotated[str | None, _TINY] = Field(default=None, description="Tiny model that the device makes")
    mmproj: Annotated[str | None, _PROJECTOR] = Field(
        default=None,
        description="Vision projector: a file or glob in the repository, a path; with url an address, or a name beside",
    )
    names: EngineNamesSpec = Field(default_factory=EngineNamesSpec, description="What single engines call the model")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) > 1:
            raise BadValue(
                f"{' and '.join(given)} each say where the model comes from. Allowed: one of {', '.join(SOURCES)}"
            )
        if not given and not self.engine_names():
            raise BadValue(
                f"nothing says where the model comes from. Allowed: {', '.join(SOURCES)}, or names of engines"
            )
        if "hf" not in given and (self.file or self.revision):
            raise BadValue("file and revision belong to hf, which is not given")
        self._check_address()
        return self

    def _check_address(self) -> None:
        if self.url is None and self.sha256:
            raise BadValue("sha256 belongs to url, which is not given")
        if self.sha256 and self.url and "{quantisation" in self.url:
            raise BadValue(
                "sha256 is that of one file, but {quantisation} in url names several. Allowed: one of the two"
            )
        if self.mmproj is None or (self.url is None and not is_web(self.mmproj)):
            return
        if self.url is None:
            raise BadValue("mmproj is an address, which goes with url, which is not given")
        if not is_web(self.mmproj) and not _FILE_NAME.fullmatch(self.mmproj):
            raise BadValue(
                f"mmproj: {quoted(self.mmproj)} does not name one file. Allowed with url: an address, or the name of a"
                " .gguf file beside it"
            )

    def engine_names(self) -> tuple[tuple[str, str], ...]:
        pairs = ((name, getattr(self.names, name)) for name in self.names.model_fields_set)
        return tuple(sorted(pairs))


def named_source(spec: ModelSpec) -> ModelSource:
    return ModelSource(
        path=spec.path,
        hf_repo=spec.hf,
        hf_revision=spec.revision,
        hf_file=spec.file,
        tiny=spec.tiny,
        mmproj=spec.mmproj,
        url=spec.url,
        sha256=spec.sha256,
        engine_names=spec.engine_names(),
    )


def identity(source: ModelSource) -> ModelSource:
    """What of a source makes a cell another one: no login, and no address where the SHA-256 says which file it is."""
    if source.url is None:
        return source
    mmproj = without_login(source.mmproj) if source.mmproj and is_web(source.mmproj) else source.mmproj
    return replace(source, url=None if source.sha256 else without_login(source.url), mmproj=mmproj)


def has_files(source: ModelSource) -> bool:
    """Whether an engine that knows no names of its own can load it."""
    return bool(source.path or source.hf_repo or source.tiny or source.url)


def needs_quantisation(source: ModelSource) -> bool:
    return fill_quantisation(source, "") != source


def fill_quantisation(source: ModelSource, quantisation: str | None) -> ModelSource:
    """``{quantisation}`` replaced by the cell's, ``{quantisation_lower}`` by the same in small letters."""
    if quantisation is None:
        return source

    def fill(text: str | None) -> str | None:
        return text and _PLACE.sub(lambda found: quantisation.lower() if found[1] else quantisation, text)

    return replace(
        source,
        path=fill(source.path),
        url=fill(source.url),
        hf_file=fill(source.hf_file),
        mmproj=fill(source.mmproj),
        engine_names=tuple((engine, fill(name) or "") for engine, name in source.engine_names),
    )
