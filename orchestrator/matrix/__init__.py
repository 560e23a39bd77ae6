"""The matrix file: read, checked, and spread out into cells. What it may hold: ``docs/matrix.md``."""

from __future__ import annotations

from orchestrator.matrix.axes import AXES, Axis, Value
from orchestrator.matrix.cells import Cell, canary_cell
from orchestrator.matrix.expand import CellCounts, check_size, count_cells, expand, job_count
from orchestrator.matrix.matrix import DeviceSelector, Matrix, Measure
from orchestrator.matrix.problems import MatrixErrors, Problem
from orchestrator.matrix.read import matrix_from_json, matrix_to_json, parse_matrix, read_matrix
from orchestrator.matrix.sections import json_schema

__all__ = [
    "AXES",
    "Axis",
    "Cell",
    "CellCounts",
    "DeviceSelector",
    "Matrix",
    "MatrixErrors",
    "Measure",
    "Problem",
    "Value",
    "canary_cell",
    "check_size",
    "count_cells",
    "expand",
    "job_count",
    "json_schema",
    "matrix_from_json",
    "matrix_to_json",
    "parse_matrix",
    "read_matrix",
]
