"""Builds ``llama-server`` and ``llama-bench`` for this CPU: ``python tests/slow/build_llama.py``. Once, 6 to 20 min.

The sources are those inside xllamacpp's source distribution, of the same version that this project embeds, so that
both engines are one llama.cpp. Tests and benchmarks that need them find them by ``built()``.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TARGETS = ("llama-server", "llama-bench")
OPTIONS = (
    "CMAKE_BUILD_TYPE=Release",
    "BUILD_SHARED_LIBS=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_APP=OFF",
    "LLAMA_USE_PREBUILT_UI=OFF",  # else it fetches web pages
    "LLAMA_OPENSSL=OFF",
)


def version() -> str:
    """Of the embedded engine; its last part is llama.cpp's build number."""
    return importlib.metadata.version("xllamacpp")


def build_number() -> str:
    return version().rpartition(".")[2]


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "orchestrate-tests" / f"llama.cpp-b{build_number()}"


def built(program: str = "llama-server") -> Path | None:
    """The program, if it was built."""
    path = cache() / program
    return path if path.is_file() else None


def main() -> None:
    if all(built(target) for target in TARGETS):
        return
    with tempfile.TemporaryDirectory(prefix="llama.cpp-") as folder:
        build(_sources(Path(folder)), Path(folder) / "build")


def build(sources: Path, work: Path) -> None:
    """Compiles with two jobs, at low priority, and keeps the programs. Raises CalledProcessError."""
    options = [*OPTIONS, f"LLAMA_BUILD_NUMBER={build_number()}", "LLAMA_BUILD_COMMIT=xllamacpp"]
    configure = ["cmake", "-S", str(sources), "-B", str(work), "-G", "Ninja", *(f"-D{each}" for each in options)]
    subprocess.run(configure, check=True)
    if hasattr(os, "nice"):
        os.nice(19)
    subprocess.run(["cmake", "--build", str(work), "--target", *TARGETS, "-j", "2"], check=True)
    cache().mkdir(parents=True, exist_ok=True)
    for target in TARGETS:
        (program,) = (work / "bin").glob(f"{target}*")
        shutil.copy2(program, cache() / program.name)


def _sources(folder: Path) -> Path:
    wanted = f"xllamacpp=={version()}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "xllamacpp", "-d", str(folder)]
    subprocess.run([*pip, wanted], check=True)
    (archive,) = folder.glob("xllamacpp-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (sources,) = folder.glob("xllamacpp-*/thirdparty/llama.cpp")
    return sources


if __name__ == "__main__":
    main()
