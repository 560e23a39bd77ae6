"""Reading: texts as written, aliases, pictures, the device selector, the schema for editors, the examples."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.device import Device, Gpu, MemoryKind
from agents.contract.job import Chat, Image, Sampling, Stop, Synthetic, Timeouts
from orchestrator.matrix import MatrixErrors, Measure, expand, parse_matrix
from orchestrator.matrix.problems import BadValue
from orchestrator.matrix.workloads import from_notation, picture
from tests.unit.matrix.matrix_file import GOOD, read

HEAVY = ("numpy", "pyarrow", "ray", "httpx", "rich")


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * (width + 1) * height)) + chunk(b"IEND", b"")
    )


PICTURES = [
    (png(3, 5), ("image/png", 3, 5)),
    (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0\x00\x11\x08\x03\x3f\x05\xce" + b"\0" * 9, ("image/jpeg", 1486, 831)),
    (b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + b"\xce\x05\x3f\x03", ("image/webp", 1486, 831)),
    (b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + ((830 << 14) | 1485).to_bytes(4, "little"), ("image/webp", 1486, 831)),
    (b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 8 + b"\xcd\x05\0\x3e\x03\0", ("image/webp", 1486, 831)),
]


@pytest.mark.parametrize(("data", "expected"), PICTURES, ids=["png", "jpeg", "webp", "webp-lossless", "webp-extended"])
def test_pictures(data: bytes, expected: tuple[str, int, int]) -> None:
    assert picture(data) == expected
    for length in range(16):
        with pytest.raises(BadValue, match="Allowed: a PNG, JPEG or WebP picture"):
            picture(data[:length])


@given(st.binary(max_size=64), st.sampled_from([b"", b"\xff\xd8", b"RIFF\0\0\0\0WEBP", b"\x89PNG\r\n\x1a\n"]))
def test_any_bytes_are_a_picture_or_refused(data: bytes, start: bytes) -> None:
    try:
        _, width, height = picture(start + data)
    except BadValue:
        return
    assert width > 0 and height > 0


def test_texts_are_read_as_written(tmp_path: Path) -> None:
    """YAML 1.1 would make False of `no`, 1.2 of `1.20`, and 5400 of `1:30:00`."""
    matrix = read(
        tmp_path,
        "axes: {model: [no, 1.20, '1:30:00', 0x10, 1e3, null, 2026-11-23], workload: pp1, engine: ollama}\n"
        "devices: {labels: {country: no, rack: 010}}\nname: 007\n",
    )
    assert [cell.values["model"] for cell in expand(matrix)] == [
        "no",
        "1.20",
        "1:30:00",
        "0x10",
        "1e3",
        "null",
        "2026-11-23",
    ]
    assert matrix.devices.labels == (("country", "no"), ("rack", "010"))
    assert matrix.name == "007"


def test_anchors_merge_keys_and_places_for_them(tmp_path: Path) -> None:
    matrix = read(
        tmp_path,
        "x-base: &base {max_tokens: 8, seed: 3, prompt: one}\n"
        "workloads:\n  a: *base\n  b: {<<: *base, prompt: two}\n  c: {<<: [{seed: 9}, *base]}\n"
        "axes: {model: tiny:llama, workload: [a, b, c]}\nexclude:\n",
    )
    found = {
        name: (work.prompt, work.sampling.seed) for name, work in matrix.workloads.items() if isinstance(work, Chat)
    }
    assert found == {"a": ("one", 3), "b": ("two", 3), "c": ("one", 9)}


def test_everything_a_file_may_say(tmp_path: Path) -> None:
    data = png(4, 2)
    (tmp_path / "p.png").write_bytes(data)
    matrix = read(
        tmp_path,
        """
name: all
question: Why?
workloads:
  web: {prompt: "a\\nb", system: be short, image: p.png, max_tokens: 8K, stop: exact, seed: 42, temperature: 0.5,
        top_k: 40, top_p: 0.9, min_p: 0.05, repeat_penalty: 1.1}
  long: {prompt_tokens: 2K, generate_tokens: 128, depth: 16K, seed: 1}
axes: {model: tiny:qwen3vl, workload: [web, long, pp2K]}
measure: {repeats: 5, warmups: 0, seed: 7, keep_output: on}
timeouts: {load: 1m, first_token: 500ms, trial: 2h}
""",
    )
    image = Image("p.png", "image/png", 4, 2, base64.b64encode(data).decode())
    sampling = Sampling(42, 0.5, 40, 0.9, 0.05, 1.1)
    assert matrix.workloads == {
        "web": Chat("web", "a\nb", 8192, Stop.EXACT, "be short", image, sampling),
        "long": Synthetic("long", 2048, 128, 16384, Sampling(1)),
        "pp2048": Synthetic("pp2048", 2048, 0, 0),
    }
    assert matrix.measure == Measure(5, 0, 7, True)
    assert matrix.timeouts == Timeouts(60.0, 0.5, 7200.0)
    assert (matrix.name, matrix.question) == ("all", "Why?")


def test_digest_covers_text_and_files(tmp_path: Path) -> None:
    text = GOOD.replace("pp512", "w") + "workloads: {w: {prompt_file: p.txt, max_tokens: 1}}"
    (tmp_path / "p.txt").write_text("one")
    first = read(tmp_path, text).digest
    assert read(tmp_path, text).digest == first
    (tmp_path / "p.txt").write_text("two")
    assert len({first, read(tmp_path, text).digest, read(tmp_path, text + " ").digest}) == 3


@pytest.mark.parametrize(
    ("text", "work"),
    [
        ("pp512", Synthetic("pp512", 512)),
        ("tg128", Synthetic("tg128", 0, 128)),
        ("pp512+tg128", Synthetic("pp512+tg128", 512, 128)),
        ("tg128@d4K", Synthetic("tg128@d4096", 0, 128, 4096)),
        ("pp1K@d2k", Synthetic("pp1024@d2048", 1024, 0, 2048)),
        *(
            (text, None)
            for text in ("pp", "tg", "pp0", "@d5", "pp1tg1", "pp1+", "+tg1", "tg1+pp1", "pp-1", "PP512", "")
        ),
    ],
)
def test_llama_bench_notation(text: str, work: Synthetic | None) -> None:
    assert from_notation(text) == work


LAPTOP = Device(
    "u-1",
    "Lab-Laptop",
    "b",
    "linux",
    "6.18",
    "x86_64",
    "Ryzen AI Max+ 395",
    16,
    32,
    32 * 1024**3,
    MemoryKind.CARVE_OUT,
    gpus=(Gpu("Radeon 8060S", "amd"),),
    dedicated_vram_bytes=32 * 1024**3,
    labels=(("lab", "munich"),),
)
MAC = Device(
    "u-2",
    "mac",
    "b",
    "darwin",
    "25",
    "arm64",
    "M4",
    10,
    10,
    48 * 1024**3,
    MemoryKind.UNIFIED,
    gpus=(Gpu("M4", "apple"),),
)
BARE = Device("u-3", "bare", "b", "linux", "6.1", "x86_64", "i3", 2, 4, 8 * 1024**3, MemoryKind.NONE)


@pytest.mark.parametrize(
    ("selector", "device", "why_not"),
    [
        ("{}", BARE, None),
        ("{ids: [u-1, u-2]}", LAPTOP, None),
        ("{ids: u-1}", MAC, "its id u-2 is not one of u-1"),
        ("{names: lab-*}", LAPTOP, None),
        ("{names: [lab-*, x]}", MAC, "its name mac is not one of lab-*, x"),
        ("{labels: {lab: munich}}", LAPTOP, None),
        ("{labels: {lab: bonn}}", LAPTOP, "its label lab is munich, not bonn"),
        ("{labels: {lab: bonn}}", MAC, "it has no label lab"),
        ("{min_ram: 32GiB}", LAPTOP, None),
        ("{min_ram: 32GiB}", BARE, "it has 8 GiB of RAM, less than 32 GiB"),
        ("{min_vram: 40G}", MAC, None),
        ("{min_vram: 40G}", LAPTOP, "it has 32 GiB of VRAM, less than 40 GiB"),
        ("{gpu_vendor: [AMD, nvidia]}", LAPTOP, None),
        ("{gpu_vendor: amd}", MAC, "its GPU is by apple, not amd"),
        ("{gpu_vendor: amd}", BARE, "it has no GPU, and amd is asked"),
    ],
)
def test_device_selector(tmp_path: Path, selector: str, device: Device, why_not: str | None) -> None:
    devices = read(tmp_path, GOOD + f"devices: {selector}").devices
    assert devices.why_not(device) == why_not
    assert devices.matches(device) is (why_not is None)


documents = st.recursive(
    st.sampled_from(["16K", "tiny:llama", "pp512", "on", "", "*", "{}", "80W", "-1", "nan"]) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "axes",
                    "model",
                    "workload",
                    "zip",
                    "include",
                    "exclude",
                    "context",
                    "from",
                    "to",
                    "step",
                    "<<",
                    "models",
                    "workloads",
                    "prompt",
                    "image",
                    "max_tokens",
                    "devices",
                    "hf",
                    "names",
                    "defaults",
                    "measure",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(documents)
def test_any_document_is_read_or_refused_in_words(document: Any) -> None:
    refused_or_read(yaml.safe_dump(document))


@given(st.text(st.sampled_from("axes:model[]{},&*a!<>|-\n \"'#%@`1K\t\x00é"), max_size=60))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    refused_or_read(text)


def refused_or_read(text: str) -> None:
    def no_file(name: str) -> bytes:
        raise BadValue("no such file")

    try:
        expand(parse_matrix(text, Path("m.yaml"), no_file))
    except MatrixErrors as error:
        assert error.problems


def test_importing_the_package_brings_nothing_heavy() -> None:
    script = f"import sys, orchestrator.matrix; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
