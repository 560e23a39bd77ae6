"""Matrices for the tests of planning, dispatch and command line: from text, without a file."""

from __future__ import annotations

from pathlib import Path

from orchestrator.matrix import Cell, Matrix, expand, parse_matrix


def no_file(name: str) -> bytes:
    raise FileNotFoundError(name)


def matrix_of(text: str) -> Matrix:
    return parse_matrix(text, Path("m.yaml"), no_file)


def matrix_and_cells(text: str) -> tuple[Matrix, tuple[Cell, ...]]:
    matrix = matrix_of(text)
    return matrix, expand(matrix)
