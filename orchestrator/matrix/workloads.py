"""Workloads by llama-bench's notation, and from their sections in the file. PURE given ``open_file``"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import PurePath

from agents.contract.job import Chat, Image, Sampling, Synthetic
from orchestrator.matrix.images import picture
from orchestrator.matrix.problems import BadValue, quoted
from orchestrator.matrix.sections import ChatSpec, SyntheticSpec
from orchestrator.matrix.units import parse_tokens

NOTATION = "pp512, tg128, pp512+tg128, tg128@d4096 (numbers may end in K)"
_NOTATION = re.compile(
    r"(?:pp(?P<pp>[0-9]{1,9}[Kk]?))?(?P<plus>\+)?(?:tg(?P<tg>[0-9]{1,9}[Kk]?))?(?:@d(?P<d>[0-9]{1,9}[Kk]?))?"
)
MOST_FILE_BYTES = 32 * 1024**2

FileReader = Callable[[str], bytes]
"""Bytes of a file by its path as written in the matrix; raises BadValue where it cannot be read."""


def from_notation(text: str) -> Synthetic | None:
    """``pp512+tg128@d4K`` as a workload named ``pp512+tg128@d4096``; None where ``text`` is something else."""
    found = _NOTATION.fullmatch(text)
    if not found or not (found["pp"] or found["tg"]) or bool(found["plus"]) != bool(found["pp"] and found["tg"]):
        return None
    pp, tg, depth = (parse_tokens(found[part], 0) if found[part] else 0 for part in ("pp", "tg", "d"))
    if not pp and not tg:
        return None
    name = "+".join(part for part in (f"pp{pp}" if pp else "", f"tg{tg}" if tg else "") if part)
    return Synthetic(f"{name}@d{depth}" if depth else name, pp, tg, depth, Sampling())


def synthetic(name: str, spec: SyntheticSpec) -> Synthetic:
    return Synthetic(name, spec.prompt_tokens, spec.generate_tokens, spec.depth, spec.sampling())


def chat(name: str, spec: ChatSpec, open_file: FileReader) -> Chat:
    """Raises ``FileProblem`` with the key of a file that cannot be used."""
    prompt = spec.prompt or "" if spec.prompt_file is None else _prompt(spec.prompt_file, open_file)
    image = None if spec.image is None else _image(spec.image, open_file)
    return Chat(name, prompt, spec.max_tokens, spec.stop, spec.system, image, spec.sampling())


class FileProblem(BadValue):
    """A file that a workload names cannot be used; ``key`` is the key that names it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _prompt(path: str, open_file: FileReader) -> str:
    try:
        text = open_file(path).decode("utf-8-sig")
    except BadValue as error:
        raise FileProblem("prompt_file", f"{quoted(path)}: {error}") from None
    except UnicodeDecodeError as error:
        message = f"{quoted(path)} is not UTF-8 text (byte {error.start})"
        raise FileProblem("prompt_file", message) from None
    if not text.strip():
        raise FileProblem("prompt_file", f"{quoted(path)} is empty")
    return text


def _image(path: str, open_file: FileReader) -> Image:
    try:
        data = open_file(path)
        media_type, width, height = picture(data)
    except BadValue as error:
        raise FileProblem("image", f"{quoted(path)}: {error}") from None
    return Image(PurePath(path).name, media_type, width, height, base64.b64encode(data).decode("ascii"))
