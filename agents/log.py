"""The log of a process: stdlib logging, a rotating file of plain text, one line an event with its ids first.

``2026-11-30T19:20:31.123Z INFO run=noop-1 job=3f.. attempt=2 device=5e.. Send``

Only what is named here is written of a message: ids, states, causes. So no prompt and no job travels into the log by a
new field. What looks like a secret is struck out of each line all the same.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

LEVEL_VARIABLE = "ORCHESTRATE_LOG"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
COORDINATOR, AGENT = "coordinator", "agent"
PARTS = (COORDINATOR, AGENT)
"""Each writes a file of its own, ``PART.log``."""
LOGGERS = ("agents", "orchestrator")
FILE_BYTES, OLDER_FILES = 5_000_000, 4
VALUE_CHARS, LINE_CHARS = 400, 4_000

IDS = {"run_id": "run", "job_id": "job", "attempt": "attempt", "device_id": "device", "node": "node", "term": "term"}
"""Fields that name what a line is about, in the order in which they are written, and what they are called there."""
SCALARS = (
    *("kind", "cause", "status", "priority", "failures", "change", "by_agent", "name", "address", "lease_s"),
    *("dedicated_vram_bytes", "power_limit_w", "power_profile", "note", "why", "detail"),
)
"""Other fields that may be written, in their order."""
NESTED = ("device", "state", "report", "outcome")
"""Fields whose own fields are looked at in turn."""
COUNTED = ("jobs", "reports")
"""Fields of which only the number of items is written."""

_ID_PLACES = {key: place for place, key in enumerate(IDS.values())}
_PLAIN = re.compile(r"[^\s\"=]+")
_LOGIN = re.compile(r"(\w://)[^/\s\"']*@")
_QUERY = re.compile(r"(\w://[^\s?\"']*\?)[^\s\"']*")
_NAMED = re.compile(
    r"(?i)(\b\w*(?:token|password|passwd|secret|api[_-]?key)[\"']?\s*[:=]\s*[\"']?)(?!\*)[^\s\"',;]{8,}"
    r"|(\bauthorization[\"']?\s*[:=]\s*[\"']?)(?:(?:basic|bearer|digest)\s+)?[^\s\"',;]+"
    r"|(\bbearer\s+)[^\s\"',;]+"
)
_TOKENS = re.compile(r"\b(hf_|sk-)[\w-]{8,}")
_SIGNS = ("token", "passw", "secret", "key", "authorization", "bearer")
_secrets: set[str] = set()
_fields_of: dict[type, tuple[tuple[str, str], ...]] = {}


def hide(secret: str) -> None:
    """``secret`` is written by no line of this process from now on."""
    if secret:
        _secrets.add(secret)


def redact(text: str) -> str:
    """``text`` without logins and queries of addresses, tokens, passwords, and what was hidden."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    if "://" in text:
        text = _QUERY.sub(r"\1***", _LOGIN.sub(r"\1***@", text))
    lowered = text.lower()
    if any(sign in lowered for sign in _SIGNS):
        text = _NAMED.sub(lambda found: f"{next(filter(None, found.groups()))}***", text)
    if "hf_" in text or "sk-" in text:
        text = _TOKENS.sub(r"\1***", text)
    return text


class Entry:
    """What one line says. It becomes text only where it is written, so a level that is off costs nothing.

    ``name`` is followed by the known fields of ``about``, a dataclass, and by ``more``.
    """

    __slots__ = ("_about", "_more", "_name")

    def __init__(self, name: str, about: object = None, /, **more: object) -> None:
        self._name = name
        self._about = about
        self._more = more

    def __str__(self) -> str:
        found: dict[str, object] = {}
        if self._about is not None:
            _collect(self._about, found)
        found.update(self._more)
        ids: list[str] = []
        rest = [self._name]
        for key, value in found.items():
            if value is not None and value != "":
                (ids if key in _ID_PLACES else rest).append(f"{key}={_value(value)}")
        if len(self._more) > 1:  # else they come in their order
            ids.sort(key=lambda each: _ID_PLACES[each.partition("=")[0]])
        return " ".join(ids + rest)


class Entries:
    """Several lines that are written at once: what follows from one event costs one write."""

    __slots__ = ("lines",)

    def __init__(self, lines: Sequence[tuple[int, Entry]]) -> None:
        self.lines = lines

    def __str__(self) -> str:
        return "; ".join(str(entry) for _, entry in self.lines)


def log_entries(logger: logging.Logger, lines: Sequence[tuple[int, Entry]]) -> None:
    """Each with its level."""
    lowest = logger.getEffectiveLevel()
    if wanted := [line for line in lines if line[0] >= lowest]:
        logger.log(max(level for level, _ in wanted), Entries(wanted))


def _collect(message: object, found: dict[str, object]) -> None:
    """Known fields of ``message``, the outer ones first. Words of an engine on a request are left out: it may have
    quoted the prompt. They stand in the results, and in the ledger."""
    for name, key in _known_fields(type(message)):
        value = getattr(message, name)
        if value is None:
            continue
        if name in NESTED:
            _collect(value, found)
        elif key not in found:
            found[key] = len(value) if name in COUNTED else value
    if getattr(message, "loaded", None) is not None:
        found["detail"] = None


def _known_fields(kind: type) -> tuple[tuple[str, str], ...]:
    """(field, its name in the log) of a dataclass; ids and scalars before what is nested."""
    if (found := _fields_of.get(kind)) is None:
        there = {each.name for each in fields(kind)} if is_dataclass(kind) else set()
        known = (*IDS, *COUNTED, *SCALARS, *NESTED)
        found = _fields_of[kind] = tuple((name, IDS.get(name, name)) for name in known if name in there)
    return found


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if type(value) is str else str(value)
    if len(text) <= VALUE_CHARS and _PLAIN.fullmatch(text):
        return text
    return json.dumps(flat(redact(text), VALUE_CHARS), ensure_ascii=False)  # redacted first: no half secret stays


def flat(text: str, most_chars: int) -> str:
    """``text`` in one line of bounded length; `` | `` stands where a line ended."""
    if "\n" in text:
        text = " | ".join(stripped for line in text.splitlines() if (stripped := line.strip()))
    return text if len(text) <= most_chars else f"{text[: most_chars - 1]}…"


def message_of(record: logging.LogRecord) -> str:
    """What a line holds behind its time and level: redacted, in one line, bounded."""
    text = redact(record.getMessage())
    if record.exc_info:
        trace = "".join(traceback.format_exception(*record.exc_info))
        text = f"{text} {redact(trace)[-LINE_CHARS // 2 :]}"
    return flat(text, LINE_CHARS)


class LineFormatter(logging.Formatter):
    """``TIME LEVEL`` and the message. Times are UTC with milliseconds."""

    _second, _text = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = f"{self._text}.{int(record.created % 1 * 1000):03d}Z"
        if isinstance(record.msg, Entries):
            lines = record.msg.lines
            return "\n".join(
                f"{stamp} {logging.getLevelName(level)} {flat(redact(str(entry)), LINE_CHARS)}"
                for level, entry in lines
            )
        return f"{stamp} {record.levelname} {message_of(record)}"


class LogFile(RotatingFileHandler):
    """One write a line, and none waits for the disk. A disk that takes no more costs lines, and stops nobody."""

    def __init__(self, path: Path, file_bytes: int = FILE_BYTES) -> None:
        super().__init__(path, maxBytes=file_bytes, backupCount=OLDER_FILES, encoding="utf-8", delay=True)
        self.setFormatter(LineFormatter())
        self._file_bytes = file_bytes
        self._size = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Unlike the one that it replaces, it formats a line once, and asks the disk for nothing but the write."""
        try:
            line = self.format(record) + "\n"
            file = self._opened()
            if self._size and self._size + len(line) > self._file_bytes:
                self._rotate(file)
                file = self._opened()
            self._size += os.write(file.fileno(), line.encode("utf-8", "replace"))
        except Exception:
            self.handleError(record)

    def _opened(self) -> TextIOWrapper:
        if self.stream is None:
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            self.stream = self._open()
            self._size = os.fstat(self.stream.fileno()).st_size
        return self.stream

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_open_private)

    def _rotate(self, file: TextIOWrapper) -> None:
        """Where another process has rotated meanwhile (an agent that ends beside its successor), its file is used."""
        own, there = os.fstat(file.fileno()), Path(self.baseFilename).stat()
        if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
            self.doRollover()
        self.close()

    def handleError(self, record: logging.LogRecord) -> None:
        """The line is lost: where the log cannot be written, nothing else may come of it."""
        del record


def _open_private(path: str, flags: int) -> int:
    """For its owner alone: what is struck out may not be all that is secret."""
    return os.open(path, flags, 0o600)


def levels_of(text: str) -> Mapping[str, int]:
    """The level of each part: ``info`` for all, ``agent=debug`` for one, several after commas. Raises ValueError."""
    levels = dict.fromkeys(PARTS, logging.INFO)
    for word in filter(None, (each.strip().lower() for each in text.split(","))):
        part, equals, level = word.rpartition("=")
        if level not in LEVELS or (equals and part not in PARTS):
            allowed = f"{', '.join(LEVELS)}; or {'=LEVEL, '.join(PARTS)}=LEVEL, with a comma between"
            raise ValueError(f"{word!r} is no level of the log. Allowed: {allowed}")
        levels |= {part: LEVELS[level]} if equals else dict.fromkeys(PARTS, LEVELS[level])
    return levels


def level_here(part: str) -> int:
    """What this process's environment says; ``info`` where it says nothing that can be read."""
    try:
        return levels_of(os.environ.get(LEVEL_VARIABLE, ""))[part]
    except ValueError:
        return logging.INFO


def start_log(handler: logging.Handler, level: int) -> None:
    """All that this process logs goes to ``handler`` from now on, and nowhere else."""
    stop_log()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = False  # Ray has handlers of its own on the root
        logger.setLevel(level)
        logger.addHandler(handler)


def start_log_file(part: str, folder: Path) -> None:
    """``PART.log`` in ``folder``, as the environment wants it. Raises nothing: no log is worth stopping for."""
    level = level_here(part)
    start_log(logging.NullHandler() if level == LEVELS["off"] else LogFile(folder / f"{part}.log"), level)


def stop_log() -> None:
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.addHandler(logging.NullHandler())  # else Python prints warnings to stderr


stop_log()  # who logs has imported this: a process without a log is silent


@contextmanager
def suppressed(logger: logging.Logger, what: str, *errors: type[BaseException], **more: object) -> Iterator[None]:
    """As ``contextlib.suppress``, and the log says what was suppressed."""
    try:
        yield
    except errors as error:
        logger.warning(Entry(what, **more, error=type(error).__name__, detail=str(error)))
