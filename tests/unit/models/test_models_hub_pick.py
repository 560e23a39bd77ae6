"""Which files of a repository a request means: cases from the naming habits of those who publish GGUFs."""

from __future__ import annotations

import pytest

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.hub.pick import RemoteFile, pick_mmproj, pick_model

NAMES = (
    "README.md",
    "GLM-4.7-Flash-Q4_K_M.gguf",
    "GLM-4.7-Flash-Q4_K_S.gguf",
    "GLM-4.7-Flash-UD-Q4_K_XL.gguf",
    "GLM-4.7-Flash-IQ4_NL.gguf",
    "GLM-4.7-Flash-Q8_0.gguf",
    "GLM-4.7-Flash_q4_0.gguf",
    "GLM-4.7-Flash-fp16.gguf",
    "BF16/GLM-4.7-Flash-BF16-00002-of-00002.gguf",
    "BF16/GLM-4.7-Flash-BF16-00001-of-00002.gguf",
    "Q6_K/model-00001-of-00001.gguf",
    "imatrix_unsloth.gguf",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
)
FILES = tuple(RemoteFile(name, 10, "0" * 64) for name in NAMES)
SPLIT = ["BF16/GLM-4.7-Flash-BF16-00001-of-00002.gguf", "BF16/GLM-4.7-Flash-BF16-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("file", "quantisation", "expected"),
    [
        (None, "Q4_K_M", ["GLM-4.7-Flash-Q4_K_M.gguf"]),
        (None, "q4_k_m", ["GLM-4.7-Flash-Q4_K_M.gguf"]),
        (None, "UD-Q4_K_XL", ["GLM-4.7-Flash-UD-Q4_K_XL.gguf"]),
        (None, "Q4_K_XL", ["GLM-4.7-Flash-UD-Q4_K_XL.gguf"]),
        (None, "Q4_0", ["GLM-4.7-Flash_q4_0.gguf"]),
        (None, "F16", ["GLM-4.7-Flash-fp16.gguf"]),
        (None, "BF16", SPLIT),
        (None, "Q6_K", ["Q6_K/model-00001-of-00001.gguf"]),
        ("*q8_0.gguf", None, ["GLM-4.7-Flash-Q8_0.gguf"]),
        ("*q8_0.gguf", "Q4_K_M", ["GLM-4.7-Flash-Q8_0.gguf"]),
        ("glm-4.7-flash-bf16-00001*", None, SPLIT),
        ("mmproj-F16.gguf", None, ["mmproj-F16.gguf"]),
    ],
)
def test_the_model_meant(file: str | None, quantisation: str | None, expected: list[str]) -> None:
    assert [one.path for one in pick_model(FILES, "a/b", file, quantisation)] == expected


@pytest.mark.parametrize(
    ("file", "quantisation", "words"),
    [
        (None, "Q5_K_M", "no model file has 'Q5_K_M' in its name; there are BF16/"),
        (None, "Q4_K", "no model file has 'Q4_K' in its name"),
        (None, "IQ4", "no model file has 'IQ4' in its name"),
        (None, None, "more than one model file is there"),
        ("*Q4_K_?.gguf", None, "name one; there are GLM-4.7-Flash-Q4_K_M.gguf, GLM-4.7-Flash-Q4_K_S.gguf"),
        ("*.safetensors", None, "no model file matches '\\*.safetensors'"),
    ],
)
def test_none_or_several(file: str | None, quantisation: str | None, words: str) -> None:
    with pytest.raises(LoadFailed, match=words) as caught:
        pick_model(FILES, "a/b", file, quantisation)
    assert caught.value.cause is Cause.MODEL_FILE_MISSING
    assert "mmproj" not in caught.value.detail and "imatrix" not in caught.value.detail


def test_a_repository_without_models() -> None:
    with pytest.raises(LoadFailed, match="it has no GGUF file"):
        pick_model(FILES[:1], "a/b", None, "Q4_0")


def test_one_model_needs_no_name() -> None:
    assert pick_model((FILES[1], FILES[-1]), "a/b", None, None) == (FILES[1],)


def test_a_missing_part_is_noticed() -> None:
    with pytest.raises(LoadFailed, match="has 1 of the 2 parts"):
        pick_model(FILES[:9], "a/b", None, "BF16")


def test_the_projector() -> None:
    assert pick_mmproj(FILES, "a/b", "mmproj-f16.gguf").path == "mmproj-F16.gguf"
    with pytest.raises(LoadFailed, match="2 vision projectors match 'mmproj\\*'; there are mmproj-BF16"):
        pick_mmproj(FILES, "a/b", "mmproj*")
    with pytest.raises(LoadFailed, match="no vision projectors match 'x\\*'; there are mmproj-BF16"):
        pick_mmproj(FILES, "a/b", "x*")
