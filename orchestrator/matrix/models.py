"""Where a model's files come from: a section under ``models``, or the value of the axis itself. PURE"""

from __future__ import annotations

import re
from dataclasses import replace

from agents.contract.job import ModelSource
from agents.contract.web_address import is_web, without_login
from orchestrator.matrix.axes import HF
from orchestrator.matrix.model_spec import ModelSpec

_PATH = re.compile(r"(?:/|\./|\.\./|~/|[A-Za-z]:[\\/]).*|.*\.gguf", re.IGNORECASE)
_PLACE = re.compile(r"\{quantisation(_lower)?\}")


def literal_source(model: str) -> ModelSource:
    """``tiny:ARCH``, ``hf:OWNER/REPO[/FILE][@REVISION]``, an address, a path; else the engine's own name."""
    if model.startswith("tiny:"):
        return ModelSource(tiny=model.removeprefix("tiny:"))
    if found := HF.fullmatch(model):
        return ModelSource(hf_repo=found["repo"], hf_file=found["file"], hf_revision=found["revision"])
    if is_web(model):
        return ModelSource(url=model)
    return ModelSource(path=model) if _PATH.fullmatch(model) else ModelSource()


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
