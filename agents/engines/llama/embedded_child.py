"""The child process that holds one loaded model: ``python -m agents.engines.llama.embedded_child``.

One JSON object comes on the first line of stdin (dotted parameter names of ``xllamacpp.CommonParams``), one JSON
object goes out on stdout: ``{"address": ...}`` when requests may be sent, or ``{"error": ...}``. llama.cpp's log goes
to stderr. The process lives until stdin ends, so that it cannot outlive its parent; on Linux the kernel also kills it
when the parent dies in the middle of a load.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from agents.engines.llama.tied_program import die_with_parent

ENUMS = {  # parameters whose text names a member of an enum of xllamacpp
    "cache_type_k": "ggml_type",
    "cache_type_v": "ggml_type",
    "flash_attn_type": "llama_flash_attn_type",
    "load_mode": "llama_load_mode",
}


def params_from(settings: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    for name, value in settings.items():
        *path, attribute = name.split(".")
        target = params
        for part in path:
            target = getattr(target, part)
        enum = ENUMS.get(name)
        setattr(target, attribute, getattr(getattr(xllamacpp, enum), value) if enum else value)
    return params


def write_line(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    die_with_parent()
    settings = json.loads(sys.stdin.buffer.readline())
    try:
        import xllamacpp

        server = xllamacpp.Server(params_from(settings))
    except Exception as error:
        write_line({"error": f"{type(error).__name__}: {error}"})
        sys.stdin.buffer.read()  # until the parent has what it wants: llama.cpp's thread still writes its log
        os._exit(3)
    write_line({"address": server.listening_address})
    sys.stdin.buffer.read()
    os._exit(0)  # never destruct: ~Server() was seen to hang right after it became ready


if __name__ == "__main__":
    main()
