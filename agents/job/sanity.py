"""Is a generated text a text? Broken kernels and broken quantisations answer fast, and answer nonsense. PURE

No judgement of quality: only what no good answer does. Compression ratio as a sign of loops: Whisper (OpenAI, 2022)
uses it so; its limit, 2.4, is for a sentence, and a good page of HTML passes it: see the limits below.
"""

from __future__ import annotations

import zlib

from agents.contract.measure import Flag

LEAST_CHARACTERS = 200  # of fewer, repetition says nothing
LEAST_COMPRESSED = 0.06  # of its bytes; pages of HTML and tables of JSON come to 0.15 to 0.3, loops to 0.01 to 0.04
GRAM_WORDS = 6
LEAST_DISTINCT = 0.2  # share of the word groups of the second half that are there once; a loop has a few of them
MOST_BROKEN = 0.01  # share of characters that are none
CUT_CHARACTERS = 2  # a text that ends at a token limit may end inside a character


def output_flags(text: str) -> tuple[Flag, ...]:
    """What is wrong with the answer to a chat, reasoning included."""
    if not text.strip():
        return (Flag.OUTPUT_EMPTY,)
    flags = []
    if broken_share(text) > MOST_BROKEN:
        flags.append(Flag.OUTPUT_BROKEN)
    if len(text) >= LEAST_CHARACTERS and (
        compressed_share(text) < LEAST_COMPRESSED or distinct_share(text) < LEAST_DISTINCT
    ):
        flags.append(Flag.OUTPUT_REPEATED)
    return tuple(flags)


def broken_share(text: str) -> float:
    """Share of characters, 0 to 1, that no writer writes: U+FFFD for bytes that are no UTF-8, control characters."""
    broken = sum(char == "�" or (ord(char) < 32 and char not in "\t\n\r") or char == "\x7f" for char in text)
    return max(broken - CUT_CHARACTERS, 0) / len(text)


def compressed_share(text: str) -> float:
    """Size after zlib (level 6) over the size before, both in bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    return len(zlib.compress(data, 6)) / len(data)


def distinct_share(text: str) -> float:
    """Share of the groups of ``GRAM_WORDS`` words in the second half of the text that differ, 0 to 1.

    The second half: a loop that a model falls into, it does not leave. Text without spaces counts by its characters.
    """
    words = text.split()
    if len(words) < 4 * GRAM_WORDS or len(text) / len(words) > 30:
        words = list(text)
        size = 4 * GRAM_WORDS
    else:
        size = GRAM_WORDS
    half = words[len(words) // 2 :]
    groups = [tuple(half[at : at + size]) for at in range(len(half) - size + 1)]
    return len(set(groups)) / len(groups) if groups else 1.0
