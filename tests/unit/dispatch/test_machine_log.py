"""The log files of a machine read as one: merged, filtered, followed over a rotation."""

from __future__ import annotations

from pathlib import Path

from orchestrator.dispatch.machine_log import LogFilter, log_files, read_log

ALL = LogFilter()


def stamped(second: int, text: str) -> str:
    return f"2026-11-30T19:20:{second:02d}.000Z INFO {text}\n"


def write(root: Path, part: str, *lines: str) -> Path:
    path = log_files(root)[part]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(lines)
    return path


def texts(lines: tuple[str, ...]) -> list[str]:
    return [f"{line.partition(': ')[0]} {line.split(' INFO ')[1]}" for line in lines]


def test_both_parts_are_merged_by_time_and_the_last_lines_are_shown(tmp_path: Path) -> None:
    write(tmp_path, "coordinator", stamped(1, "run=r1 RunAdded"), stamped(3, "run=r1 Keep"))
    write(tmp_path, "agent", stamped(2, "run=r1 Loaded"), stamped(4, "Rest"))
    assert texts(read_log(tmp_path, ALL).lines) == [
        "coordinator run=r1 RunAdded",
        "agent run=r1 Loaded",
        "coordinator run=r1 Keep",
        "agent Rest",
    ]
    assert texts(read_log(tmp_path, ALL, 2).lines) == ["coordinator run=r1 Keep", "agent Rest"]
    assert read_log(tmp_path, ALL, 0).lines == ()


def test_lines_are_filtered_by_whole_ids(tmp_path: Path) -> None:
    lines = ["run=r1 RunAdded", "run=r10 RunAdded", "run=r1 job=j1 device=d1 Send", "run=r1 job=j2 device=d2 Send"]
    write(tmp_path, "coordinator", *(stamped(number, line) for number, line in enumerate(lines)))

    def found(wanted: LogFilter) -> list[str]:
        return [line.split(" INFO ")[1] for line in read_log(tmp_path, wanted).lines]

    assert found(LogFilter(run_id="r1")) == [lines[0], *lines[2:]]
    assert found(LogFilter(device_id="d2")) == [lines[3]]
    assert found(LogFilter(run_id="r1", job_id="j1")) == [lines[2]]
    assert found(LogFilter(job_id="j")) == []


def test_of_the_machines_own_device_all_lines_of_its_agent_are_kept(tmp_path: Path) -> None:
    write(tmp_path, "agent", stamped(1, "AgentStarted"))
    write(tmp_path, "coordinator", stamped(2, "device=d1 DeviceJoined"), stamped(3, "device=d2 DeviceJoined"))
    (tmp_path / "device" / "device-id").write_text("d1\n")
    assert texts(read_log(tmp_path, LogFilter(device_id="d1")).lines) == [
        "agent AgentStarted",
        "coordinator device=d1 DeviceJoined",
    ]
    assert texts(read_log(tmp_path, LogFilter(device_id="d2")).lines) == ["coordinator device=d2 DeviceJoined"]


def test_a_page_goes_on_where_the_one_before_ended_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "coordinator", stamped(1, "A"), stamped(2, "B")[:-3])
    page = read_log(tmp_path, ALL, 10)
    assert texts(page.lines) == ["coordinator A"]
    with path.open("a") as file:
        file.write(stamped(2, "B")[-3:])
    page = read_log(tmp_path, ALL, after=page.next)
    assert texts(page.lines) == ["coordinator B"]
    assert read_log(tmp_path, ALL, after=page.next).lines == ()


def test_a_rotation_between_two_pages_costs_no_line(tmp_path: Path) -> None:
    path = write(tmp_path, "coordinator", stamped(1, "A"))
    page = read_log(tmp_path, ALL)
    write(tmp_path, "coordinator", stamped(2, "B"))
    path.rename(path.with_name("coordinator.log.1"))
    write(tmp_path, "coordinator", stamped(3, "C"))
    page = read_log(tmp_path, ALL, after=page.next)
    assert texts(page.lines) == ["coordinator B", "coordinator C"]
    path.with_name("coordinator.log.1").rename(path.with_name("coordinator.log.2"))
    path.rename(path.with_name("coordinator.log.1"))  # the next is not there yet
    page = read_log(tmp_path, ALL, after=page.next)
    assert page.lines == ()
    write(tmp_path, "coordinator", stamped(4, "D"))
    assert texts(read_log(tmp_path, ALL, after=page.next).lines) == ["coordinator D"]


def test_what_was_rotated_away_since_leaves_all_that_is_there(tmp_path: Path) -> None:
    path = write(tmp_path, "coordinator", stamped(1, "A"))
    page = read_log(tmp_path, ALL)
    path.rename(tmp_path / "kept so that its inode is not used again")
    write(tmp_path, "coordinator", stamped(2, "B"))
    assert texts(read_log(tmp_path, ALL, after=page.next).lines) == ["coordinator B"]


def test_without_files_there_is_nothing(tmp_path: Path) -> None:
    page = read_log(tmp_path, ALL, 5)
    assert (page.lines, dict(page.next)) == ((), {})
