"""The log's lines: ids first, one line an event, no secret, bounded files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents import log as logs
from agents.contract.job import Job, LoadSettings, MachineState, ModelSource
from agents.contract.report import Cause, Failed, Loaded, Refused, Report
from agents.log import LEVELS, Entry, LogFile, hide, levels_of, redact, start_log, start_log_file, stop_log, suppressed

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ (.*)")
LOGGER = logging.getLogger("agents.test")


@pytest.fixture(autouse=True)
def silent_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logs, "_secrets", set())
    yield
    stop_log()


def lines_of(folder: Path, part: str = "agent") -> list[str]:
    """The lines without their times and levels."""
    found = [LINE.fullmatch(line) for line in (folder / f"{part}.log").read_text("utf-8").splitlines()]
    assert all(found)
    return [each[1] for each in found if each]


@dataclass(frozen=True)
class Sent:
    device_id: str
    job_id: str
    attempt: int
    prompt: str = "what nobody may read"
    detail: str = ""


def report(outcome: Failed | Refused) -> Report:
    return Report("j1", 2, "r1", "d1", "f", "boot", 1.0, 2.0, outcome)


@dataclass(frozen=True)
class Ended:
    report: Report


def test_a_message_is_written_by_its_ids_and_known_fields_alone() -> None:
    assert str(Entry("Sent", Sent("d1", "j1", 1))) == "job=j1 attempt=1 device=d1 Sent"
    assert str(Entry("Sent", Sent("d1", "j1", 1, detail="no\nway = out"))) == (
        'job=j1 attempt=1 device=d1 Sent detail="no | way = out"'
    )


def test_what_stands_in_a_message_is_looked_at_too() -> None:
    assert str(Entry("Ended", Ended(report(Refused(Cause.WRONG_STATE, "other split"))))) == (
        'run=r1 job=j1 attempt=2 device=d1 Ended kind=refused cause=wrong_state detail="other split"'
    )
    assert str(Entry("Asked", run="r1", seconds=1.23456789, none=None)) == "run=r1 Asked seconds=1.23457"


def test_an_engines_words_on_a_request_stay_out_for_they_may_quote_the_prompt() -> None:
    before = Failed(Cause.RAM, "the weights do not fit")
    after = Failed(Cause.REQUEST_REFUSED, "HTTP 400: cannot answer 'my secret diary'", Loaded(1.0, False, "b1"))
    assert "the weights do not fit" in str(Entry("Ended", Ended(report(before))))
    assert str(Entry("Ended", Ended(report(after)))) == (
        "run=r1 job=j1 attempt=2 device=d1 Ended kind=failed cause=request_refused"
    )


def test_no_field_of_a_job_is_written_but_its_ids() -> None:
    source = ModelSource(url="https://user:pw@models.example/a.gguf?sig=s3cret")
    job = Job("j1", 1, "r1", "c1", "d1", 0, LoadSettings("llama-server", "m", source=source), None)  # type: ignore[arg-type]
    assert str(Entry("Job", job)) == "run=r1 job=j1 attempt=1 device=d1 Job"
    assert "power_limit_w=80" in str(Entry("Asked", **{"power_limit_w": MachineState(None, 80.0).power_limit_w}))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("get https://me:pa@ss@host:1/a.gguf failed", "get https://***@host:1/a.gguf failed"),
        ("https://host/a.gguf?X-Amz-Signature=abc&x=1 gave 403", "https://host/a.gguf?*** gave 403"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("{'authorization': 'Basic dXNlcg=='}", "{'authorization': '***'}"),
        ("header bearer abcdef", "header bearer ***"),
        ("HF_TOKEN=0123456789 was set", "HF_TOKEN=*** was set"),
        ('"api_key": "0123456789"', '"api_key": "***"'),
        ("hub said no to hf_abcdefghij", "hub said no to hf_***"),
        ("first token timeout: no token in 600 s", "first token timeout: no token in 600 s"),
        ("it wants another token: copy ~/.ray/auth_token", "it wants another token: copy ~/.ray/auth_token"),
    ],
)
def test_what_looks_like_a_secret_is_struck_out(text: str, written: str) -> None:
    assert redact(text) == written


def test_no_half_secret_stays_where_a_line_is_cut(tmp_path: Path) -> None:
    start_log_file("agent", tmp_path)
    hide("0123456789abcdef")
    LOGGER.error(Entry("Failed", detail="x" * (logs.VALUE_CHARS - 8) + "0123456789abcdef"))
    LOGGER.error("bare 0123456789abcdef")
    (first, second) = lines_of(tmp_path)
    assert "01234" not in first
    assert second == "bare ***"


def test_an_exception_is_one_line_and_bounded(tmp_path: Path) -> None:
    start_log_file("agent", tmp_path)
    try:
        raise ValueError("line one\nAuthorization: Bearer abc\n" + "x" * 10_000)
    except ValueError:
        LOGGER.exception(Entry("Crashed"))
    (line,) = lines_of(tmp_path)
    assert line.startswith("Crashed ")
    assert len(line) <= logs.LINE_CHARS
    assert "Bearer abc" not in line


@pytest.mark.parametrize(
    ("text", "agent", "coordinator"),
    [
        ("", "info", "info"),
        ("DEBUG", "debug", "debug"),
        ("warning, agent=debug", "debug", "warning"),
        ("agent=off", "off", "info"),
    ],
)
def test_levels(text: str, agent: str, coordinator: str) -> None:
    assert levels_of(text) == {"agent": LEVELS[agent], "coordinator": LEVELS[coordinator]}


@pytest.mark.parametrize("text", ["loud", "agent=", "disk=info", "info;debug"])
def test_a_bad_level_names_what_is_allowed(text: str) -> None:
    allowed = "Allowed: debug, info, warning, error, off; or coordinator=LEVEL, agent=LEVEL"
    with pytest.raises(ValueError, match=allowed):
        levels_of(text)


def test_a_level_that_is_off_writes_and_formats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dear:
        def __str__(self) -> str:
            raise AssertionError("formatted")

    monkeypatch.setenv("ORCHESTRATE_LOG", "warning,agent=off")
    start_log_file("agent", tmp_path)
    LOGGER.error(Entry("X", dear=Dear()))
    assert not (tmp_path / "agent.log").exists()
    start_log_file("coordinator", tmp_path)
    LOGGER.info(Entry("X", dear=Dear()))
    LOGGER.warning(Entry("Y"))
    assert lines_of(tmp_path, "coordinator") == ["Y"]


def test_files_rotate_and_are_bounded(tmp_path: Path) -> None:
    start_log(LogFile(tmp_path / "agent.log", file_bytes=200), logging.INFO)
    for number in range(200):
        LOGGER.info(Entry("Line", number=number))
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["agent.log", *(f"agent.log.{number}" for number in range(1, 5))]
    assert all(path.stat().st_size < 300 for path in files)


def test_a_file_that_another_process_rotated_is_followed_and_not_rotated_again(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    start_log(LogFile(path, file_bytes=100), logging.INFO)
    LOGGER.info(Entry("Before"))
    LOGGER.info(Entry("Before"))
    path.rename(tmp_path / "agent.log.1")
    path.write_text("of another process\n")
    LOGGER.info(Entry("After"))
    assert [line.split(" ")[-1] for line in path.read_text().splitlines()] == ["process", "After"]
    assert not (tmp_path / "agent.log.2").exists()


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    start_log_file("agent", tmp_path / "file")
    LOGGER.error(Entry("X"))
    assert capsys.readouterr() == ("", "")


def test_without_a_log_warnings_go_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    LOGGER.warning(Entry("X"))
    assert capsys.readouterr() == ("", "")


def test_a_suppressed_error_is_written(tmp_path: Path) -> None:
    start_log_file("agent", tmp_path)
    with suppressed(LOGGER, "LogNotKept", OSError, run="r1"):
        raise OSError(28, "No space left on device")
    assert lines_of(tmp_path) == ['run=r1 LogNotKept error=OSError detail="[Errno 28] No space left on device"']


def test_a_log_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        start_log_file("agent", tmp_path)
        LOGGER.warning(Entry("Began"))
    finally:
        os.umask(before)
    assert (tmp_path / "agent.log").stat().st_mode & 0o777 == 0o600
