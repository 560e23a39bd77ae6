"""The vocabulary and the chat template of the tiny models. PURE

A byte-level BPE vocabulary as GPT-2's: 256 byte tokens, then invented words of four syllables, each with its leading
space, then the special tokens. There are no merges that matter, so that a prompt is cut into bytes and a generation
comes out as words: every text can be tokenised and every generated text is valid UTF-8.
"""

from __future__ import annotations

BYTE_TOKENS = 256
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
END_OF_TEXT, END_OF_TURN = 0, 2  # places in SPECIAL_TOKENS

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu", "pa", "de", "fi", "go", "hu", "ja")
_SPACE = "\u0120"  # how GPT-2's byte alphabet writes a space
_NORMAL, _CONTROL = 1, 3  # llama.cpp's token types

Value = int | float | bool | str | list[str] | list[int] | list[float] | list[bool]


def tokenizer_metadata(size: int) -> dict[str, Value]:
    """The ``tokenizer.*`` keys of a GGUF with ``size`` tokens; special tokens are the last ones."""
    first_special = size - len(SPECIAL_TOKENS)
    words = first_special - BYTE_TOKENS
    if not 0 < words <= len(_SYLLABLES) ** 4:
        raise ValueError(f"a vocabulary of {size} tokens cannot be made")
    tokens = [*_byte_alphabet(), *(_SPACE + _word(i) for i in range(words)), *SPECIAL_TOKENS]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_NORMAL] * first_special + [_CONTROL] * len(SPECIAL_TOKENS),
        "tokenizer.ggml.merges": ["b a"],  # llama.cpp wants the list; this one has no token to become
        "tokenizer.ggml.bos_token_id": first_special + END_OF_TEXT,
        "tokenizer.ggml.eos_token_id": first_special + END_OF_TURN,
        "tokenizer.ggml.padding_token_id": first_special + END_OF_TEXT,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _word(index: int) -> str:
    """Four syllables: ``index`` in base 16, lowest digit first."""
    return "".join(_SYLLABLES[index >> 4 * place & 15] for place in range(4))


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes: itself where printable, else one from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    letters = []
    shifted = 0
    for byte in range(BYTE_TOKENS):
        letters.append(chr(byte if byte in printable else 0x100 + shifted))
        shifted += byte not in printable
    return letters
