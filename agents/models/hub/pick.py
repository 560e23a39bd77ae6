"""Which files of a repository are meant. PURE"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.gguf.check import SPLIT_NAME

_ALIASES = {"F16": ("F16", "FP16"), "F32": ("F32", "FP32")}
_NOT_MODELS = ("mmproj", "imatrix")
_NAMES_SHOWN = 30


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. ``sha256`` is None where it is not stored as a large file: no GGUF is."""

    path: str
    size_bytes: int
    sha256: str | None

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


def pick_model(
    files: Sequence[RemoteFile], repo: str, file: str | None, quantisation: str | None
) -> tuple[RemoteFile, ...]:
    """The one model meant: one file, or all parts of a split one in order.

    ``file``, a name or a glob, decides where it is given; else the quantisation, a whole word of the file's name
    (Q4_K is not in Q4_K_M, Q4_NL not in IQ4_NL); else there must be one model alone. Upper and lower case are the same.
    Raises LoadFailed(MODEL_FILE_MISSING), with what there is, for none and for more than one.
    """
    models = _models([one for one in files if _is_gguf(one)])
    if file is not None:
        found = _models(
            [one for one in files if _is_gguf(one) and _named(one, file)], keep_all="mmproj" in file.lower()
        )
        wanted = f"matches {file!r}"
    elif quantisation is not None:
        found = [model for model in models if _has_word(model[0].name, quantisation)]
        found = found or [model for model in models if _has_word(model[0].path, quantisation)]
        wanted = f"has {quantisation!r} in its name"
    else:
        found, wanted = models, "is there, and neither a file nor a quantisation is asked for"
    if not found:
        raise LoadFailed(
            Cause.MODEL_FILE_MISSING, f"hf:{repo}: no model file {wanted}; {_listed([one[0] for one in models])}"
        )
    if len(found) > 1:
        raise LoadFailed(
            Cause.MODEL_FILE_MISSING,
            f"hf:{repo}: more than one model file {wanted}: name one; {_listed([one[0] for one in found])}",
        )
    return _whole(found[0], files, repo)


def pick_mmproj(files: Sequence[RemoteFile], repo: str, wanted: str) -> RemoteFile:
    """The one file that ``wanted``, a name or a glob, matches. Raises as ``pick_model``."""
    candidates = [one for one in files if _is_gguf(one)]
    found = [one for one in candidates if _named(one, wanted)]
    if len(found) != 1:
        shown = found or [one for one in candidates if "mmproj" in one.name.lower()]
        raise LoadFailed(
            Cause.MODEL_FILE_MISSING,
            f"hf:{repo}: {len(found) or 'no'} vision projectors match {wanted!r}; {_listed(shown)}",
        )
    return found[0]


def _is_gguf(file: RemoteFile) -> bool:
    return file.path.lower().endswith(".gguf")


def _named(file: RemoteFile, wanted: str) -> bool:
    pattern = wanted.lower()
    return fnmatchcase(file.path.lower(), pattern) or fnmatchcase(file.name.lower(), pattern)


def _has_word(text: str, quantisation: str) -> bool:
    words = _ALIASES.get(quantisation.upper(), (quantisation,))
    return any(re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9_])", text, re.IGNORECASE) for word in words)


def _models(files: Iterable[RemoteFile], *, keep_all: bool = False) -> list[tuple[RemoteFile, ...]]:
    """Files grouped into models; projectors and importance matrices left out."""
    groups: dict[str, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda one: one.path):
        if keep_all or not any(word in file.name.lower() for word in _NOT_MODELS):
            groups.setdefault(_group_of(file), []).append(file)
    return [tuple(group) for group in groups.values()]


def _group_of(file: RemoteFile) -> str:
    split = SPLIT_NAME.fullmatch(file.path)
    return f"{split['stem']}/{split['count']}" if split else file.path


def _whole(found: tuple[RemoteFile, ...], files: Sequence[RemoteFile], repo: str) -> tuple[RemoteFile, ...]:
    """All parts of a split model, also where the glob matched the first alone."""
    split = SPLIT_NAME.fullmatch(found[0].path)
    if split is None:
        return found
    group = _group_of(found[0])
    parts = tuple(sorted((one for one in files if _is_gguf(one) and _group_of(one) == group), key=lambda one: one.path))
    if len(parts) != int(split["count"]):
        raise LoadFailed(
            Cause.MODEL_FILE_MISSING,
            f"hf:{repo} has {len(parts)} of the {int(split['count'])} parts of {split['stem']}",
        )
    return parts


def _listed(files: Sequence[RemoteFile]) -> str:
    names = [one.path for one in files]
    if not names:
        return "it has no GGUF file"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"there are {', '.join(names[:_NAMES_SHOWN])}{more}"
