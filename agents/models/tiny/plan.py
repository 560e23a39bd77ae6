"""What a tiny model's file holds, all but the numbers. PURE"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agents.models.tiny.vocabulary import BYTE_TOKENS, SPECIAL_TOKENS, Value


class Fill(Enum):
    """The values of a tensor."""

    RANDOM = "random"
    WORDS_ONLY = "words only"  # random, but zero in the rows of bytes and specials: greedy text is words, without end
    ONES = "ones"
    ZEROS = "zeros"


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor. ``fixed_type`` holds where it is not the quantisation that decides (norms, biases, routers)."""

    name: str
    shape: tuple[int, ...]
    fill: Fill = Fill.RANDOM
    fixed_type: str | None = None
    fan_in: int | None = None  # inputs summed into one output; None: the last dimension


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One GGUF file, all but the numbers."""

    architecture: str
    metadata: dict[str, Value]
    tensors: tuple[TensorPlan, ...]


def silent_rows(vocabulary: int) -> tuple[slice, slice]:
    """Rows of the output matrix that Fill.WORDS_ONLY leaves at zero: no logit of theirs is ever the highest."""
    return slice(0, BYTE_TOKENS), slice(vocabulary - len(SPECIAL_TOKENS), vocabulary)
