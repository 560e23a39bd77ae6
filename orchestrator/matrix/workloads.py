"""Workloads by llama-bench's notation, and from their sections in the file. PURE given ``open_file``

Media type and size of a picture come from its first bytes: PNG (ISO/IEC 15948, IHDR), JPEG (ITU-T T.81, SOF markers),
WebP (RFC 9649: VP8, VP8L, VP8X).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Self

from pydantic import Field, model_validator

from agents.contract.job import Chat, Image, Sampling, Stop, Synthetic
from orchestrator.matrix.parsers import PROMPT, MaybeName, Parsed, Section, decimal, tokens, whole
from orchestrator.matrix.problems import BadValue, not_one_of, quoted
from orchestrator.matrix.units import parse_tokens

STOPS = tuple(stop.value for stop in Stop)
NOTATION = "pp512, tg128, pp512+tg128, tg128@d4096 (numbers may end in K)"
_NOTATION = re.compile(
    r"(?:pp(?P<pp>[0-9]{1,9}[Kk]?))?(?P<plus>\+)?(?:tg(?P<tg>[0-9]{1,9}[Kk]?))?(?:@d(?P<d>[0-9]{1,9}[Kk]?))?"
)
MOST_FILE_BYTES = 32 * 1024**2

FileReader = Callable[[str], bytes]
"""Bytes of a file by its path as written in the matrix; raises BadValue where it cannot be read."""

PICTURES = "a PNG, JPEG or WebP picture"
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length


def _parse_stop(text: str) -> Stop:
    if text not in STOPS:
        raise not_one_of(text, "a way to stop", STOPS)
    return Stop(text)


STOP = Parsed(_parse_stop, {"enum": list(STOPS)})


class SamplingSpec(Section):
    seed: Annotated[int, whole(0, 2**32 - 1)] = Field(
        default=0, description="Seed of the sampler and of random prompts"
    )
    temperature: Annotated[float, decimal(0, 10)] = Field(default=0.0, description="0 takes the likeliest token")
    top_k: Annotated[int | None, whole(0, 10**6)] = Field(
        default=None, description="Sample from the k likeliest tokens"
    )
    top_p: Annotated[float | None, decimal(0, 1)] = Field(
        default=None, description="Sample from the likeliest tokens that together reach p"
    )
    min_p: Annotated[float | None, decimal(0, 1)] = Field(
        default=None, description="Least probability, as a part of the likeliest token's"
    )
    repeat_penalty: Annotated[float | None, decimal(0, 10)] = Field(
        default=None, description="Penalty for repeated tokens; 1 is none"
    )

    def sampling(self) -> Sampling:
        return Sampling(self.seed, self.temperature, self.top_k, self.top_p, self.min_p, self.repeat_penalty)


class ChatSpec(SamplingSpec):
    prompt: Annotated[str | None, PROMPT] = Field(default=None, description="The user's message")
    prompt_file: MaybeName = Field(default=None, description="UTF-8 file with the message; relative to the matrix file")
    system: Annotated[str | None, PROMPT] = Field(default=None, description="System message")
    image: MaybeName = Field(default=None, description="PNG, JPEG or WebP with it; relative to the matrix file")
    max_tokens: Annotated[int, tokens(1)] = Field(description="Most tokens to generate; with stop: exact, the number")
    stop: Annotated[Stop, STOP] = Field(
        default=Stop.NATURAL,
        description="natural: at the model's end of text or at max_tokens; exact: after max_tokens, whatever comes",
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.prompt_file is None):
            raise BadValue("a chat takes either prompt or prompt_file")
        return self


class SyntheticSpec(SamplingSpec):
    prompt_tokens: Annotated[int, tokens(0)] = Field(default=0, description="Random prompt tokens, measured")
    generate_tokens: Annotated[int, tokens(0)] = Field(default=0, description="Tokens to generate, exactly")
    depth: Annotated[int, tokens(0)] = Field(default=0, description="Tokens in the KV cache before the measured ones")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.prompt_tokens and not self.generate_tokens:
            raise BadValue("nothing to measure. Allowed: prompt_tokens or generate_tokens above 0, or both")
        return self


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


def picture(data: bytes) -> tuple[str, int, int]:
    """``("image/png", width, height)`` in pixels. Raises BadValue where ``data`` is no picture that is known."""
    try:
        found = _png(data) or _jpeg(data) or _webp(data)
    except IndexError:
        raise BadValue(f"the picture ends in the middle of its header. Allowed: {PICTURES}") from None
    if found is None or not (found[1] and found[2]):
        raise BadValue(f"the file is not a picture that can be read. Allowed: {PICTURES}")
    return found


def _number(data: bytes, at: int, count: int, order: str) -> int:
    part = data[at : at + count]
    if len(part) < count:
        raise IndexError
    return int.from_bytes(part, "big" if order == "big" else "little")


def _png(data: bytes) -> tuple[str, int, int] | None:
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        return None
    return "image/png", _number(data, 16, 4, "big"), _number(data, 20, 4, "big")


def _jpeg(data: bytes) -> tuple[str, int, int] | None:
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while True:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_SIZES:
            return "image/jpeg", _number(data, at + 7, 2, "big"), _number(data, at + 5, 2, "big")
        else:
            at += 2 if marker in _JPEG_ALONE else 2 + _number(data, at + 2, 2, "big")


def _webp(data: bytes) -> tuple[str, int, int] | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = _number(data, 26, 2, "little"), _number(data, 28, 2, "little")
        return "image/webp", width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = _number(data, 21, 4, "little")
        return "image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return "image/webp", _number(data, 24, 3, "little") + 1, _number(data, 27, 3, "little") + 1
    return None
