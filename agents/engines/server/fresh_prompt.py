"""Prompts that no prompt cache has seen, for engines whose cache cannot be switched off. PURE

Such caches reuse the longest common start of two prompts (llama.cpp's in Ollama, from its slots and from RAM;
mlx_lm.server's; prefix caches). So a line of its own stands in front of all that a cell brings: what is left to reuse
is the start of the model's template.
"""

from __future__ import annotations

from dataclasses import replace

from agents.contract.job import Chat

TEMPLATE_TOKENS = 128
"""Most that the template puts in front of the first message: gpt-oss, the longest known, writes some 70 tokens."""

_DIGITS = 6


def fresh(chat: Chat, number: int, system: str | None = None) -> Chat:
    """``chat`` with a line in front that differs for each ``number``; ``system``: what the model has where the chat
    names none.

    With an image the line needs a system message, if need be of its own: templates put the image before the text.
    """
    line = _line(number)
    own = chat.system if chat.system is not None else system or None
    if own is not None:
        return replace(chat, system=f"{line}\n{own}")
    if chat.image is not None:
        return replace(chat, system=line)
    return replace(chat, prompt=f"{line}\n{chat.prompt}")


def _line(number: int) -> str:
    """Always of one length in digits, so in tokens; the first digit differs from one number to the next."""
    return f"[{str(number % 10**_DIGITS).zfill(_DIGITS)[::-1]}]"
