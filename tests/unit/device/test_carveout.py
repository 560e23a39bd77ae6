"""The carve-out of an AMD APU, in a tree of files as the kernel's documents describe it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agents.device.carveout import Option, choose, option_for, options_of, parse_options
from agents.errors import Unsupported
from tests.fakes.sys_tree import AMD_APU, AMD_CARD, CARVEOUT_OPTIONS, firmware, machine

MIB = 2**20
GIB = 2**30
SIZES = tuple(Option(index, int(size * GIB)) for index, size in enumerate((0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32)))
READ_ONLY = Path("/sys/kernel/uevent_seqnum")  # a file of the kernel that not even root may write


@pytest.fixture
def uma(tmp_path: Path) -> Path:
    return firmware(machine(tmp_path, AMD_APU, AMD_CARD))


def test_the_documented_example() -> None:
    assert parse_options(CARVEOUT_OPTIONS) == SIZES


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", ()),
        ("0: Minimum (512 MB)", (Option(0, 512 * MIB),)),
        ("12: High (96 GB)\n", (Option(12, 96 * GIB),)),
        ("3: With (brackets) (4 GB)\n", (Option(3, 4 * GIB),)),
        ("0: Auto\n1: Custom ()\n2:  (2 GB)\n", (Option(2, 2 * GIB),)),
        ("0: Minimum (512 KB)\nwords\n(4 GB)\n-1: No (4 GB)\n", ()),
        ("0: First (512 MB)\r\n1:  (1 GB)\r\n", (Option(0, 512 * MIB), Option(1, GIB))),
    ],
)
def test_a_line_of_another_form_is_left_out(text: str, options: tuple[Option, ...]) -> None:
    assert parse_options(text) == options


@pytest.mark.parametrize(
    ("wanted_bytes", "index"),
    [
        (512 * MIB, 0),
        (448 * MIB, 0),  # what the firmware keeps for itself of 512
        (447 * MIB, None),
        (32 * GIB, 9),
        (int(31.1 * GIB), 9),
        (31 * GIB, None),
        (33 * GIB, None),
        (3 * GIB, None),
        (0, None),
    ],
)
def test_a_size_of_which_the_firmware_keeps_a_little(wanted_bytes: int, index: int | None) -> None:
    found = option_for(wanted_bytes, SIZES)
    assert (found and found.index) == index


@pytest.mark.parametrize("wanted_mib", [64, 96, 128, 256])
def test_of_sizes_that_lie_close_together_the_nearest(wanted_mib: int) -> None:
    small = [Option(index, size * MIB) for index, size in enumerate((32, 64, 96, 128, 256))]
    found = option_for(wanted_mib * MIB, small)
    assert found is not None and found.size_bytes == wanted_mib * MIB


def test_a_choice_is_written_as_its_index_and_read_back(uma: Path, tmp_path: Path) -> None:
    choose(16 * GIB, tmp_path)
    assert (uma / "carveout").read_text().strip() == "7"
    choose(512 * MIB, tmp_path)
    assert (uma / "carveout").read_text().strip() == "0"
    assert (uma / "carveout_options").read_text() == CARVEOUT_OPTIONS


def test_a_size_that_the_firmware_does_not_offer(uma: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"no carve-out of 3 GiB; it offers 512 MiB, 1 GiB, .*, 32 GiB$"):
        choose(3 * GIB, tmp_path)
    assert (uma / "carveout").read_text() == "9\n"


def test_a_machine_without_the_files(tmp_path: Path) -> None:
    machine(tmp_path, AMD_APU, AMD_CARD)
    assert options_of(tmp_path) == ()
    with pytest.raises(Unsupported, match="it offers none"):
        choose(16 * GIB, tmp_path)


@pytest.mark.skipif(not READ_ONLY.exists(), reason="no file here that even root may not write")
def test_a_file_that_may_not_be_written(uma: Path, tmp_path: Path) -> None:
    (uma / "carveout").unlink()
    (uma / "carveout").symlink_to(READ_ONLY)
    words = re.escape(f"{uma / 'carveout'}: cannot be written: ") + "(Permission denied|Read-only file system)"
    with pytest.raises(Unsupported, match=words):
        choose(16 * GIB, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_firmware_that_refuses_the_value(uma: Path, tmp_path: Path) -> None:
    (uma / "carveout").unlink()
    (uma / "carveout").symlink_to("/dev/full")
    with pytest.raises(Unsupported, match="carveout: cannot be written: No space left on device"):
        choose(16 * GIB, tmp_path)


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no /dev/null here")
def test_a_value_that_is_not_read_back(uma: Path, tmp_path: Path) -> None:
    (uma / "carveout").unlink()
    (uma / "carveout").symlink_to("/dev/null")
    with pytest.raises(Unsupported, match="carveout: 7 was written, and '' is read back"):
        choose(16 * GIB, tmp_path)


@pytest.mark.parametrize("how", ["missing", "a folder", "a link to nowhere"])
def test_options_that_cannot_be_read_are_none(uma: Path, tmp_path: Path, how: str) -> None:
    file = uma / "carveout_options"
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how == "a link to nowhere":
        file.symlink_to("nowhere")
    assert options_of(tmp_path) == ()
    with pytest.raises(Unsupported, match="it offers none"):
        choose(16 * GIB, tmp_path)
    assert (uma / "carveout").read_text() == "9\n"


def test_options_with_bytes_that_are_no_text(uma: Path, tmp_path: Path) -> None:
    (uma / "carveout_options").write_bytes(b"0: \xff\xfe (512 MB)\n")
    assert options_of(tmp_path) == (Option(0, 512 * MIB),)


def test_the_card_that_has_a_carve_out_and_not_the_first(tmp_path: Path) -> None:
    machine(tmp_path, AMD_APU, ("0x10de", "0x2820", "nvidia", None), AMD_CARD)
    uma = firmware(tmp_path, card=1)
    assert options_of(tmp_path) == SIZES
    choose(8 * GIB, tmp_path)
    assert (uma / "carveout").read_text().strip() == "5"
