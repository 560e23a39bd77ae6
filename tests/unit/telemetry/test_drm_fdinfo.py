"""GPU engines from fdinfo: the text of three drivers, and the source on trees of processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.telemetry.sources.base import FollowsEngine
from agents.telemetry.sources.base import Quantity as Q
from agents.telemetry.sources.drm import cards
from agents.telemetry.sources.drm_clients import Client, latest, parse, shares
from agents.telemetry.sources.drm_fdinfo import RESCAN_ALL_S, Clients, DrmFdinfo, DrmFdinfoFinder
from tests.fakes.sensors import Now, card, gpu_descriptor, process, read

RECORDINGS = Path("tests/recordings/telemetry")
AMDGPU = (RECORDINGS / "amdgpu.fdinfo").read_text()
MIB = 2**20


@pytest.mark.parametrize(
    ("name", "client"),
    [
        (
            "amdgpu",
            Client(
                *("amdgpu", "0000:c5:00.0", 42),
                busy={"dma": (200000000, None), "compute": (5000000000, None), "gfx": (1000000, None)},
                capacity=dict.fromkeys(("dma", "compute", "gfx", "dec", "enc", "enc_1", "jpeg", "vpe"), 1),
                vram_bytes=19456 * MIB,
                gtt_bytes=256 * MIB,
            ),
        ),
        (
            "i915",
            Client(
                *("i915", "0000:00:02.0", 7),
                busy={
                    "copy": (40000000, None),
                    "render": (300000000, None),
                    "video": (0, None),
                    "video-enhance": (0, None),
                },
                capacity={"copy": 1, "compute": 1, "render": 1, "video": 2, "video-enhance": 1},
                vram_bytes=0,
                gtt_bytes=12 * MIB,
            ),
        ),
        (
            "xe",
            Client(
                *("xe", "0000:03:00.0", 3),
                busy={
                    **{"bcs": (0, 7655183225), "ccs": (1000, 7655183225)},
                    **{"rcs": (28257900, 7655183225), "vcs": (0, 7655183225)},
                },
                capacity={"bcs": 1, "ccs": 4, "rcs": 1, "vcs": 2, "vecs": 1},
                vram_bytes=23992 * 1024,
                gtt_bytes=192 * 1024,
            ),
        ),
    ],
)
def test_the_text_of_each_driver(name: str, client: Client) -> None:
    assert parse((RECORDINGS / f"{name}.fdinfo").read_bytes()) == client


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"",
        b"pos:\t0\nflags:\t02\n",
        b"drm-driver:\tamdgpu\n",
        b"drm-driver:\tamdgpu\ndrm-client-id:\tmany\n",
        b"drm-driver:\tvirtio_gpu\ndrm-client-id:\t1\n",
    ],
)
def test_no_client(text: bytes | None) -> None:
    assert parse(text) is None


@given(st.binary(max_size=200))
def test_noise_raises_nothing(noise: bytes) -> None:
    parse(noise)
    client = parse(b"drm-driver:\txe\ndrm-client-id:\t1\ndrm-cycles-rcs:" + noise)
    assert client is None or client.id == 1 or b"drm-client-id" in noise


@pytest.mark.parametrize(
    ("before", "now", "share"),
    [
        ({"dma": (100, None)}, {"dma": (600, None)}, 50.0),
        ({"dma": (100, None)}, {"dma": (100, None)}, 0.0),
        ({"dma": (100, None)}, {"dma": (50, None)}, 0.0),
        ({"dma": (0, 1000)}, {"dma": (30, 1100)}, 30.0),
        ({"dma": (0, 1000)}, {"dma": (30, 1000)}, None),
        ({}, {"dma": (30, None)}, None),
        ({"dma": (30, None)}, {}, None),
    ],
)
def test_shares(
    before: dict[str, tuple[int, int | None]], now: dict[str, tuple[int, int | None]], share: float | None
) -> None:
    client = Client("amdgpu", "", 1, before, {"dma": 1}, 0, 0)
    assert shares(client, replace(client, busy=now), elapsed_ns=1000).get("dma") == share


def test_a_counter_that_goes_back_is_held_until_it_catches_up() -> None:
    first = Client("amdgpu", "", 1, {"dma": (500, None)}, {"dma": 1}, 0, 0)
    second = latest(first, replace(first, busy={"dma": (400, None)}, gtt_bytes=7))
    third = latest(second, replace(first, busy={"dma": (510, None)}))
    assert (second.busy["dma"], second.gtt_bytes, shares(second, third, 1000)["dma"]) == ((500, None), 7, 1.0)


def with_work(text: str, **ns: int) -> str:
    """The recording with other counters."""
    for engine, value in ns.items():
        text = re.sub(rf"(drm-engine-{engine}:)\t\d+", rf"\1\t{value}", text)
    return text


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def source(tmp_path: Path, now: Now) -> Iterator[DrmFdinfo]:
    """A card without clients; its processes: 100, which has a child 101, and 200."""
    card(tmp_path, "amdgpu")
    for pid, parent in ((100, 1), (101, 100), (200, 1)):
        process(tmp_path, pid, parent)
    source = DrmFdinfo(cards(tmp_path, "amdgpu")[0], Clients(tmp_path), now)
    yield source
    source.close()


SECOND = 10**9


def test_deltas_become_shares(tmp_path: Path, source: DrmFdinfo, now: Now) -> None:
    path = gpu_descriptor(tmp_path, 100, 5, AMDGPU)
    assert read(source) == dict.fromkeys((Q.COPY_BUSY, Q.COMPUTE_BUSY, Q.GRAPHICS_BUSY, Q.VIDEO_BUSY))
    now.pass_s(2)
    path.write_text(with_work(AMDGPU, dma=200000000 + SECOND // 2, compute=5 * SECOND + 2 * SECOND))
    assert read(source) == {Q.COPY_BUSY: 25.0, Q.COMPUTE_BUSY: 100.0, Q.GRAPHICS_BUSY: 0.0, Q.VIDEO_BUSY: 0.0}
    now.pass_s(1)
    assert set(read(source).values()) == {0.0}


def test_a_client_counts_once_whatever_its_descriptors(tmp_path: Path, source: DrmFdinfo, now: Now) -> None:
    """Two of one process, and one that another process inherited."""
    paths = [gpu_descriptor(tmp_path, pid, number, AMDGPU) for pid, number in ((100, 5), (100, 6), (200, 5))]
    read(source)
    now.pass_s(1)
    for path in paths:
        path.write_text(with_work(AMDGPU, dma=200000000 + SECOND // 4))
    assert read(source)[Q.COPY_BUSY] == 25.0


def test_clients_add_up_and_the_engines_are_told_apart(tmp_path: Path, source: DrmFdinfo, now: Now) -> None:
    texts = {pid: AMDGPU.replace("id:\t42", f"id:\t{pid}") for pid in (101, 200)}
    paths = {pid: gpu_descriptor(tmp_path, pid, 5, text) for pid, text in texts.items()}
    assert isinstance(source, FollowsEngine)
    source.follow([100])
    read(source)
    now.pass_s(1)
    for pid, dma in ((101, SECOND // 10), (200, SECOND // 5)):
        paths[pid].write_text(with_work(texts[pid], dma=200000000 + dma))
    values = read(source)
    assert (values[Q.COPY_BUSY], values[Q.ENGINE_COPY_BUSY]) == pytest.approx((30.0, 10.0))
    assert (values[Q.ENGINE_VRAM], values[Q.ENGINE_GTT]) == (19456 * MIB, 256 * MIB)
    source.follow([])
    assert Q.ENGINE_VRAM not in read(source)


def test_an_engine_that_opens_the_gpu_later(tmp_path: Path, source: DrmFdinfo, now: Now) -> None:
    source.follow([100])
    assert read(source)[Q.ENGINE_VRAM] == 0
    gpu_descriptor(tmp_path, 101, 9, AMDGPU)
    now.pass_s(2)
    assert read(source)[Q.ENGINE_VRAM] == 19456 * MIB
    now.pass_s(1)
    assert read(source)[Q.ENGINE_COPY_BUSY] == 0.0


def test_another_users_process_is_seen_after_a_while(tmp_path: Path, source: DrmFdinfo, now: Now) -> None:
    read(source)
    path = gpu_descriptor(tmp_path, 200, 9, AMDGPU)
    now.pass_s(RESCAN_ALL_S)
    read(source)
    now.pass_s(1)
    path.write_text(with_work(AMDGPU, gfx=1000000 + SECOND))
    assert read(source)[Q.GRAPHICS_BUSY] == 100.0


def test_a_process_that_ends_and_a_number_that_is_used_again(tmp_path: Path, source: DrmFdinfo, now: Now) -> None:
    path = gpu_descriptor(tmp_path, 100, 5, AMDGPU)
    read(source)
    now.pass_s(1)
    path.write_text("pos:\t0\nflags:\t02\n")
    assert set(read(source).values()) == {0.0}


def test_descriptors_that_lead_elsewhere_are_not_opened(tmp_path: Path, source: DrmFdinfo, now: Now) -> None:
    gpu_descriptor(tmp_path, 100, 5, AMDGPU, leads_to="/home/user/file")
    source.follow([100])
    read(source)
    assert read(source)[Q.ENGINE_VRAM] == 0


def test_another_card_has_its_own_clients(tmp_path: Path, now: Now) -> None:
    card(tmp_path, "amdgpu", 0)
    card(tmp_path, "xe", 1, slot="0000:03:00.0")
    process(tmp_path, 100, 1)
    gpu_descriptor(tmp_path, 100, 5, AMDGPU)
    xe = (RECORDINGS / "xe.fdinfo").read_text()
    path = gpu_descriptor(tmp_path, 100, 6, xe)
    sources, missing = DrmFdinfoFinder().find(tmp_path)
    assert ([source.name for source in sources], missing) == (["drm_fdinfo:card0", "drm_fdinfo:card1"], [])
    shared = Clients(tmp_path)
    of_xe = DrmFdinfo(cards(tmp_path, "xe")[0], shared, now)
    read(of_xe)
    now.pass_s(1)
    path.write_text(xe.replace("cycles-rcs:\t28257900", "cycles-rcs:\t28258000").replace("7655183225", "7655183425"))
    values = read(of_xe)
    assert (values[Q.GRAPHICS_BUSY], values[Q.COMPUTE_BUSY]) == (50.0, 0.0)


def test_no_gpu(tmp_path: Path) -> None:
    sources, (missing,) = DrmFdinfoFinder().find(tmp_path)
    assert not sources
    assert "amdgpu, i915 or xe" in missing.why
