"""``tiny:...``: real models with random weights, made on the device, the same bytes on every device.

They load and run like any other and know no language. The small ones (4 to 40 MB) try a device, an engine or a matrix
out in seconds; ``llama-0.6b`` is large enough for figures that mean something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.files import atomic_file
from agents.models.gguf.check import GgufFacts, check_gguf
from agents.models.progress import Notify
from agents.models.store.disk import locked, need_room, os_errors_named, record_sha256, sha256_of
from agents.models.store.files import MissingFile, ModelFiles
from agents.models.tiny.architectures import (
    Experts,
    LatentAttention,
    Transformer,
    Vision,
    deepseek2,
    llama,
    qwen3moe,
    qwen3vl,
    qwen3vl_projector,
)
from agents.models.tiny.plan import ModelPlan
from agents.units import format_size

GENERATOR = 1
"""Goes up with every change of a byte in a file made here: it is part of the files' names, so that none is mixed up."""

QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
PROJECTOR_TYPE = "F16"  # the image encoder's convolutions have no other


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A model that can be made. ``plan`` is a function because a vocabulary of 32,768 words is not made for nothing."""

    name: str
    plan: Callable[[], ModelPlan]
    quantisation: str = "F16"  # where none is asked for
    projector: Callable[[], ModelPlan] | None = None


_SMALL = Transformer()
_LARGE = Transformer(layers=20, width=1536, heads=24, kv_heads=4, head_size=64, ffn_width=4608, vocabulary=32_768)
_MOE = Transformer(ffn_width=512)
_MLA = Transformer(ffn_width=512, kv_heads=1)

TINY_MODELS: tuple[TinyModel, ...] = (
    TinyModel("llama", lambda: llama(_SMALL)),
    TinyModel("qwen3moe", lambda: qwen3moe(_MOE, Experts())),
    TinyModel("deepseek2", lambda: deepseek2(_MLA, Experts(), LatentAttention())),
    TinyModel(
        "qwen3vl",
        lambda: qwen3vl(_SMALL, deepstack_layers=1),
        projector=lambda: qwen3vl_projector(Vision(), _SMALL.width),
    ),
    TinyModel("llama-0.6b", lambda: llama(_LARGE), quantisation="Q4_0"),
)


def make_tiny(name: str, quantisation: str | None, directory: Path, notify: Notify = lambda _: None) -> ModelFiles:
    """The files of ``tiny:NAME`` (NAME alone will do) in ``directory``; made where they are not there yet.

    Raises LoadFailed: MODEL_FILE_MISSING for a name or a quantisation that cannot be made, DISK_FULL.
    """
    model = _model(name)
    quantisation = _quantisation(quantisation, model)
    path, facts, sha256 = _made(f"tiny-{model.name}", model.plan, quantisation, directory, notify)
    mmproj = None
    if model.projector is not None:
        mmproj, _, _ = _made(f"tiny-{model.name}-mmproj", model.projector, PROJECTOR_TYPE, directory, notify)
    return ModelFiles(path, mmproj, facts, sha256)


def missing_files(name: str, quantisation: str | None, directory: Path) -> tuple[MissingFile, ...]:
    """What ``make_tiny`` would make. Raises LoadFailed as it does."""
    from agents.models.tiny.writer import file_bytes

    model = _model(name)
    wanted = [(f"tiny-{model.name}", model.plan, _quantisation(quantisation, model))]
    if model.projector is not None:
        wanted.append((f"tiny-{model.name}-mmproj", model.projector, PROJECTOR_TYPE))
    return tuple(
        MissingFile(path, file_bytes(plan(), file_name, kind, GENERATOR))
        for file_name, plan, kind in wanted
        if _facts_of_made(path := _path_of(directory, file_name, kind)) is None
    )


def _path_of(directory: Path, name: str, quantisation: str) -> Path:
    return directory / f"{name}-{quantisation}.g{GENERATOR}.gguf"


def _model(name: str) -> TinyModel:
    bare = name.lower().removeprefix("tiny:")
    for model in TINY_MODELS:
        if model.name == bare:
            return model
    names = ", ".join(f"tiny:{model.name}" for model in TINY_MODELS)
    raise LoadFailed(Cause.MODEL_FILE_MISSING, f"there is no tiny:{bare}; there are {names}")


def _quantisation(asked: str | None, model: TinyModel) -> str:
    wanted = (asked or model.quantisation).upper()
    if wanted not in QUANTISATIONS:
        raise LoadFailed(
            Cause.MODEL_FILE_MISSING,
            f"tiny:{model.name} cannot be made as {asked}: K-quants and I-quants need llama.cpp's own quantiser; "
            f"allowed are {', '.join(QUANTISATIONS)}",
        )
    return wanted


def _made(
    name: str, plan: Callable[[], ModelPlan], quantisation: str, directory: Path, notify: Notify
) -> tuple[Path, GgufFacts, str]:
    path = _path_of(directory, name, quantisation)
    with os_errors_named(f"cannot make {path}"):
        facts = _facts_of_made(path)
        if facts is None:
            directory.mkdir(parents=True, exist_ok=True)
            with locked(path, notify):
                facts = _facts_of_made(path) or _make(path, name, plan(), quantisation, notify)
        return path, facts, sha256_of(path, notify)


def _facts_of_made(path: Path) -> GgufFacts | None:
    """None: not there, or cut off by something that is not this program."""
    try:
        return check_gguf(path)
    except LoadFailed:
        return None


def _make(path: Path, name: str, plan: ModelPlan, quantisation: str, notify: Notify) -> GgufFacts:
    from agents.models.tiny.writer import file_bytes, write

    size_bytes = file_bytes(plan, name, quantisation, GENERATOR)
    need_room(path.parent, size_bytes, path.name)
    notify(f"making {path.name}, {format_size(size_bytes)}")
    with atomic_file(path) as file:
        sha256 = write(file, plan, name, quantisation, GENERATOR)
    record_sha256(path, sha256)
    return check_gguf(path)
