"""Every type of the contract goes through JSON and comes back equal; what is not of the contract is rejected."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.contract import device, job, measure, report
from agents.contract.device import Device, MemoryKind, StateSource, same_power, same_split, why_no_split
from agents.contract.job import Chat, Job, LoadSettings, Synthetic
from agents.contract.model_peers import Peer, Peers
from agents.contract.report import CAUSES, RETRIED, Cause, Failed, MachineSeen, Measured, Refused, Report
from agents.contract.wire_json import from_json, to_json

TYPES = tuple(
    kind
    for module in (device, job, measure, report)
    for kind in vars(module).values()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__
)

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(str, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


def any_of(kind: type) -> st.SearchStrategy[Any]:
    return st.from_type(kind)


def test_the_types_are_found() -> None:
    names = {kind.__name__ for kind in TYPES}
    assert {"Device", "Gpu", "Job", "LoadSettings", "Chat", "Synthetic", "Trial", "Reading", "Report"} <= names
    assert "MachineSeen" in names


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_json_and_back_is_the_same(kind: type, data: st.DataObject) -> None:
    value = data.draw(any_of(kind))
    text = to_json(value)
    assert b"\n" not in text  # one line in a pipe
    again: Any = from_json(kind, text)
    assert again == value
    assert type(again) is kind
    assert to_json(again) == text


CHAT = Chat("c", "hello", 8)
SYNTHETIC = Synthetic("s", 8, 8)


def a_job(workload: Chat | Synthetic) -> Job:
    return Job("j", 1, "c", "cell", "d", 0, LoadSettings("embedded", "m"), workload)


def a_report(outcome: Measured | Refused | Failed) -> Report:
    return Report("j", 1, "c", "d", "f", "b", 1.0, 2.0, outcome)


@pytest.mark.parametrize("workload", [CHAT, SYNTHETIC])
def test_the_kind_says_which_workload_it_is(workload: Chat | Synthetic) -> None:
    found = from_json(Job, to_json(a_job(workload)))
    assert type(found.workload) is type(workload)


@pytest.mark.parametrize("kind", ["embedding", "", None, 1])
def test_unknown_kinds_are_rejected(kind: object) -> None:
    sent = json.loads(to_json(a_job(CHAT)))
    sent["workload"]["kind"] = kind
    with pytest.raises(ValidationError, match="workload"):
        from_json(Job, json.dumps(sent))
    told = json.loads(to_json(a_report(Refused(Cause.UNSUPPORTED, "no"))))
    told["outcome"]["kind"] = kind
    with pytest.raises(ValidationError, match="outcome"):
        from_json(Report, json.dumps(told))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("load", "runtime"), "quantum"),
        (("workload", "stop"), "sometimes"),
        (("workload", "max_tokens"), "many"),
        (("attempt",), None),
    ],
)
def test_values_that_are_not_of_the_contract_are_rejected(place: tuple[str, ...], value: object) -> None:
    sent = json.loads(to_json(a_job(CHAT)))
    inner = sent
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(ValidationError, match=place[-1]):
        from_json(Job, json.dumps(sent))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "{", '{"job_id": "j"}'])
def test_what_is_no_job_is_rejected(text: str) -> None:
    with pytest.raises(ValidationError):
        from_json(Job, text)


def test_every_cause_has_words_of_its_own() -> None:
    assert set(CAUSES) == set(Cause)
    assert len({policy.description for policy in CAUSES.values()}) == len(Cause)


@pytest.mark.parametrize("kind", [LoadSettings, MachineSeen])
def test_fields_that_are_columns_have_definitions(kind: type) -> None:
    for each in fields(kind):
        if each.name != "source":
            assert each.metadata["definition"], each.name


def test_what_ends_a_job_from_outside_of_it_is_tried_again() -> None:
    assert {Cause.DEVICE_LOST, Cause.ENGINE_LOST} <= RETRIED
    assert not {Cause.WRONG_STATE, Cause.CANCELLED, Cause.AGENT_FAULT} & RETRIED


def test_peers_go_to_the_job_process_whole_and_no_repr_tells_their_token() -> None:
    peers = Peers("s3cret", "own", (Peer("d2", "http://host:1", "laptop"),))
    assert from_json(Peers, to_json(peers)) == peers
    assert "s3cret" not in repr(peers)


@pytest.mark.parametrize(
    ("wanted_mib", "seen_mib", "same"),
    [
        (512, 512, True),
        (512, 448, True),  # 64 MiB
        (512, 447, False),
        (32768, 32768 * 0.971, True),  # 3 %
        (32768, 32768 * 0.969, False),
        (32768, 49152, False),
        (512, None, False),
    ],
)
def test_sizes_that_are_one_choice_in_a_firmware(wanted_mib: int, seen_mib: float | None, same: bool) -> None:
    seen = None if seen_mib is None else int(seen_mib * 2**20)
    assert same_split(wanted_mib * 2**20, seen) is same


@pytest.mark.parametrize(
    ("wanted_w", "seen_w", "same"),
    [(80.0, 80.0, True), (80.0, 80.5, True), (80.0, 79.5, True), (80.0, 80.6, False), (80.0, None, False)],
)
def test_limits_that_are_one(wanted_w: float, seen_w: float | None, same: bool) -> None:
    assert same_power(wanted_w, seen_w) is same


GIB = 2**30


def a_device(kind: MemoryKind, split_gib: float | None = None, options_gib: tuple[float, ...] = ()) -> Device:
    return Device(
        device_id="id",
        name="bosgame",
        boot_id="b",
        os="Linux",
        kernel="6",
        arch="x86_64",
        cpu="a CPU",
        physical_cores=8,
        logical_cores=16,
        ram_bytes=128 * GIB,
        memory_kind=kind,
        dedicated_vram_bytes=None if split_gib is None else int(split_gib * GIB),
        split_source=None if split_gib is None else StateSource.SEEN,
        carveout_options_bytes=tuple(int(size * GIB) for size in options_gib),
    )


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (a_device(MemoryKind.CARVE_OUT), None),  # the operator may bring it
        (a_device(MemoryKind.CARVE_OUT, 32), None),
        (a_device(MemoryKind.CARVE_OUT, 32, (0.5, 15.9, 32)), None),
        (a_device(MemoryKind.CARVE_OUT, 15.9, (0.5, 32)), None),  # there already, whatever the menu says
        (
            a_device(MemoryKind.CARVE_OUT, 32, (0.5, 8, 32)),
            "the firmware of bosgame offers dedicated VRAM of 512 MiB, 8 GiB, 32 GiB; asked for: 16 GiB",
        ),
        (a_device(MemoryKind.DISCRETE, 24), "it has a card with memory of its own; asked for: 16 GiB"),
        (a_device(MemoryKind.UNIFIED), "it has one pool of memory, without a split; asked for: 16 GiB"),
        (
            a_device(MemoryKind.NONE),
            "as far as it can be seen; asked for: 16 GiB",
        ),
    ],
)
def test_why_a_split_can_never_be_had(device: Device, why: str | None) -> None:
    found = why_no_split(16 * GIB, device)
    if why is None:
        assert found is None
    else:
        assert found is not None and why in found and "bosgame" in found


def test_a_device_needs_what_identifies_it() -> None:
    with pytest.raises(ValidationError, match="device_id"):
        from_json(Device, "{}")
