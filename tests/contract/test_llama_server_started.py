"""A ``llama-server`` that the agent starts, as a job meets it: the fake program (the wheel's engine behind it), and the
real one where it was built."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from agents.clock import SystemClock
from agents.contract.job import Job, LoadSettings, ModelSource, Runtime, Synthetic, Timeouts
from agents.contract.report import Cause, Failed, Measured, Outcome
from agents.device.inventory import inventory
from agents.device_file import EngineEntry
from agents.engines.base import LoadPlace
from agents.engines.llama.child import tied_to_parent
from agents.engines.llama.server import LlamaServer
from agents.engines.stream.exchange import LiveCount
from agents.errors import LoadFailed, Unsupported
from agents.job.host import Host
from tests.fakes.llama_server_program import program as fake_program
from tests.slow.build_llama import built
from tests.waiting import until

PROMPT = Synthetic("pp16+tg8", prompt_tokens=16, generate_tokens=8)
LONG = Synthetic("tg60000", generate_tokens=60_000)
NOT_BUILT = "llama-server is not built: python tests/slow/build_llama.py"
REAL = pytest.param("real", marks=[pytest.mark.slow, pytest.mark.skipif(built() is None, reason=NOT_BUILT)])


@pytest.fixture(params=["fake", REAL])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    real = built()
    return fake_program(tmp_path) if request.param == "fake" or real is None else real


@pytest.fixture
def place(folder: Path) -> LoadPlace:
    log = folder / "logs/engine.log"
    return LoadPlace(folder / "models", log, 60.0, SystemClock(), threading.Event(), lambda phase: None)


def of(*programs: Path) -> LlamaServer:
    return LlamaServer(EngineEntry(programs=tuple(map(str, programs))))


def tiny(name: str = "llama", **settings: Any) -> LoadSettings:
    known = {"context_tokens": 1024, "threads": 1} | settings
    return LoadSettings("llama-server", f"tiny:{name}", quantisation="Q8_0", source=ModelSource(tiny=name), **known)


def servers() -> list[psutil.Process]:
    """Those that this process started; the probes have ended."""
    return psutil.Process().children()


def test_it_tells_version_and_runtimes(program: Path) -> None:
    found = of(program).find()
    assert found.name == "llama-server" and found.version.startswith("llama.cpp b")
    assert "cpu" in found.runtimes and found.where == str(program)


def test_several_builds_and_one_that_is_none(tmp_path: Path) -> None:
    vulkan, cuda = fake_program(tmp_path, "vulkan"), fake_program(tmp_path, "cuda")
    text = tmp_path / "text"
    text.write_text("no program")
    found = of(vulkan, text, Path(sys.executable), cuda).find()
    assert found.runtimes == ("cpu", "cuda", "vulkan")
    assert found.version.endswith("for cpu, vulkan; b11549 (xllamacpp) for cpu, cuda")
    assert f"{text} is no program" in found.where and f"{sys.executable} is no llama-server" in found.where


@pytest.mark.parametrize(("programs", "words"), [((), "not on PATH"), ((Path("/nowhere/x"),), "/nowhere/x is no")])
def test_nothing_there(monkeypatch: pytest.MonkeyPatch, programs: tuple[Path, ...], words: str) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unsupported, match=words):
        of(*programs).find()
    with pytest.raises(Unsupported, match=words):
        LlamaServer().load(tiny(), None) if not programs else of(*programs).find()  # type: ignore[arg-type]


def test_a_program_that_does_not_run_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "llama-server"
    broken.write_text(
        "#!/bin/sh\necho 'error while loading shared libraries: libcudart.so.12: not found' >&2\nexit 127\n"
    )
    broken.chmod(0o755)
    with pytest.raises(Unsupported, match=r"libcudart\.so\.12") as caught:
        of(broken).find()
    assert caught.value.cause is Cause.RUNTIME_MISSING


def test_a_load_its_settings_and_its_end(program: Path, place: LoadPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "256")  # none of ours
    load = tiny(kv_type_k="q8_0", kv_type_v="q8_0", flash_attention=True, mmap=False, batch_tokens=256)
    session = of(program).load(replace(load, micro_batch_tokens=128, runtime=Runtime.CPU), place)
    try:
        loaded = session.loaded
        assert loaded.engine_version.startswith("llama.cpp b") and loaded.engine_runtime == "cpu"
        assert (loaded.context_tokens_actual, loaded.layers_offloaded) == (1024, None)
        assert None not in (loaded.weights_bytes, loaded.kv_bytes, loaded.compute_bytes)
        assert loaded.load_s is not None and 0 < loaded.load_s < 60
        told = dict(loaded.settings)
        assert told["program"] == str(program) and " -ctk q8_0 -ctv q8_0 " in told["arguments"]
        assert (told["log.n_batch"], told["log.n_ubatch"], told["log.n_threads"]) == ("256", "128", "1")
        assert (told["log.flash_attn"], told["log.load_mode"]) == ("enabled", "none")
        assert "prompt cache is disabled" in place.log.read_text()
        session.check_alive(within_s=0.0)
    finally:
        session.close()
    assert servers() == []


def test_a_build_that_falls_back_to_the_cpu_is_found_out(tmp_path: Path, place: LoadPlace) -> None:
    cpu, vulkan = fake_program(tmp_path), fake_program(tmp_path, "vulkan")
    with pytest.raises(LoadFailed, match="put no layer on a GPU") as caught:
        of(cpu, vulkan).load(tiny(runtime=Runtime.VULKAN), place)
    assert caught.value.cause is Cause.RUNTIME_MISSING and servers() == []
    with pytest.raises(Unsupported, match="runtime cuda"):
        of(cpu, vulkan).load(tiny(runtime=Runtime.CUDA), place)


def test_a_v_cache_that_needs_flash_attention(program: Path, place: LoadPlace) -> None:
    with pytest.raises(LoadFailed, match="quantized V cache requires flash_attn") as caught:
        of(program).load(tiny(kv_type_v="q8_0", flash_attention=False), place)
    assert caught.value.cause is Cause.LOAD_FAILED and servers() == []


def test_a_cancel_and_a_time_out(program: Path, place: LoadPlace) -> None:
    with pytest.raises(LoadFailed, match="not loaded within 0 s") as late:
        of(program).load(tiny(), replace(place, timeout_s=0.0))
    assert late.value.cause is Cause.LOAD_TIMEOUT

    def notify(stage: str) -> None:
        if stage == "loading":
            place.cancelled.set()

    with pytest.raises(LoadFailed) as cancelled:
        of(program).load(tiny(), replace(place, notify=notify))
    assert cancelled.value.cause is Cause.CANCELLED and servers() == []


@pytest.fixture
def host(program: Path, folder: Path) -> Iterator[Host]:
    one = Host(inventory(folder, []), folder, (of(program),))
    yield one
    one.unload()


def run(host: Host, load: LoadSettings, workload: Synthetic = PROMPT, on: Any = None) -> Outcome:
    job = Job("j", 1, "c", "cell", "d", 0, load, workload, warmups=0, timeouts=Timeouts(60.0, 60.0, 60.0))
    return host.run(job, threading.Event(), on or (lambda phase, live: None)).outcome


def test_a_measured_trial_and_one_at_a_depth(host: Host) -> None:
    outcome = run(host, tiny())
    assert isinstance(outcome, Measured), outcome
    (trial,) = outcome.trials
    assert (trial.prompt_tokens, trial.completion_tokens, trial.engine.cached_tokens) == (16, 8, 0)
    assert len(trial.arrivals) == 8 and trial.engine.decode_tps
    deep = run(host, tiny(), Synthetic("pp16+tg8 @ d128", 16, 8, 128))
    assert isinstance(deep, Measured) and deep.loaded.reused, deep
    assert (deep.trials[0].engine.cached_tokens, deep.trials[0].engine.prompt_tokens) == (128, 16)


def test_a_server_that_is_killed_while_tokens_arrive(host: Host) -> None:
    def kill(live: LiveCount) -> None:
        until(lambda: live.reads > 5, "tokens")
        servers()[0].kill()

    def on(phase: str, live: LiveCount | None) -> None:
        if live is not None:
            threading.Thread(target=kill, args=(live,), daemon=True).start()

    outcome = run(host, tiny(context_tokens=65_536), LONG, on)
    assert isinstance(outcome, Failed) and outcome.cause is Cause.ENGINE_CRASHED, outcome
    assert "SIGKILL" in outcome.detail and "listening on" in outcome.log_tail and servers() == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's; elsewhere a watcher does it")
def test_a_tied_program_dies_with_its_parent() -> None:
    parent = (
        "import subprocess, sys\n"
        "from pathlib import Path\n"
        "from agents.engines.llama.child import tied_to_parent\n"
        "child = subprocess.Popen(tied_to_parent(Path('/bin/sleep'), ['600']), stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        until(lambda: child.name() == "sleep", "the program")
        process.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end")


def test_a_watched_program_ends_with_stdin_and_its_end_is_repeated() -> None:
    """The way of other systems, which Linux can go too."""
    watch = "import sys; from agents.engines.llama.tied_program import _watch; _watch(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", watch, "/bin/sleep", "600"], stdin=subprocess.PIPE) as watcher:
        until(lambda: bool(psutil.Process(watcher.pid).children()), "the program")
        assert watcher.stdin is not None
        watcher.stdin.close()
        assert watcher.wait(10) == -9
    command = [sys.executable, "-c", watch, "/bin/sh", "-c", "exit 7"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as watcher:  # whose stdin stays open until it has ended
        assert watcher.wait(30) == 7
    assert tied_to_parent(Path("/bin/x"), ["a"])[-2:] == ["/bin/x", "a"]
