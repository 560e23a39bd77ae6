"""An engine's message about a failure -> its Cause. PURE

The first pattern that matches decides: the most specific stand first. Texts from llama.cpp b11549, LM Studio 0.4,
Ollama 0.21, Lemonade 10, vLLM 0.19, TGI, TabbyAPI, MLC, lmdeploy, LiteLLM and the OpenAI API reference, as documented
or recorded.
"""

from __future__ import annotations

import re

from agents.contract.report import Cause

_OF_LOADS: tuple[tuple[str, Cause], ...] = (
    (r"context (length|size|window)[^.]{0,80}(too (large|long|big)|exceed|larger|greater)", Cause.CONTEXT_TOO_LONG),
    (r"(max_model_len|n_ctx)[^.]{0,80}(larger|greater|exceed)", Cause.CONTEXT_TOO_LONG),
    (r"ErrorOutOfDeviceMemory|cudaMalloc failed|hipMalloc failed|out of memory on device", Cause.VRAM),
    (r"(CUDA|ROCm|HIP|Vulkan|Metal|GPU|VRAM|device)\b[^.]{0,60}(out of memory|insufficient|not enough)", Cause.VRAM),
    (r"(out of|insufficient|not enough|exceeds?)[^.]{0,60}\b(VRAM|GPU|video memory|device memory)", Cause.VRAM),
    (r"(failed|unable) to allocate \w*(Vulkan|CUDA|ROCm|HIP|SYCL|Metal|MTL)(?!_Host)", Cause.VRAM),
    (r"requires more system memory|(insufficient|not enough|out of) (system )?(resources|memory)", Cause.RAM),
    (r"std::bad_alloc|(failed|unable) to allocate|Cannot allocate memory|guardrail", Cause.RAM),
    (
        r"(runtime|backend|llm engine)[^.]{0,60}(not (found|installed|available|supported)|missing)",
        Cause.RUNTIME_MISSING,
    ),
    (r"no (usable|suitable|lm)[^.]{0,20}(GPU|runtime)|No LM Runtime", Cause.RUNTIME_MISSING),
    (
        r"(model|file)[^.]{0,120}(not found|does not exist|no such)|No such file|pull(ing)? (it|model) first",
        Cause.MODEL_FILE_MISSING,
    ),
    (
        r"invalid magic|unknown model architecture|not a valid gguf|unsupported (model )?(architecture|format)",
        Cause.MODEL_FILE_INVALID,
    ),
    (r"crash|terminated|exit(ed)? (code|status|with)|signal:|core dumped|segmentation fault", Cause.ENGINE_CRASHED),
)

_OF_REQUESTS: tuple[tuple[str, Cause], ...] = (
    (r"exceed_context_size_error|context_length_exceeded|maximum context length", Cause.PROMPT_TOO_LONG),
    (r"ContextWindowExceeded|INPUT_LENGTH_ERROR|max_num_tokens|max_seq_len|maximum KV size", Cause.PROMPT_TOO_LONG),
    (r"prompt[^.]{0,60}is longer than the maximum model length|prompt is too long", Cause.PROMPT_TOO_LONG),
    (r"`?inputs`? (tokens \+|must have less than)|model input length limit|input token count", Cause.PROMPT_TOO_LONG),
    (r"Job requires \d+ pages", Cause.PROMPT_TOO_LONG),
    (
        r"(prompt|input|tokens|request)[^.]{0,120}(exceed|longer than|greater than|too long)[^.]{0,60}context",
        Cause.PROMPT_TOO_LONG,
    ),
    (r"context (length|size|window)[^.]{0,80}(exceed|overflow|not (large|big) enough|reached)", Cause.PROMPT_TOO_LONG),
    (r"(trying to keep|keep) the first \d+ tokens.{0,80}context", Cause.PROMPT_TOO_LONG),
)


_OF_MEMORY = tuple(each for each in _OF_LOADS if each[1] in (Cause.VRAM, Cause.RAM))


def cause_of_load(text: str) -> Cause:
    """The cause of a load that an engine refused or gave up; LOAD_FAILED where no pattern matches."""
    return _first(_OF_LOADS, text) or Cause.LOAD_FAILED


def cause_of_request(text: str) -> Cause:
    """The cause of a request that an engine answered with an error; REQUEST_REFUSED where no pattern matches."""
    return _first(_OF_REQUESTS, text) or _first(_OF_MEMORY, text) or Cause.REQUEST_REFUSED


_OF_RUNS: tuple[tuple[str, Cause], ...] = (
    (r"OutOfMemoryError|\b(CUDA|HIP|MPS|XPU)\b[^.]{0,40}out of memory|Allocation on device", Cause.VRAM),
    (r"can't allocate memory|not enough memory|MemoryError|bad_alloc|Cannot allocate memory", Cause.RAM),
    (r"FileNotFoundError|No such file or directory", Cause.MODEL_FILE_MISSING),
    (
        r"SafetensorError|deserializing header|Could not detect model type|UnpicklingError|PytorchStreamReader",
        Cause.MODEL_FILE_INVALID,
    ),
    (r"No space left on device", Cause.DISK_FULL),
)


def cause_of_run(text: str) -> Cause:
    """The cause of an error that a node of a graph raised, in PyTorch's or ComfyUI's text; else REQUEST_REFUSED."""
    return _first(_OF_RUNS, text) or Cause.REQUEST_REFUSED


def _first(patterns: tuple[tuple[str, Cause], ...], text: str) -> Cause | None:
    found = (cause for pattern, cause in patterns if re.search(pattern, text, re.IGNORECASE))
    return next(found, None)
