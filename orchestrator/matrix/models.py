"""A section under ``models``: where a model's files come from, and what engines call it. PURE"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Self

from pydantic import Field, create_model, model_validator

from agents.contract.job import TINY_NAMES, ModelSource
from agents.contract.web_address import is_web, without_login
from orchestrator.matrix.axes import ENGINES
from orchestrator.matrix.model_names import ADDRESS_SCHEMA, HF, SHA256_SCHEMA, parse_address, parse_sha256
from orchestrator.matrix.parsers import WORD, MaybeName, Parsed, Section, parse_name
from orchestrator.matrix.problems import BadValue, not_one_of, quoted

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


def _parse_projector(text: str) -> str:
    return parse_address(text) if is_web(text) else parse_name(text)


_REPO = Parsed(_parse_repo, {"type": "string", "pattern": r"^[\w.-]+/[\w.-]+$"})
_TINY = Parsed(_parse_tiny, {"enum": list(TINY_NAMES)})
_ADDRESS = Parsed(parse_address, ADDRESS_SCHEMA)
_SHA256 = Parsed(parse_sha256, SHA256_SCHEMA)
_PROJECTOR = Parsed(_parse_projector, WORD)

_called: dict[str, Any] = {name: (MaybeName, Field(default=None, description=f"Name in {name}")) for name in ENGINES}
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
