"""Recordings: xllamacpp 2026.10.11549 (llama.cpp b11549) at verbosity 4; key-value dumps and paths taken out."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from agents.contract.report import Cause
from agents.engines.llama.log import LogFacts, cause_of_death, cause_of_failed_load, read_log

RECORDINGS = Path(__file__).parents[2] / "recordings" / "llama_log"
MIB = 1024 * 1024


def recording(name: str) -> str:
    return (RECORDINGS / f"{name}.txt").read_text(encoding="utf-8")


def test_a_good_load() -> None:
    assert read_log(recording("good_load")) == LogFacts(
        weights_bytes=round(4.26 * MIB),
        kv_bytes=2 * MIB,
        compute_bytes=round(8.02 * MIB),
        layers_offloaded=None,
        layers_total=None,
        context_tokens=1024,
        devices=(),
        reported=(
            ("n_threads", "2"),
            ("n_threads_batch", "2"),
            ("n_batch", "1024"),
            ("n_ubatch", "512"),
            ("flash_attn", "auto"),
            ("flash_attn_resolved", "enabled"),
            ("load_mode", "mmap"),
            (
                "cpu",
                "SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | LLAMAFILE = 1"
                " | OPENMP = 1 | REPACK = 1",
            ),
        ),
    )


def test_the_projectors_buffers_are_added() -> None:
    facts = read_log(recording("vision"))
    assert facts.compute_bytes == round((9.52 + 41.46) * MIB)
    assert facts.kv_bytes == 2 * MIB


GPU_LOAD = """\
0.00.310.001 I llama_model_load_from_file_impl: using device \
Vulkan0 (AMD Radeon 860M Graphics (RADV KRACKAN1)) (0000:c4:00.0) - 21714 MiB free
0.01.100.000 I load_tensors: offloading output layer to GPU
0.01.100.001 I load_tensors: offloading 47 repeating layers to GPU
0.01.100.002 I load_tensors: offloaded 48/48 layers to GPU
0.01.100.003 I load_tensors:   CPU_Mapped model buffer size =   170.16 MiB
0.01.100.004 I load_tensors:      Vulkan0 model buffer size = 17173.50 MiB
0.02.000.001 I llama_context: n_ctx                 = 16384
0.02.000.002 I llama_context: Vulkan_Host  output buffer size =     0.59 MiB
0.02.000.003 I llama_kv_cache:    Vulkan0 KV buffer size =   846.00 MiB
0.02.000.004 I llama_memory_recurrent:    Vulkan0 RS buffer size =     4.00 MiB
0.02.000.005 I sched_reserve:    Vulkan0 compute buffer size =   310.50 MiB
0.02.000.006 I sched_reserve: Vulkan_Host compute buffer size =    36.01 MiB
"""


def test_a_load_on_a_gpu() -> None:
    facts = read_log(GPU_LOAD)
    assert (facts.layers_offloaded, facts.layers_total, facts.context_tokens) == (48, 48, 16384)
    assert facts.weights_bytes == round((170.16 + 17173.5) * MIB)
    assert facts.kv_bytes == 850 * MIB  # recurrent state stands where a KV cache would
    assert facts.compute_bytes == round((310.5 + 36.01) * MIB)
    assert facts.devices == ("Vulkan0 (AMD Radeon 860M Graphics (RADV KRACKAN1))",)


def test_nothing_in_a_log_is_nothing_known() -> None:
    assert read_log("") == read_log("what is this?\n\x00") == LogFacts(None, None, None, None, None, None, (), ())


@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("missing_file", Cause.MODEL_FILE_MISSING, "'/models/nowhere.gguf' (No such file or directory)"),
        ("truncated", Cause.MODEL_FILE_INVALID, "'blk.3.ffn_up.weight' data is not within the file bounds"),
        ("head_cut", Cause.MODEL_FILE_INVALID, "failed to read key-value pairs"),
        ("text", Cause.MODEL_FILE_INVALID, "invalid magic characters: 'hell', expected 'GGUF'"),
        ("arch", Cause.MODEL_FILE_INVALID, "unknown model architecture: 'llamX'"),
        ("ram_kv", Cause.RAM, "insufficient memory (attempted to allocate 7812.50 MB)"),
        ("quantised_v_without_flash", Cause.LOAD_FAILED, "quantized V cache requires flash_attn to be enabled"),
        ("port_taken", Cause.LOAD_FAILED, "couldn't bind HTTP server socket, hostname: 127.0.0.1, port:"),
    ],
)
def test_recorded_failures(name: str, cause: Cause, words: str) -> None:
    found, said = cause_of_failed_load(recording(name), None)
    assert found is cause
    assert words in said
    assert "\n" not in said


# The first lines as published with build b96xx and later; the others from the format strings in ggml-cuda.cu,
# ggml-alloc.c, llama-model.cpp and llama-context.cpp.
VULKAN = """\
ggml_vulkan: Device memory allocation of size 1037832192 failed.
ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory
0.02.468.179 E alloc_tensor_range: failed to allocate Vulkan0 buffer of size 1037832192
0.02.672.374 E llama_model_load: error loading model: unable to allocate Vulkan0 buffer
0.02.672.380 E llama_model_load_from_file_impl: failed to load model
"""
CUDA = """\
0.01.000.000 E ggml_backend_cuda_buffer_type_alloc_buffer: \
allocating 18432.00 MiB on device 0: cudaMalloc failed: out of memory
0.01.000.001 E alloc_tensor_range: failed to allocate CUDA0 buffer of size 19327352832
0.01.000.002 E llama_model_load: error loading model: unable to allocate CUDA0 buffer
"""
ROCM_COMPUTE = """\
0.01.000.000 E ggml_gallocr_reserve_n_impl: failed to allocate ROCm0 buffer of size 2147483648
0.01.000.001 E llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers
"""
CUDA_KV = """\
0.01.000.000 E ggml_backend_cuda_buffer_type_alloc_buffer: \
allocating 9000.00 MiB on device 0: cudaMalloc failed: out of memory
0.01.000.001 E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache
"""
CUDA_ABORT = """\
0.01.000.000 E CUDA error: out of memory
0.01.000.001 E   current device: 0, in function alloc at ggml-cuda.cu:504
"""
VULKAN_UNCAUGHT = """\
terminate called after throwing an instance of 'vk::OutOfDeviceMemoryError'
  what():  vk::Device::allocateMemory: ErrorOutOfDeviceMemory
"""
HOST_BUFFER = "0.01.000.000 E alloc_tensor_range: failed to allocate CUDA_Host buffer of size 19327352832\n"
BAD_ALLOC = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
ASSERTION = "ggml.c:3512: GGML_ASSERT(ggml_nelements(a) == ne0*ne1) failed\n"


@pytest.mark.parametrize(
    ("log", "returncode", "cause", "words"),
    [
        (VULKAN, None, Cause.VRAM, "failed to allocate Vulkan0 buffer of size 1037832192"),
        (CUDA, None, Cause.VRAM, "allocating 18432.00 MiB on device 0: cudaMalloc failed: out of memory"),
        (CUDA_KV, None, Cause.VRAM, "cudaMalloc failed"),
        (ROCM_COMPUTE, None, Cause.VRAM, "failed to allocate ROCm0 buffer"),
        (CUDA_ABORT, -signal.SIGABRT, Cause.VRAM, "CUDA error: out of memory"),
        (VULKAN_UNCAUGHT, -signal.SIGABRT, Cause.VRAM, "ErrorOutOfDeviceMemory"),
        (HOST_BUFFER, None, Cause.RAM, "CUDA_Host"),  # pinned, but RAM
        (BAD_ALLOC, -signal.SIGABRT, Cause.RAM, "std::bad_alloc"),
        (ASSERTION, -signal.SIGABRT, Cause.ENGINE_CRASHED, "SIGABRT while loading: ggml.c:3512: GGML_ASSERT"),
        ("0.0.0.1 I all is well\n", -signal.SIGKILL, Cause.RAM, "SIGKILL"),  # the kernel, out of memory
        ("0.0.0.1 I all is well\n", -signal.SIGSEGV, Cause.ENGINE_CRASHED, "SIGSEGV"),
        ("", -250, Cause.ENGINE_CRASHED, "signal 250"),
        ("", 3, Cause.LOAD_FAILED, "exit code 3 and said nothing"),
        ("last words\n", 1, Cause.LOAD_FAILED, "last words"),
    ],
)
def test_failures_by_their_words_and_by_their_signal(
    log: str, returncode: int | None, cause: Cause, words: str
) -> None:
    found, said = cause_of_failed_load(log, returncode)
    assert found is cause
    assert words in said


@pytest.mark.parametrize(
    ("returncode", "cause", "words"),
    [
        (-signal.SIGKILL, Cause.ENGINE_CRASHED, "SIGKILL during the request: out of memory, most likely"),
        (-signal.SIGABRT, Cause.ENGINE_CRASHED, "SIGABRT during the request"),
        (0, Cause.ENGINE_LOST, "exit code 0"),
        (1, Cause.ENGINE_LOST, "exit code 1"),
    ],
)
def test_death_under_a_request(returncode: int, cause: Cause, words: str) -> None:
    found, said = cause_of_death(returncode)
    assert (found, words in said) == (cause, True)


def test_recordings_name_no_place_of_the_machine_they_were_made_on() -> None:
    for path in RECORDINGS.glob("*.txt"):
        named = re.findall(r"(?:'|from )(/[^\s']+)", path.read_text(encoding="utf-8"))
        assert all(name.startswith("/models/") for name in named), path.name
