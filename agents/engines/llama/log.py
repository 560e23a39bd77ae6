"""Facts from llama.cpp's log: buffers, layers, and why a load failed. PURE

Line forms as printed by llama.cpp b11549 at verbosity 4. Lines of other forms are ignored; the log itself is kept.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from agents.contract.report import Cause

MIB = 1024 * 1024

_BUFFER = re.compile(r"(?P<device>\S+)\s+(?P<part>model|KV|RS|compute|output) buffer size\s*=\s*(?P<mib>[\d.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_CONTEXT = re.compile(r"llama_context: n_ctx\s+= (\d+)")
_REPORTED: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("n_threads", re.compile(r"system_info: n_threads = (\d+)")),
    ("n_threads_batch", re.compile(r"system_info:.*n_threads_batch = (\d+)")),
    ("n_batch", re.compile(r"llama_context: n_batch\s+= (\d+)")),
    ("n_ubatch", re.compile(r"llama_context: n_ubatch\s+= (\d+)")),
    ("flash_attn", re.compile(r"llama_context: flash_attn\s+= (\S+)")),
    ("flash_attn_resolved", re.compile(r"Flash Attention (enabled|disabled)", re.IGNORECASE)),
    ("load_mode", re.compile(r"\(load_mode = (\w+)\)")),
    ("cpu", re.compile(r"system_info: .*? \| CPU : (.+?) \|?\s*$", re.MULTILINE)),
)
_DEVICE = re.compile(r"using device (\S+) \((.+?)\)(?= \(| - |$)", re.MULTILINE)
_ERROR = re.compile(
    r"^(?:\S+ E (?P<logged>.+)|(?P<fatal>.*(?:GGML_ASSERT|what\(\):|terminate called).*))$", re.MULTILINE
)

# The first match decides; the most specific stand first. Texts from llama.cpp's sources at b11549 and from logs seen.
_CAUSES: tuple[tuple[str, Cause], ...] = (
    (r"No such file or directory|failed to open GGUF file.*\(No such", Cause.MODEL_FILE_MISSING),
    (
        r"invalid magic|not within the file bounds|failed to read (key-value|tensor|magic|header)",
        Cause.MODEL_FILE_INVALID,
    ),
    (
        r"unknown model architecture|missing tensor|wrong (number of tensors|shape)|GGUF version",
        Cause.MODEL_FILE_INVALID,
    ),
    (r"ErrorOutOfDeviceMemory|cudaMalloc failed|hipMalloc failed|out of memory on device", Cause.VRAM),
    (r"(failed|unable) to allocate \w*(Vulkan|CUDA|ROCm|HIP|SYCL|Metal|MTL)(?!_Host)", Cause.VRAM),
    (r"(CUDA|ROCm|HIP) error: out of memory", Cause.VRAM),
    (r"insufficient memory|std::bad_alloc|failed to allocate|unable to allocate|Cannot allocate memory", Cause.RAM),
    (r"no (usable|suitable) GPU|backend .* not (found|available)|invalid device", Cause.RUNTIME_MISSING),
    (r"couldn't bind HTTP server socket", Cause.LOAD_FAILED),
)


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Sizes in bytes over all devices; None where the log has no such line."""

    weights_bytes: int | None
    kv_bytes: int | None
    compute_bytes: int | None
    layers_offloaded: int | None
    layers_total: int | None
    context_tokens: int | None
    devices: tuple[str, ...]
    reported: tuple[tuple[str, str], ...]  # settings as the engine has them, asked for or not; ``cpu``: its features


def read_log(text: str) -> LogFacts:
    sizes: dict[str, float] = {}
    for line in _BUFFER.finditer(text):
        part = "KV" if line["part"] == "RS" else line["part"]  # recurrent state stands where the KV cache would
        sizes[part] = sizes.get(part, 0.0) + float(line["mib"])

    def size(part: str) -> int | None:
        return round(sizes[part] * MIB) if part in sizes else None

    offloaded = _OFFLOADED.search(text)
    context = _CONTEXT.search(text)
    return LogFacts(
        weights_bytes=size("model"),
        kv_bytes=size("KV"),
        compute_bytes=size("compute"),
        layers_offloaded=int(offloaded[1]) if offloaded else None,
        layers_total=int(offloaded[2]) if offloaded else None,
        context_tokens=int(context[1]) if context else None,
        devices=tuple(f"{name} ({description})" for name, description in _DEVICE.findall(text)),
        reported=tuple((name, found[1]) for name, pattern in _REPORTED if (found := pattern.search(text))),
    )


def cause_of_failed_load(log: str, returncode: int | None) -> tuple[Cause, str]:
    """Cause and detail of a failed load, from the engine's log and exit status (negative: the signal, as subprocess has
    it)."""
    errors = [(match["logged"] or match["fatal"]).strip() for match in _ERROR.finditer(log)]
    text = "; ".join(dict.fromkeys(errors[:2])) or log.strip()[-400:]
    for pattern, cause in _CAUSES:
        if any(re.search(pattern, line) for line in errors):
            first = next(line for line in errors if re.search(pattern, line))
            return cause, first
    if returncode == -signal.SIGKILL:
        return Cause.RAM, "the engine was killed (SIGKILL) while loading: out of memory, most likely"
    if returncode is not None and returncode < 0:
        return Cause.ENGINE_CRASHED, f"the engine died of {_signal_name(-returncode)} while loading: {text}"
    return Cause.LOAD_FAILED, text or f"the engine ended with exit code {returncode} and said nothing"


def cause_of_death(returncode: int | None) -> tuple[Cause, str]:
    """Cause and detail for an engine that ended during a request."""
    if returncode is not None and returncode < 0:
        name = _signal_name(-returncode)
        more = ": out of memory, most likely" if returncode == -signal.SIGKILL else ""
        return Cause.ENGINE_CRASHED, f"the engine died of {name} during the request{more}"
    return Cause.ENGINE_LOST, f"the engine ended with exit code {returncode} during the request"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
