"""``device.yaml`` and ``stated.json``: what is allowed, and words for all that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.contract.device import MemoryKind
from agents.device_file import (
    TAKEN_BACK,
    Allow,
    DeviceFile,
    Stated,
    keep_stated,
    read_device_file,
    read_stated,
)
from orchestrator.matrix.units import parse_bytes as bytes_in_a_matrix
from orchestrator.matrix.units import parse_watts as watts_in_a_matrix
from tests.fakes.disks import full_disk

GIB = 2**30
TOP_KEYS = "name, labels, memory, dedicated_vram, power_limit, memory_bandwidth, allow"

WHOLE = """
name: bosgame
labels: {desk: left, cooling: stock}
memory: carve-out
dedicated_vram: 32GiB
power_limit: 80W
allow:
  set_dedicated_vram: true
  reboot: [sudo, systemctl, reboot]
  power: [ryzenadj]
"""


def test_every_key(tmp_path: Path) -> None:
    (tmp_path / "device.yaml").write_text(WHOLE)
    own = read_device_file(tmp_path)
    assert (own.name, own.labels) == ("bosgame", {"desk": "left", "cooling": "stock"})
    assert (own.memory, own.dedicated_vram, own.power_limit) == (MemoryKind.CARVE_OUT, 32 * GIB, 80.0)
    assert own.allow == Allow(set_dedicated_vram=True, reboot=["sudo", "systemctl", "reboot"], power=["ryzenadj"])


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "name:\nmemory:\ndedicated_vram:\npower_limit:\n"])
def test_where_nothing_is_said_nothing_is_known_and_nothing_allowed(tmp_path: Path, text: str) -> None:
    (tmp_path / "device.yaml").write_text(text)
    own = read_device_file(tmp_path)
    assert own == DeviceFile() == read_device_file(tmp_path / "no such folder")
    assert (own.name, own.memory, own.dedicated_vram, own.power_limit) == (None, None, None, None)
    assert (own.allow.set_dedicated_vram, own.allow.power) == (False, [])
    assert own.allow.reboot == ["systemctl", "reboot"]


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("nam: x\n", "nam: ", TOP_KEYS),
        ("name: [a]\n", "name: ", "string"),
        ("name: 7\n", "name: ", "string"),
        ("labels: {desk: [1]}\n", "labels.desk: ", "string"),
        ("labels: left\n", "labels: ", "dictionary"),
        ("memory: shared\n", "memory: ", "'discrete', 'carve-out', 'unified' or 'none'"),
        ("dedicated_vram: 32\n", "dedicated_vram: ", "a size with its unit such as 512MiB"),
        ("dedicated_vram: lots\n", "dedicated_vram: ", "a size with its unit such as 512MiB"),
        ("dedicated_vram: [32GiB]\n", "dedicated_vram: ", "a size with its unit such as 512MiB"),
        (f"dedicated_vram: {'9' * 400}GiB\n", "dedicated_vram: ", "a size with its unit such as 512MiB"),
        ("power_limit: -5W\n", "power_limit: ", "watts above 0 such as 80W"),
        ("power_limit: 0\n", "power_limit: ", "watts above 0 such as 80W"),
        ("power_limit: 80 V\n", "power_limit: ", "watts above 0 such as 80W"),
        (f"power_limit: {'9' * 400}W\n", "power_limit: ", "watts above 0 such as 80W"),
        ("allow: everything\n", "allow: ", "dictionary"),
        ("allow: {set_vram: true}\n", "allow.set_vram: ", "set_dedicated_vram, reboot, power"),
        ("allow: {set_dedicated_vram: sometimes}\n", "allow.set_dedicated_vram: ", "boolean"),
        ("allow: {reboot: systemctl reboot}\n", "allow.reboot: ", "list"),
        ("allow: {reboot: []}\n", "allow.reboot: ", "at least 1 item"),
        ("allow: {power: ryzenadj}\n", "allow.power: ", "list"),
        ("allow: {power_most: much}\n", "allow.power_most: ", "watts above 0 such as 80W"),
        ("allow: {power: [1]}\n", "allow.power.0: ", "string"),
        ("- a\n", "the file: ", TOP_KEYS),
        ("just words\n", "the file: ", TOP_KEYS),
        ("a: b: c\n", "", TOP_KEYS),
        ("name: 'open\n", "", TOP_KEYS),
        ("\x00", "", TOP_KEYS),
    ],
)
def test_what_is_wrong_is_told_with_file_key_and_what_is_allowed(
    tmp_path: Path, text: str, key: str, allowed: str
) -> None:
    path = tmp_path / "device.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_device_file(tmp_path)
    words = str(caught.value)
    assert words.startswith(f"{path}: {key}"), words
    assert allowed in words and "Allowed keys: " in words, words
    assert "\n" not in words, "one line, for a list of devices"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "device.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ValueError, match=r"device\.yaml: .*Allowed keys: name, "):
        read_device_file(tmp_path)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "device.yaml").mkdir()
    with pytest.raises(ValueError, match=r"device\.yaml: .*directory.*Allowed keys: name, "):
        read_device_file(tmp_path)


@pytest.mark.parametrize(
    "text", ["512MiB", "512 MiB", "32GiB", "32G", "512M", "0.5GiB", "16GB", "500MB", "32gib", "0MiB"]
)
def test_a_size_means_what_it_means_in_a_matrix(text: str) -> None:
    assert DeviceFile.model_validate({"dedicated_vram": text}).dedicated_vram == bytes_in_a_matrix(text)


def test_a_newer_version_said_more(tmp_path: Path) -> None:
    (tmp_path / "stated.json").write_text('{"power_limit_w": 60.0, "fan_rpm": 900}')
    assert read_stated(tmp_path, OWN) == Stated(8 * GIB, 60.0)


@pytest.mark.parametrize("text", ["80W", "80", "7.5W", "80 W", "80w"])
def test_watts_mean_what_they_mean_in_a_matrix(text: str) -> None:
    assert DeviceFile.model_validate({"power_limit": text}).power_limit == watts_in_a_matrix(text)


@pytest.mark.parametrize("value", ["", "GiB", "1.GiB", "-1GiB", "1e3GiB", "32 PiB", "32GiB x", True, {}])
def test_no_size(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not allowed here\. Allowed: a size with its unit"):
        DeviceFile.model_validate({"dedicated_vram": value})


@pytest.mark.parametrize("value", ["", "W", "-1", "0W", "1e3", "nan", "inf", "80 watts", True])
def test_no_watts(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not allowed here\. Allowed: watts"):
        DeviceFile.model_validate({"power_limit": value})


OWN = DeviceFile.model_validate({"dedicated_vram": "8GiB", "power_limit": "45W"})


def test_the_operators_latest_word_counts_more_than_the_file(tmp_path: Path) -> None:
    assert read_stated(tmp_path, DeviceFile()) == Stated()
    assert read_stated(tmp_path, OWN) == Stated(8 * GIB, 45.0)
    keep_stated(tmp_path, Stated(power_limit_w=80.0))
    assert read_stated(tmp_path, OWN) == Stated(8 * GIB, 80.0)
    keep_stated(tmp_path, Stated(dedicated_vram_bytes=32 * GIB))
    assert read_stated(tmp_path, OWN) == Stated(32 * GIB, 80.0)
    keep_stated(tmp_path, Stated(dedicated_vram_bytes=16 * GIB))
    assert read_stated(tmp_path, DeviceFile()) == Stated(16 * GIB, 80.0)
    assert [path.name for path in tmp_path.iterdir()] == ["stated.json"]


def test_zero_is_a_word_too(tmp_path: Path) -> None:
    keep_stated(tmp_path, Stated(dedicated_vram_bytes=0))
    assert read_stated(tmp_path, OWN).dedicated_vram_bytes == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"of": "another version"}', "\x00"])
def test_what_stands_there_and_cannot_be_read_is_as_nothing_and_can_be_said_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "stated.json").write_text(text)
    assert read_stated(tmp_path, OWN) == Stated(8 * GIB, 45.0)
    keep_stated(tmp_path, Stated(power_limit_w=80.0))
    assert read_stated(tmp_path, OWN) == Stated(8 * GIB, 80.0)


def test_a_disk_that_takes_no_more_leaves_the_word_before(tmp_path: Path) -> None:
    keep_stated(tmp_path, Stated(power_limit_w=80.0))
    with full_disk(), pytest.raises(OSError, match="No space left"):
        keep_stated(tmp_path, Stated(power_limit_w=60.0))
    assert read_stated(tmp_path, OWN).power_limit_w == 80.0


@pytest.mark.parametrize("url", ["http://me:secret@127.0.0.1:1234", "ftp://127.0.0.1", "127.0.0.1:1234"])
def test_an_engines_address_holds_no_login(url: str, tmp_path: Path) -> None:
    """It stands in rows: a token has a variable of its own."""
    (tmp_path / "device.yaml").write_text(f"engines: {{lmstudio: {{url: '{url}'}}}}\n")
    with pytest.raises(ValueError, match=r"device\.yaml: engines\.lmstudio\.url: .* Allowed keys: url, ") as caught:
        read_device_file(tmp_path)
    assert "secret" not in str(caught.value)


def test_a_statement_is_taken_back(tmp_path: Path) -> None:
    own = DeviceFile.model_validate({"power_limit": "30W"})
    keep_stated(tmp_path, Stated(dedicated_vram_bytes=8 * GIB, power_limit_w=45.0))
    assert read_stated(tmp_path, own).power_limit_w == 45.0
    keep_stated(tmp_path, Stated(power_limit_w=TAKEN_BACK))
    assert read_stated(tmp_path, own) == Stated(8 * GIB, 30.0)


def test_all_faults_come_at_once_with_the_nearest_word(tmp_path: Path) -> None:
    (tmp_path / "device.yaml").write_text("memory_bandwith: 256GB/s\nengine: {}\n")
    with pytest.raises(ValueError, match=r"unknown key; did you mean memory_bandwidth\?.*; and engine: unknown key"):
        read_device_file(tmp_path)
