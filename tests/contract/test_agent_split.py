"""An agent that sets the split: the firmware's files are a tree of the test's, the reboot is a file that appears."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.agent.agent import Agent, JobProcessFailed
from agents.device.carveout import choose
from tests.contract.agent_jobs import long_job, runner, runners, until_streaming
from tests.fakes.sys_tree import AMD_APU, AMD_CARD, firmware, machine
from tests.waiting import ended

GIB = 2**30


@pytest.fixture
def uma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's firmware, as the agent meets it."""
    root = machine(tmp_path / "root", AMD_APU, AMD_CARD)
    monkeypatch.setattr("agents.agent.split.choose", lambda wanted_bytes, _: choose(wanted_bytes, root))
    return firmware(root, chosen="9\n")


@pytest.fixture
def rebooted(tmp_path: Path) -> Path:
    return tmp_path / "rebooted"


def allow(folder: Path, *reboot: str, split: bool = True) -> None:
    """The owner's word, with the command that reboots."""
    command = json.dumps(list(reboot))
    (folder / "device.yaml").write_text(f"allow: {{set_dedicated_vram: {json.dumps(split)}, reboot: {command}}}\n")


def refusal(agent: Agent, wanted_bytes: int) -> str:
    with pytest.raises(JobProcessFailed) as caught:
        agent.set_split(wanted_bytes)
    return str(caught.value)


def chosen(uma: Path) -> str:
    return (uma / "carveout").read_text().strip()


def test_it_is_chosen_and_the_machine_reboots(agent: Agent, folder: Path, uma: Path, rebooted: Path) -> None:
    allow(folder, "sh", "-c", f"cp {uma}/carveout {rebooted}")
    agent.set_split(16 * GIB)
    assert chosen(uma) == "7"
    assert rebooted.read_text().strip() == "7"  # chosen before the reboot
    assert runners() == []


@pytest.mark.parametrize("said", [True, False])
def test_without_the_owners_leave_nothing_is_touched(agent: Agent, folder: Path, uma: Path, said: bool) -> None:
    if said:
        allow(folder, "touch", str(folder / "rebooted"), split=False)
    assert refusal(agent, 16 * GIB) == "device.yaml does not allow to set the dedicated VRAM"
    assert chosen(uma) == "9" and not (folder / "rebooted").exists()


def test_a_size_that_is_not_offered_reboots_nothing(agent: Agent, folder: Path, uma: Path, rebooted: Path) -> None:
    allow(folder, "touch", str(rebooted))
    words = refusal(agent, 3 * GIB)
    assert words.startswith("the firmware offers no carve-out of 3 GiB; it offers 512 MiB, 1 GiB")
    assert chosen(uma) == "9" and not rebooted.exists()


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no /dev/null here")
def test_a_firmware_that_forgets_reboots_nothing(agent: Agent, folder: Path, uma: Path, rebooted: Path) -> None:
    allow(folder, "touch", str(rebooted))
    (uma / "carveout").unlink()
    (uma / "carveout").symlink_to("/dev/null")
    assert "7 was written, and '' is read back" in refusal(agent, 16 * GIB)
    assert not rebooted.exists()


def test_a_reboot_that_is_refused_says_so_in_its_own_words(agent: Agent, folder: Path, uma: Path) -> None:
    allow(folder, "sh", "-c", "echo 'Call to Reboot failed: Access denied' >&2; exit 1")
    words = refusal(agent, 16 * GIB)
    assert words.startswith("cannot set the split and reboot: Command ")
    assert "returned non-zero exit status 1" in words and words.endswith("Call to Reboot failed: Access denied")


def test_a_command_that_is_not_there(agent: Agent, folder: Path, uma: Path) -> None:
    allow(folder, "no-such-command-here")
    words = refusal(agent, 16 * GIB)
    assert "cannot set the split and reboot: " in words and "no-such-command-here" in words


def test_a_command_that_hangs_is_given_up(
    agent: Agent, folder: Path, uma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.agent.split.REBOOT_S", 0.05)
    allow(folder, "sleep", "600")
    assert "timed out after 0.05 seconds" in refusal(agent, 16 * GIB)


def test_a_broken_device_file_is_told(agent: Agent, folder: Path, uma: Path) -> None:
    (folder / "device.yaml").write_text("allow: {everything: true}\n")
    assert f"{folder / 'device.yaml'}: allow.everything: " in refusal(agent, 16 * GIB)
    assert chosen(uma) == "9"


def test_while_a_job_runs_nothing_is_touched(agent: Agent, folder: Path, uma: Path, rebooted: Path) -> None:
    allow(folder, "touch", str(rebooted))
    agent.start(long_job())
    until_streaming(agent)
    assert refusal(agent, 16 * GIB) == "busy with j"
    assert chosen(uma) == "9" and not rebooted.exists()
    assert not ended(runner()) and agent.poll().job == ("j", 1)
