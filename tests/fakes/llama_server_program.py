"""Poses as a ``llama-server`` program: flags as recorded of b11549, and the wheel's engine behind them, so that logs,
streams and failures are real ones. ``python llama_server_program.py vulkan ...`` lists a GPU, and runs on the CPU all
the same.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parents[1] / "recordings/llama_server"
DEVICES = {  # as printed by b6795 (llama.cpp issue 16659) and by ollama 0.24's llama-server (ollama issue 16508)
    "vulkan": "Available devices:\n  Vulkan0: NVIDIA GeForce RTX 2060 (6144 MiB, 5136 MiB free)\n",
    "cuda": "Available devices:\n  CUDA0: NVIDIA GeForce RTX 3080 Ti (11909 MiB, 11650 MiB free)\n"
    "  CUDA1: NVIDIA RTX PRO 4000 Blackwell SFF Edition (24026 MiB, 23795 MiB free)\n",
    "cpu": "Available devices:\n  (none)\n",
}
NAMES = {
    "-m": "model.path",
    "--mmproj": "mmproj.path",
    "--port": "port",
    "--verbosity": "verbosity",
    "--parallel": "n_parallel",
    "--cache-ram": "cache_ram_mib",
    "-c": "n_ctx",
    "-b": "n_batch",
    "-ub": "n_ubatch",
    "-t": "cpuparams.n_threads",
    "-ngl": "n_gpu_layers",
    "-ctk": "cache_type_k",
    "-ctv": "cache_type_v",
    "-fa": "flash_attn_type",
    "--load-mode": "load_mode",
}
WORDS = {
    "-fa": {"on": "LLAMA_FLASH_ATTN_TYPE_ENABLED", "off": "LLAMA_FLASH_ATTN_TYPE_DISABLED"},
    "--load-mode": {name: f"LLAMA_LOAD_MODE_{name.upper().replace('+', '_')}" for name in ("none", "mmap", "mlock")}
    | {"mmap+mlock": "LLAMA_LOAD_MODE_MMAP_MLOCK"},
}


_kept: list[Any] = []  # the engine ends with its object


def program(folder: Path, poses: str = "cpu") -> Path:
    """A file that can be executed, in ``folder``."""
    path = folder / f"llama-server-{poses}"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P {shlex.quote(__file__)} {poses} "$@"\n')
    path.chmod(0o755)
    return path


def main() -> None:
    poses, *arguments = sys.argv[1:]
    if arguments == ["--list-devices"]:
        print_line(DEVICES[poses])
    elif arguments in (["--help"], ["--version"]):
        print_line((RECORDINGS / f"{arguments[0][2:]}.txt").read_text())
    else:
        serve(arguments)


def print_line(text: str) -> None:
    sys.stdout.write(text)


def serve(arguments: list[str]) -> None:
    """Until it is killed."""
    import xllamacpp

    from agents.engines.llama.embedded_child import params_from

    params: dict[str, Any] = {"hostnames": ["127.0.0.1"], "fit_params": False, "cache_prompt": False}
    known = (RECORDINGS / "help.txt").read_text()
    words = iter(arguments)
    for flag in words:
        if not re.search(rf"(?m)^(?:\S+\s+)*?{re.escape(flag)}(?=[\s,])", known):
            sys.exit(f"error: invalid argument: {flag}")
        if flag in NAMES:
            params[NAMES[flag]] = value_of(flag, next(words))
        elif flag in ("--host", "--fit", "--sse-ping-interval", "-dev"):
            next(words)
    params["cpuparams_batch.n_threads"] = params.get("cpuparams.n_threads", -1)
    try:
        _kept.append(xllamacpp.Server(params_from(params)))
    except RuntimeError:
        threading.Event().wait(0.2)  # llama.cpp's log comes from a thread of its own
        os._exit(1)
    threading.Event().wait()


def value_of(flag: str, word: str) -> Any:
    if flag in ("-ctk", "-ctv"):
        return f"GGML_TYPE_{word.upper()}"
    if flag in WORDS:
        return WORDS[flag][word]
    return int(word) if re.fullmatch(r"-?\d+", word) else word


if __name__ == "__main__":
    main()
