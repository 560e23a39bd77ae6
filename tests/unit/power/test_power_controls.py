"""Each control of power by itself: its words read, what it has not and says why, what it shows without permission."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from agents.power.holding import PowerHold, ProfileHold
from agents.power.methods import amdgpu_cap, nvml, platform_profile, pmset, powerprofilesctl, rapl, xe_cap
from agents.power.methods import ryzenadj as ryzenadj_module
from agents.power.methods.base import LimitNotHeld
from tests.fakes import power_machines
from tests.fakes.power_machines import MACHINES, FakeNvml, Gpu, hwmon
from tests.fakes.sys_tree import AMD_CARD, INTEL_CARD, write

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="small programs of the shell")
RECORDINGS = Path(__file__).parents[2] / "recordings"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "device/power-journal.json"


@pytest.mark.parametrize(
    ("recording", "limits"),
    [("cezanne", (40.0, 45.0, 45.0)), ("krackan", (46.0, 46.0, 35.0)), ("no_module", ())],
)
def test_the_table_of_ryzenadj(recording: str, limits: tuple[float, ...]) -> None:
    levels = ryzenadj_module.parse_table((RECORDINGS / f"ryzenadj/{recording}.txt").read_text())
    assert tuple(levels.values()) == limits
    assert tuple(levels) == ryzenadj_module.LIMITS[: len(limits)]


def test_a_table_without_one_of_the_limits_holds_the_others() -> None:
    text = (RECORDINGS / "ryzenadj/krackan.txt").read_text().replace("   46.000 | stapm", "      nan | stapm")
    assert ryzenadj_module.parse_table(text) == {"fast-limit": 46.0, "slow-limit": 35.0}


def test_ryzenadj_without_its_table_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = power_machines.ryzen(tmp_path, monkeypatch)
    (tmp_path / "ryzenadj-state/notable").touch()
    why = machine.find(None)
    assert isinstance(why, str) and "no table of limits, so nothing could be read back" in why and "ryzen_smu" in why
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert machine.find(None) == "no program ryzenadj on the PATH of the agent"


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("deaf", "ryzenadj takes it without effect: stapm-limit should be 40 W and is 71 W"),
        ("rejects", "rejected by SMU"),
    ],
)
def test_ryzenadj_that_says_no_or_says_yes_without_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: Path, mood: str, words: str
) -> None:
    machine = power_machines.ryzen(tmp_path, monkeypatch)
    hold = PowerHold([machine.method()], journal)
    (tmp_path / f"ryzenadj-state/{mood}").touch()
    with pytest.raises(LimitNotHeld, match=words):
        hold.at(40.0)
    assert machine.stands() == machine.own and hold.limit_w is None


def test_firmware_that_takes_a_limit_back_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: Path
) -> None:
    machine = power_machines.ryzen(tmp_path, monkeypatch)
    hold = PowerHold([machine.method()], journal)
    hold.at(40.0)
    (tmp_path / "ryzenadj-state/fast-limit").write_text("85.500")
    assert hold.deviation() == "ryzenadj: fast-limit should be 40 W and is 85.5 W"
    assert hold.limit_w is None and hold.deviation() == ""
    hold.at(40.0)  # set anew, from the machine's own values
    hold.release()
    assert machine.stands() == machine.own


def test_a_program_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.power.methods.program.PROGRAM_S", 0.05)
    power_machines.program(tmp_path, "ryzenadj", "#!/bin/sh\nexec sleep 60\n", monkeypatch)
    assert ryzenadj_module.find(tmp_path, None) == "ryzenadj -i: no answer within 0.05 s"


def test_rapl_is_seen_where_it_may_not_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    power_machines.intel_cpu(tmp_path, monkeypatch)
    assert rapl.look(tmp_path) == 45.0
    for path in (tmp_path / "sys/class/powercap").glob("*mmio*/constraint_0_power_limit_uw"):
        path.write_text("4095992675\n")
    assert rapl.look(tmp_path) == 200.0
    assert rapl.look(tmp_path / "amd") is None


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("intel-rapl:0/enabled", "0\n", "intel-rapl:0 is not enabled"),
        ("intel-rapl-mmio:0/enabled", "0\n", "intel-rapl-mmio:0 is not enabled"),
    ],
)
def test_rapl_that_is_locked_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, words: str
) -> None:
    machine = power_machines.intel_cpu(tmp_path, monkeypatch)
    (tmp_path / "sys/class/powercap" / file).write_text(text)
    why = machine.find(None)
    assert isinstance(why, str) and words in why


def test_machines_without_such_a_control_say_so(tmp_path: Path) -> None:
    hwmon(tmp_path / "apu", AMD_CARD, {"power1_average": 20.0})
    hwmon(tmp_path / "igpu", INTEL_CARD, {})
    write(tmp_path / "amd/sys/class/powercap/intel-rapl:0/name", "package-0\n")  # energy only
    for find, root, words in (
        (rapl.find, "amd", "AMD's processors"),
        (amdgpu_cap.find, "apu", "APUs have none"),
        (xe_cap.find, "igpu", "integrated graphics have none"),
        (nvml.finder(lambda: FakeNvml(driver=False)), "/", "NVML does not start: NVML Shared Library Not Found"),
        (nvml.finder(FakeNvml), "/", "no NVIDIA card here"),
        (
            nvml.finder(lambda: FakeNvml([Gpu("a", 80_000)], supported=False)),
            "/",
            r"Not Supported (laptops often refuse)",
        ),
    ):
        why = find(tmp_path / root, None)
        assert isinstance(why, str) and words in why
    assert platform_profile.find(tmp_path) == "the firmware offers no platform_profile"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everything")
@pytest.mark.parametrize("name", ["rapl", "amdgpu_cap", "xe_cap"])
def test_files_that_may_not_be_written_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine = MACHINES[name](tmp_path, monkeypatch)
    for path in [*tmp_path.rglob("*limit_uw"), *tmp_path.rglob("power1_*")]:
        path.chmod(0o444)
    why = machine.find(None)
    assert isinstance(why, str) and "may not be written: run the agent as root" in why


def test_nvml_without_root_is_told_and_nothing_is_set(tmp_path: Path, journal: Path) -> None:
    library = FakeNvml([Gpu("GPU-a", 450_000)], root=False)
    method = nvml.finder(lambda: library)(Path("/"), None)
    assert not isinstance(method, str)
    with pytest.raises(
        LimitNotHeld, match=r"SetPowerManagementLimit: Insufficient Permissions \(run the agent as root\)"
    ):
        PowerHold([method], journal).at(200.0)
    assert library.gpus[0].limit_mw == 450_000


def test_what_a_card_shows_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    power_machines.amd_card(tmp_path / "amd", monkeypatch)
    power_machines.intel_card(tmp_path / "intel", monkeypatch)
    hwmon(tmp_path / "off", INTEL_CARD, {"power1_max": 0.0})
    assert amdgpu_cap.look(tmp_path / "amd") == 303.0 and amdgpu_cap.look(tmp_path / "intel") is None
    assert xe_cap.look(tmp_path / "intel") == 190.0 and xe_cap.look(tmp_path / "off") is None
    for library, seen_w in (
        (FakeNvml([Gpu("a", 80_000)]), 80.0),
        (FakeNvml([Gpu("a", 80_000)], supported=False), 80.0),  # a laptop: what the driver enforces
        (FakeNvml([]), None),
        (FakeNvml(driver=False), None),
    ):
        assert nvml.looker(lambda library=library: library)(Path("/")) == seen_w  # type: ignore[misc]
    assert nvml.NVML.look is not None and nvml.NVML.look(tmp_path) is None


def test_a_card_of_intel_without_a_limit_is_left_alone(tmp_path: Path, journal: Path) -> None:
    """0 would have to be written to put it back, and not every card takes that."""
    place = hwmon(tmp_path, INTEL_CARD, {"power1_max": 0.0, "power1_rated_max": 190.0})
    method = xe_cap.find(tmp_path, None)
    assert not isinstance(method, str)
    with pytest.raises(LimitNotHeld, match="power1_max is 0, no limit, and may not be had back"):
        PowerHold([method], journal).at(100.0)
    assert (place / "power1_max").read_text() == "0\n" and not journal.exists()


@pytest.mark.parametrize("name", ["rapl", "amdgpu_cap", "nvml"])
def test_a_journal_of_a_card_that_is_gone_is_told_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: Path, name: str
) -> None:
    machine = MACHINES[name](tmp_path, monkeypatch)
    write(journal, f'{{"method": "{name}", "levels": {{"gone": 80.0}}}}')
    with pytest.raises(LimitNotHeld, match=f"{name}: gone is not on this machine now"):
        PowerHold([machine.method()], journal).restore_from_journal()
    assert journal.exists()


def test_a_method_that_is_missing_now_says_why(journal: Path) -> None:
    write(journal, '{"method": "ryzenadj", "levels": {"stapm-limit": 71.0}}')
    hold = PowerHold([], journal, ["ryzenadj: no program ryzenadj on the PATH"])
    with pytest.raises(LimitNotHeld, match="set what was stapm-limit 71 W before, and now ryzenadj: no program"):
        hold.restore_from_journal()
    with pytest.raises(LimitNotHeld, match="to hold a limit of 40 W: ryzenadj: no program ryzenadj"):
        PowerHold([], journal.with_name("none"), ["ryzenadj: no program ryzenadj on the PATH"]).at(40.0)


def test_the_settings_of_pmset() -> None:
    assert pmset.parse_in_use((RECORDINGS / "pmset/in_use_lowpowermode.txt").read_text()) == "automatic"
    assert pmset.parse_in_use("Currently in use:\n powermode            2\n") == "high-power"
    assert pmset.parse_in_use(" lowpowermode         7\n") is None
    custom = "Battery Power:\n lowpowermode         1\n sleep                1\nAC Power:\n lowpowermode         0\n"
    assert pmset.parse_custom(custom) == {"Battery Power/lowpowermode": "1", "AC Power/lowpowermode": "0"}
    assert pmset.parse_custom("AC Power:\n sleep                1\n") == {}


def test_a_daemon_that_does_not_let_its_profile_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: Path
) -> None:
    machine = power_machines.daemon_profile(tmp_path, monkeypatch)
    (tmp_path / "powerprofilesctl-state/denied").touch()
    with pytest.raises(LimitNotHeld, match="set balanced: exit code 1: Failed to communicate: Not authorized"):
        ProfileHold([machine.method()], journal).at("performance")
    assert machine.stands() == machine.own
    assert powerprofilesctl.parse_list("* quiet:\n    Driver:\n\n  not a profile\n") == ("quiet",)
