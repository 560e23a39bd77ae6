from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from agents.agent.spool import Spool
from agents.contract.report import Cause, Failed, Report


def report(job_id: str = "j1", attempt: int = 1, run: str = "c1", log: str = "") -> Report:
    return Report(job_id, attempt, run, "d", "f", "b", 1.0, 2.0, Failed(Cause.RAM, "no memory"), log)


def test_what_is_put_comes_back_until_it_is_dropped(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert spool.reports() == []
    for each in (report(), report(attempt=2), report("j2")):
        spool.put(each)
    assert spool.reports() == [report(), report(attempt=2), report("j2")]
    spool.drop("j1", 1)
    spool.drop("j1", 1)  # dropping again is nothing
    spool.drop("never", 7)
    assert Spool(tmp_path / "spool").reports() == [report(attempt=2), report("j2")]


def test_one_report_by_its_job_and_attempt(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(report("j1", 1))
    (tmp_path / "j1-3.json").write_text('{"of": "another version"}')
    assert spool.get("j1", 1) == report("j1", 1)
    assert spool.get("j1", 2) is None
    assert spool.get("j1", 3) is None


def test_reports_of_all_runs_are_told(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(report("j1", run="c1"))
    spool.put(report("j2", run="c2"))
    assert [(each.job_id, each.run_id) for each in spool.reports()] == [("j1", "c1"), ("j2", "c2")]


def test_a_report_of_an_older_version_that_knew_nothing_of_the_machines_state_is_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(report())
    told = json.loads((tmp_path / "j1-1.json").read_bytes())
    del told["machine"]
    (tmp_path / "j1-1.json").write_text(json.dumps(told))
    assert spool.reports() == [report()]


def test_the_same_attempt_again_replaces(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(report(log="old"))
    spool.put(report(log="new"))
    assert [each.log for each in spool.reports()] == ["new"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"job_id": "j0"}', b"\xff\xfe"])
def test_a_file_that_is_no_report_is_passed_over_and_left(tmp_path: Path, content: bytes) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "a-1.json").write_bytes(content)
    (tmp_path / "half-1.tmp").write_bytes(b"{")
    spool.put(report())
    assert spool.reports() == [report()]
    assert (tmp_path / "a-1.json").read_bytes() == content


def test_a_put_that_fails_leaves_the_earlier_file_and_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.put(report(log="old"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        spool.put(report(log="new"))
    assert [path.name for path in tmp_path.iterdir()] == ["j1-1.json"]
    assert spool.reports() == [report(log="old")]
