"""A matrix file for a test: written, read, and its errors as lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.matrix import Matrix, MatrixErrors, read_matrix

GOOD = "axes: {model: tiny:llama, workload: pp512}\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "m.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes) -> Matrix:
    return read_matrix(write(folder, text))


def errors(folder: Path, text: str | bytes) -> list[str]:
    """Each problem without the folder: ``12: axes.contxt: unknown key ...``."""
    path = write(folder, text)
    with pytest.raises(MatrixErrors) as caught:
        read_matrix(path)
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert all(line.startswith((f"{path}:", "... and")) for line in lines)
    return [line.removeprefix(f"{path}:").strip() for line in lines]
