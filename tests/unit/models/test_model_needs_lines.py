"""What is said of missing models before a run."""

from __future__ import annotations

from agents.contract.model_need import ModelNeed
from orchestrator.plan.model_needs import DeviceNeeds, needs_lines

GIB = 1 << 30
HERE = ModelNeed("tiny:llama", "Q4_0", True, 0, 0)


def lacks(gib: float | None, model: str = "qwen", detail: str = "") -> ModelNeed:
    return ModelNeed(model, "Q4_K_M", False, None if gib is None else round(gib * GIB), 1, detail)


def lines(*devices: DeviceNeeds) -> list[str]:
    return needs_lines({device.name: device for device in devices})


def test_nothing_is_said_where_nothing_is_missing() -> None:
    assert lines() == []
    assert lines(DeviceNeeds("strix-1", 0, (HERE, HERE)), DeviceNeeds("strix-2", GIB, ())) == []


def test_a_device_that_lacks_something_has_a_line() -> None:
    needs = (HERE, lacks(10), lacks(18.1, "other"), HERE, HERE)
    assert lines(DeviceNeeds("strix-1", 412 * GIB, needs), DeviceNeeds("strix-2", GIB, (HERE,))) == [
        "models: strix-1 lacks 2 of 5, 28.1 GiB of 412 GiB free"
    ]


def test_what_does_not_fit_is_warned_of_with_the_margin_that_a_download_keeps() -> None:
    assert lines(DeviceNeeds("strix-1", 12 * GIB, (lacks(28.1),))) == [
        "models: strix-1 lacks 1 of 1, 28.1 GiB of 12 GiB free",
        "models: warning: strix-1 has room for 12 GiB and lacks 28.1 GiB: 16.2 GiB too little",
    ]
    margin = 64 << 20
    assert len(lines(DeviceNeeds("a", GIB + margin, (lacks(1),)))) == 1
    assert len(lines(DeviceNeeds("a", GIB + margin - 1, (lacks(1),)))) == 2


def test_what_cannot_be_told_is_named_with_its_reason() -> None:
    needs = (
        lacks(2),
        lacks(None, "/models/a.gguf", "not on this device"),
        lacks(None, "b"),
        *(lacks(None, f"m{number}", "the hub did not answer") for number in range(3)),
    )
    assert lines(DeviceNeeds("strix-1", 12 * GIB, needs)) == [
        "models: strix-1 lacks 6 of 6, 2 GiB and 5 of unknown size of 12 GiB free",
        "models: warning: strix-1: /models/a.gguf Q4_K_M (not on this device), b Q4_K_M (size unknown),"
        " m0 Q4_K_M (the hub did not answer) and 2 more",
    ]


def test_many_devices_have_one_line_and_the_warnings_of_those_that_cannot_do() -> None:
    fleet = [DeviceNeeds(f"strix-{number}", 100 * GIB, (lacks(number), HERE)) for number in range(1, 11)]
    whole = DeviceNeeds("whole", GIB, (HERE,))
    assert lines(*fleet[:8], whole) == [
        f"models: strix-{number} lacks 1 of 2, {number} GiB of 100 GiB free" for number in range(1, 9)
    ]
    full = DeviceNeeds("full", 5 * GIB, (lacks(9), HERE))
    assert lines(*fleet, full, whole) == [
        "models: 11 of 12 devices lack 11 in all, 64 GiB; the most: strix-10, 10 GiB of 100 GiB free",
        "models: warning: full has room for 5 GiB and lacks 9 GiB: 4.1 GiB too little",
    ]


def test_the_warnings_of_a_large_fleet_are_counted() -> None:
    fleet = [DeviceNeeds(f"strix-{number}", GIB, (lacks(9),)) for number in range(20)]
    messages = lines(*fleet)
    assert len(messages) == 1 + 8 + 1
    assert messages[-1] == "models: and 12 more warnings"
