from __future__ import annotations

import json
from typing import Any

import pytest

from agents.contract.job import NodeInput, Workflow
from agents.contract.report import Cause
from agents.engines.causes import cause_of_run
from agents.engines.comfyui.graph import filled, loaders_of, models_of, refusal, samplers_of
from agents.engines.comfyui.memory import Memory, memory_in, peak, polling_memory
from agents.errors import AgentError, Unsupported

FLUX: dict[str, Any] = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux/flux1-dev.SFT"}},
    "2": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "t5.safetensors", "clip_name2": "l.safetensors"}},
    "3": {"class_type": "RandomNoise", "inputs": {"noise_seed": 5}},
    "4": {"class_type": "BasicScheduler", "inputs": {"steps": 20, "model": ["1", 0]}},
    "5": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["3", 0], "sigmas": ["4", 0]}},
    "6": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
}
SEED = NodeInput("seed", "3", "noise_seed")


def test_what_a_graph_names() -> None:
    assert models_of(FLUX) == ("flux/flux1-dev.SFT", "t5.safetensors", "l.safetensors")
    assert loaders_of(FLUX) == frozenset("12")
    assert samplers_of(FLUX) == frozenset("45")


@pytest.mark.parametrize(("seed", "nonce", "used"), [(0, 0, 0), (40, 2, 42), (2**64 - 1, 3, 2)])
def test_each_run_has_its_seed(seed: int, nonce: int, used: int) -> None:
    work = Workflow("w", json.dumps(FLUX), seed=seed, inputs=(SEED,))
    graph = filled(work, nonce, "t5.safetensors")
    assert graph["3"]["inputs"]["noise_seed"] == used
    assert graph["4"] == FLUX["4"]


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000])
def test_a_graph_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Unsupported, match="workflow w is no"):
        filled(Workflow("w", text, inputs=(SEED,)), 0, "m")


def test_a_graph_without_models_takes_any_name() -> None:
    empty = {"1": {"class_type": "EmptyImage", "inputs": {"color": 1}}}
    assert filled(Workflow("w", json.dumps(empty), inputs=(NodeInput("seed", "1", "color"),)), 9, "none")


@pytest.mark.parametrize(
    "answer", [None, [], {"error": "x"}, {"node_errors": [1]}, {"node_errors": {"1": {"errors": [{}]}}}]
)
def test_a_refusal_of_any_shape_has_words(answer: Any) -> None:
    refused = refusal(400, answer, "its body")
    assert refused.cause is Cause.REQUEST_REFUSED and refused.detail.startswith("HTTP 400: ")


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a ...", Cause.VRAM),
        ("torch.OutOfMemoryError: HIP out of memory. Tried to allocate 20.00 MiB.", Cause.VRAM),
        ("torch.OutOfMemoryError: Allocation on device", Cause.VRAM),
        ("RuntimeError: MPS backend out of memory (MPS allocated: 9.05 GB, ...)", Cause.VRAM),
        ("RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.", Cause.RAM),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory", Cause.RAM),
        ("SafetensorError: Error while deserializing header: HeaderTooLarge", Cause.MODEL_FILE_INVALID),
        ("RuntimeError: ERROR: Could not detect model type of: /models/x.safetensors", Cause.MODEL_FILE_INVALID),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'x.safetensors'", Cause.MODEL_FILE_MISSING),
        ("OSError: [Errno 28] No space left on device", Cause.DISK_FULL),
        ("ValueError: shapes do not match", Cause.REQUEST_REFUSED),
    ],
)  # fmt: skip
def test_why_a_node_raised(words: str, cause: Cause) -> None:
    assert cause_of_run(f"node 5 (KSampler): {words}") is cause


@pytest.mark.parametrize(
    ("stats", "memory"),
    [
        (None, Memory()),
        ({"system": 1, "devices": [2]}, Memory()),
        ({"devices": [{"type": "cuda", "vram_total": 10, "vram_free": 4, "torch_vram_total": 3}]}, Memory(6, 3)),
        ({"devices": [{"type": "cuda", "vram_total": 10, "vram_free": "4"}]}, Memory()),
        ({"system": {"ram_total": 9, "ram_free": 2}, "devices": [{"type": "mps", "vram_total": 9, "vram_free": 1}]},
         Memory(ram_bytes=7)),
        ({"devices": [{"type": "cuda", "vram_total": 5, "vram_free": 4}] * 2}, Memory(2)),
    ],
)  # fmt: skip
def test_memory_by_its_own_word(stats: Any, memory: Memory) -> None:
    assert memory_in(stats) == memory


def test_a_peak_is_the_most_of_each() -> None:
    assert peak(Memory(), Memory()) == Memory()
    assert peak(Memory(5, None, 2), Memory(1, 3, 4)) == Memory(5, 3, 4)


def test_memory_is_read_at_the_start_and_at_the_end_also_without_an_answer() -> None:
    answers: list[Any] = [{"system": {"ram_total": 9, "ram_free": free}} for free in (5, 2)]

    def stats() -> Any:
        if not answers:
            raise AgentError(Cause.ENGINE_LOST, "gone")
        return answers.pop(0)

    with polling_memory(stats, every_s=0.001) as most:
        while answers:
            pass
    assert most.memory == Memory(ram_bytes=7)
