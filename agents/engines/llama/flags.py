"""LoadSettings -> the command line of one build of ``llama-server``, by the flags that its help names. PURE"""

from __future__ import annotations

from agents.contract.job import LoadSettings, Runtime
from agents.engines.llama.programs import Build
from agents.errors import Unsupported
from agents.models.store.files import ModelFiles

ALL_LAYERS = "999"  # every version takes it for all; -1, auto and all came and changed their meaning


def server_arguments(settings: LoadSettings, files: ModelFiles, build: Build) -> list[str]:
    """What a cell does not set is llama.cpp's choice, except what would change a measurement: fitting to memory, prompt
    caches, parallel slots. Raises Unsupported where this build has no flag for what is asked."""
    projector = [_require_flag("--mmproj", "a vision projector", build), str(files.mmproj)] if files.mmproj else []
    return [
        *("-m", str(files.path), *projector, "--host", "127.0.0.1", "--port", "0"),
        *_fixed(build),
        *_devices(settings, files, build),
        *_valued("-c", settings.context_tokens),
        *_valued("-ctk", settings.kv_type_k),
        *_valued("-ctv", settings.kv_type_v),
        *_valued("-t", settings.threads),
        *_valued("-b", settings.batch_tokens),
        *_valued("-ub", settings.micro_batch_tokens),
        *_flash_attention(settings.flash_attention, build),
        *_load_mode(settings.mmap, settings.keep_in_memory, build),
        *_kv_offload(settings.kv_offload, build),
    ]


def _valued(flag: str, value: object) -> list[str]:
    return [] if value is None else [flag, str(value)]


def _fixed(build: Build) -> list[str]:
    """For every measurement: one slot, no cache, and a log that reports memory, each line with its level."""
    have = build.flags
    wanted = (
        ("--parallel", ("1",)),
        ("--fit", ("off",)),
        ("--no-cache-prompt", ()),
        ("--cache-ram", ("0",)),
        ("--no-context-shift", ()),  # a full context ends the request
        ("--sse-ping-interval", ("-1",)),
        ("--no-ui", ()),
        ("--no-webui", ()),
        ("--offline", ()),
        ("--log-prefix", ()),
        ("--log-timestamps", ()),
    )
    arguments = [each for flag, values in wanted if flag in have for each in (flag, *values)]
    if "--no-ui" in arguments and "--no-webui" in arguments:  # two names of one
        arguments.remove("--no-webui")
    # Level 4 reports buffers since it is "trace"; before, it was "debug", and buffers stood at the default level.
    trace = "4: trace" in have.get("--verbosity", "")
    return [*arguments, *(("--verbosity", "4") if trace else ())]


def _devices(settings: LoadSettings, files: ModelFiles, build: Build) -> list[str]:
    layers = ALL_LAYERS if settings.gpu_layers == -1 else settings.gpu_layers
    if settings.runtime is None:
        return _valued("-ngl", layers)
    if settings.runtime is Runtime.CPU:
        # Without layers on it, a GPU would still compute long prompts and images.
        none = ("-dev", "none") if "--device" in build.flags else ()
        spared = [flag for flag in ("--no-op-offload",) if flag in build.flags]
        image = ["--no-mmproj-offload"] if files.mmproj and "--no-mmproj-offload" in build.flags else []
        return ["-ngl", "0", *none, *spared, *image]
    device = build.device_of(settings.runtime)
    assert device is not None  # the build was chosen for it
    # Older builds put no layer on a GPU unless asked to.
    return ["-ngl", str(ALL_LAYERS if layers is None else layers), "-dev", device.name]


def _flash_attention(wanted: bool | None, build: Build) -> list[str]:
    if wanted is None:
        return []
    if "on|off" in build.flags.get("--flash-attn", ""):
        return ["-fa", "on" if wanted else "off"]
    return ["-fa"] if wanted else []  # before b6325 a switch, and off without it


def _load_mode(mmap: bool | None, keep_in_memory: bool | None, build: Build) -> list[str]:
    if mmap is None and keep_in_memory is None:
        return []
    mapped, kept = mmap is not False, bool(keep_in_memory)
    if "--load-mode" in build.flags:
        mode = {(True, True): "mmap+mlock", (True, False): "mmap", (False, True): "mlock", (False, False): "none"}
        return ["--load-mode", mode[mapped, kept]]
    return [
        *([] if mapped else [_require_flag("--no-mmap", "mmap", build)]),
        *([_require_flag("--mlock", "keep_in_memory", build)] if kept else []),
    ]


def _kv_offload(wanted: bool | None, build: Build) -> list[str]:
    if wanted is None:
        return []
    if wanted:
        return ["--kv-offload"] if "--kv-offload" in build.flags else []  # the default, where it has no name
    return [_require_flag("--no-kv-offload", "kv_offload", build)]


def _require_flag(flag: str, axis: str, build: Build) -> str:
    if flag not in build.flags:
        raise Unsupported(f"llama-server {build.version} at {build.program} has no {flag}, so it cannot set {axis}")
    return flag
