"""From a file on the disk, or from a ledger's text, to a Matrix: every error at once."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from agents.contract.job import Conditions, Timeouts
from agents.units import format_size
from orchestrator.errors import UsageError
from orchestrator.matrix.cross_check import CrossCheck, exclude_problems
from orchestrator.matrix.matrix import DeviceSelector, Matrix, Measure, OnBattery
from orchestrator.matrix.parsers import describe_raw
from orchestrator.matrix.problems import BadValue, MatrixErrors, Problem, quoted
from orchestrator.matrix.sections import MatrixSpec, MeasureSpec
from orchestrator.matrix.validate import Validated
from orchestrator.matrix.workloads import MOST_FILE_BYTES, FileReader
from orchestrator.matrix.yaml_tree import read_tree

MOST_MATRIX_BYTES = 16 * 1024**2
SAVED_VERSION = 1


def read_matrix(path: Path) -> Matrix:
    """Parsed the file and the prompts and pictures that it names. Raises MatrixErrors with all that is wrong."""
    file = str(path)
    try:
        data = read_file(path, MOST_MATRIX_BYTES)
        text = data.decode("utf-8-sig")
    except BadValue as error:
        raise MatrixErrors([Problem(file, 0, "", str(error))]) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8: byte 0x{data[error.start]:02X} is not allowed here; save the file as UTF-8"
        raise MatrixErrors([Problem(file, line, "", message)]) from None
    folder = path.absolute().parent

    def beside(name: str) -> bytes:
        try:
            return read_file(folder / Path(name).expanduser(), MOST_FILE_BYTES)
        except RuntimeError:  # ~nobody
            raise BadValue("no such file (no such user)") from None

    return parse_matrix(text, path, beside)


def read_file(path: Path, most_bytes: int) -> bytes:
    """Bytes of an ordinary file. Raises BadValue with the reason where there are none."""
    try:
        if path.is_dir():
            raise BadValue("is a folder, not a file")
        if not path.exists():
            raise BadValue(f"no such file ({path.absolute()})")
        if not path.is_file():
            raise BadValue("is not an ordinary file")
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise BadValue(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a null byte in the path
        if isinstance(error, BadValue):
            raise
        raise BadValue(f"cannot be read: {error}") from None
    if len(data) > most_bytes:
        raise BadValue(f"is larger than {format_size(most_bytes)}")
    return data


def parse_matrix(text: str, path: Path, open_file: FileReader) -> Matrix:
    """PURE given ``open_file``, which brings the bytes of a file by its path as written."""
    file = str(path)
    tree, problems = read_tree(text, file)
    if tree is None or tree.entries is None:
        if tree is None and not problems:
            problems = [Problem(file, 0, "", "the file is empty")]
        elif tree is not None:
            found = f"{quoted(tree.scalar)} stands here" if tree.scalar is not None else describe_raw(tree.plain())
            problems = [*problems, Problem(file, tree.line, "", f"a mapping (key: value) belongs here, but {found}")]
        raise MatrixErrors(problems)
    files: dict[str, bytes] = {}

    def kept(name: str) -> bytes:
        if name not in files:
            files[name] = open_file(name)
        return files[name]

    validated = Validated(tree, file)
    checked = CrossCheck(validated, kept)
    problems = [*problems, *validated.problems, *checked.problems]
    matrix = _matrix(validated.spec, checked, text, path, tuple(sorted(files.items())))
    if not any(problem.key.startswith(("axes", "zip", "defaults")) or not problem.key for problem in problems):
        problems += exclude_problems(matrix, validated)
    if problems:
        raise MatrixErrors(problems)
    return matrix


def _matrix(
    spec: MatrixSpec, checked: CrossCheck, text: str, path: Path, files: tuple[tuple[str, bytes], ...]
) -> Matrix:
    timeouts = spec.timeouts
    return Matrix(
        name=spec.name or re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)[:80],
        question=spec.question or "",
        path=path.absolute(),
        digest=_digest(text, files),
        devices=_selector(spec),
        models=checked.models,
        workloads=checked.workloads,
        measure=_measure(spec.measure),
        timeouts=Timeouts(timeouts.load, timeouts.first_token, timeouts.trial),
        product=checked.product,
        includes=checked.includes,
        excludes=checked.excludes,
        text=text,
        files=files,
    )


def _measure(spec: MeasureSpec) -> Measure:
    conditions = Conditions(spec.quiet, spec.on_battery is OnBattery.ALLOW, spec.cool_down or 0.0, spec.again)
    return Measure(spec.repeats, spec.warmups, spec.seed, spec.keep_output, spec.rounds, conditions, spec.canary)


def _selector(spec: MatrixSpec) -> DeviceSelector:
    devices = spec.devices
    return DeviceSelector(
        ids=devices.ids,
        names=devices.names,
        labels=tuple(sorted(devices.labels.items())),
        min_ram_bytes=devices.min_ram,
        min_vram_bytes=devices.min_vram,
        gpu_vendors=devices.gpu_vendor,
        away_after_s=devices.away_after,
    )


def _digest(text: str, files: tuple[tuple[str, bytes], ...]) -> str:
    """SHA-256 over lengths and bytes, so that no two sets of files run together."""
    digest = hashlib.sha256()
    for name, data in (("", text.encode("utf-8", "surrogatepass")), *files):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def matrix_to_json(matrix: Matrix) -> str:
    """All that ``matrix_from_json`` needs: the file's text and the files that it names. No file is needed again."""
    files = {name: base64.b64encode(data).decode("ascii") for name, data in matrix.files}
    saved = {"version": SAVED_VERSION, "path": str(matrix.path), "digest": matrix.digest, "text": matrix.text}
    return json.dumps({**saved, "files": files})


def matrix_from_json(text: str) -> Matrix:
    """The same matrix: equal cells in equal order. Raises UsageError for text that ``matrix_to_json`` did not write."""
    try:
        saved: dict[str, Any] = json.loads(text)
        version, path, yaml_text = saved["version"], Path(saved["path"]), str(saved["text"])
        files = {name: base64.b64decode(data) for name, data in saved["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"not a saved matrix: {type(error).__name__}: {error}") from None
    if version != SAVED_VERSION:
        raise UsageError(f"saved matrix of version {version}; this program reads version {SAVED_VERSION}")

    def open_file(name: str) -> bytes:
        if name not in files:
            raise BadValue("is not in the saved matrix")
        return files[name]

    matrix = parse_matrix(yaml_text, path, open_file)
    if matrix.digest != saved.get("digest"):
        raise UsageError(f"saved matrix {path.name}: text or files are not those that were saved (digest differs)")
    return matrix
