"""The real engine with tiny models, as a job meets it: good loads, settings that arrive, and all that can go wrong."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from agents.clock import SystemClock
from agents.contract.job import (
    Chat,
    Image,
    Job,
    LoadSettings,
    ModelSource,
    Runtime,
    Stop,
    Synthetic,
    Timeouts,
    Workload,
)
from agents.contract.measure import Flag, StopReason
from agents.contract.report import Cause, Failed, Measured, Outcome, Refused, Report
from agents.device.inventory import inventory
from agents.engines.base import LoadPlace
from agents.engines.llama.embedded import Embedded, EmbeddedSession
from agents.engines.stream.exchange import LiveCount
from agents.errors import LoadFailed, Unsupported
from agents.job.host import Host
from agents.models.gguf.check import check_gguf
from agents.models.gguf.kv_cache import kv_bytes
from agents.models.tiny.make import make_tiny
from tests.contract.test_tiny_models_run import png_of
from tests.waiting import until

MIB = 1024 * 1024
SHORT = Synthetic("pp16+tg8", prompt_tokens=16, generate_tokens=8)
LONG = Synthetic("tg60000", generate_tokens=60_000)  # 20 s and more
TIMING = {Flag.ARRIVALS_BUNCHED, Flag.CLOCKS_DISAGREE}  # what a busy machine may do to a tiny model
OUTPUT = {Flag.OUTPUT_BROKEN, Flag.OUTPUT_REPEATED, Flag.OUTPUT_EMPTY}  # random weights write no texts


def tiny(name: str = "llama", quantisation: str = "Q8_0", **settings: Any) -> LoadSettings:
    source = ModelSource(tiny=name)
    known = {"context_tokens": 1024, "threads": 1} | settings
    return LoadSettings("embedded", f"tiny:{name}", quantisation=quantisation, source=source, **known)


def at(path: Path, **settings: Any) -> LoadSettings:
    return LoadSettings("embedded", str(path), context_tokens=1024, source=ModelSource(path=str(path)), **settings)


def a_job(load: LoadSettings, workload: Workload = SHORT, **changes: Any) -> Job:
    job = Job("j", 1, "c", "cell", "d", 0, load, workload, warmups=0, timeouts=Timeouts(60.0, 60.0, 60.0))
    return replace(job, **changes)


def engines() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "agents.engines.llama.embedded_child" in child.cmdline()]


@dataclass
class Bench:
    """A host, and the jobs that are run on it. ``on`` says what to do when a phase begins."""

    host: Host
    cancelled: threading.Event = field(default_factory=threading.Event)
    phases: list[str] = field(default_factory=list)

    def run(self, job: Job, on: dict[str, Callable[[LiveCount | None], None]] | None = None) -> Report:
        def say(phase: str, live: LiveCount | None) -> None:
            self.phases.append(phase)
            if on and phase in on:
                on[phase](live)

        return self.host.run(job, self.cancelled, say)

    def outcome(self, job: Job, on: dict[str, Callable[[LiveCount | None], None]] | None = None) -> Outcome:
        return self.run(job, on).outcome


@pytest.fixture
def bench(folder: Path) -> Iterator[Bench]:
    host = Host(inventory(folder, []), folder, (Embedded(),))
    yield Bench(host)
    host.unload()


def failed(outcome: Outcome) -> Failed:
    """The outcome as a failure; no engine may be left."""
    assert isinstance(outcome, Failed), outcome
    assert engines() == []
    return outcome


def measured(outcome: Outcome) -> Measured:
    assert isinstance(outcome, Measured), outcome
    return outcome


def test_it_finds_itself() -> None:
    found = Embedded().find()
    assert found.name == "embedded" and found.version.startswith("xllamacpp ") and "cpu" in found.runtimes


@pytest.mark.parametrize(("name", "quantisation"), [("llama", "Q8_0"), ("qwen3moe", "F16"), ("deepseek2", "Q4_0")])
def test_a_measured_trial(bench: Bench, name: str, quantisation: str) -> None:
    report = bench.run(a_job(tiny(name, quantisation), Synthetic("pp64+tg32", 64, 32), warmups=1))
    outcome = measured(report.outcome)
    assert bench.phases[-3:] == ["warm-up 1/1", "measuring", "ending"]
    assert [trial.warmup for trial in outcome.trials] == [True, False]
    trial = outcome.trials[1]
    assert (trial.prompt_tokens, trial.completion_tokens, trial.stop_reason) == (64, 32, StopReason.LENGTH)
    assert sum(arrival.tokens or 0 for arrival in trial.arrivals) == 32
    assert (trial.engine.prompt_tokens, trial.engine.cached_tokens, trial.engine.generated_tokens) == (64, 0, 32)
    assert set(trial.flags) <= TIMING
    times = [arrival.at_s for arrival in trial.arrivals]
    assert times == sorted(times) and 0 < times[0] <= trial.ended_s
    loaded = outcome.loaded
    assert (loaded.reused, loaded.model_architecture, loaded.context_tokens_actual) == (False, name, 1024)
    assert loaded.load_s and loaded.model_sha256 and loaded.weights_bytes and loaded.kv_bytes
    assert loaded.compute_bytes and loaded.engine_runtime == "cpu"
    assert "listening on" in report.log


def test_a_second_job_with_equal_settings_keeps_the_engine(bench: Bench) -> None:
    first = bench.run(a_job(tiny(), warmups=1))
    (engine,) = engines()
    second = bench.run(a_job(tiny(), warmups=1, job_id="j2"))
    other = bench.run(a_job(tiny(), replace(SHORT, generate_tokens=9), warmups=1, job_id="j3"))
    assert engines() == [engine]
    outcomes = [measured(each.outcome) for each in (first, second, other)]
    assert [each.loaded.reused for each in outcomes] == [False, True, True]
    assert [len(each.trials) for each in outcomes] == [2, 1, 2]  # a workload is warmed up once on an engine
    assert [bool(each.log) for each in (first, second, other)] == [True, False, False]
    assert outcomes[0].trials[-1].output_sha256 == outcomes[1].trials[-1].output_sha256
    measured(bench.outcome(a_job(tiny(context_tokens=512))))
    assert len(engines()) == 1 and engines() != [engine]


def test_an_engine_that_ended_between_two_jobs_is_loaded_again(bench: Bench) -> None:
    measured(bench.outcome(a_job(tiny())))
    (engine,) = engines()
    engine.kill()
    # A zombie is a first thread that ended; the process can be waited for when the last one did.
    threads = Path(f"/proc/{engine.pid}/task")
    until(lambda: engine.status() == psutil.STATUS_ZOMBIE and len(list(threads.iterdir())) == 1, "its end")
    assert measured(bench.outcome(a_job(tiny(), job_id="j2"))).loaded.reused is False


@pytest.mark.parametrize("generate", [0, 4])
def test_a_depth_is_in_the_cache_before_the_measured_request(bench: Bench, generate: int) -> None:
    work = Synthetic("pp32 @ d128", prompt_tokens=32, generate_tokens=generate, depth=128)
    for job_id in ("j1", "j2"):  # the second finds the first one's leavings in the cache
        (trial,) = measured(bench.outcome(a_job(tiny(), work, job_id=job_id))).trials
        assert (trial.engine.cached_tokens, trial.engine.prompt_tokens, trial.prompt_tokens) == (128, 32, 160)
        assert trial.completion_tokens == max(generate, 1)
        assert Flag.PROMPT_CACHED not in trial.flags


def test_decoding_at_a_depth(bench: Bench) -> None:
    (trial,) = measured(bench.outcome(a_job(tiny(), Synthetic("tg8 @ d128", generate_tokens=8, depth=128)))).trials
    assert (trial.prompt_tokens, trial.completion_tokens, trial.engine.cached_tokens) == (128, 8, 0)


def test_a_chat_and_an_image(bench: Bench) -> None:
    png = base64.b64encode(png_of((200, 30, 30), 64)).decode()
    chat = Chat("see", "What is it?", 12, stop=Stop.EXACT)
    load = tiny("qwen3vl")
    seen = replace(chat, image=Image("red.png", "image/png", 64, 64, png))
    (text,) = measured(bench.outcome(a_job(load, chat))).trials
    outcome = measured(bench.outcome(a_job(load, seen, keep_output=True)))
    (trial,) = outcome.trials
    assert text.prompt_tokens is not None and trial.prompt_tokens is not None
    assert trial.prompt_tokens >= text.prompt_tokens + 4  # 64 x 64 pixels, 32 x 32 a token
    assert trial.image_tokens == trial.prompt_tokens - text.prompt_tokens
    assert text.image_tokens is None
    assert trial.completion_tokens == 12 and trial.output
    assert set(trial.flags) <= TIMING | OUTPUT


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"kv_type_k": "q8_0", "kv_type_v": "q8_0", "flash_attention": True}, r"K \(q8_0\).*V \(q8_0\)"),
    ({"kv_type_k": "q4_0"}, r"K \(q4_0\).*V \(f16\)"),
    ({"context_tokens": 2000}, r"llama_context: n_ctx +=  ?2048\b"),
    ({"threads": 2}, r"n_threads = 2 \(n_threads_batch = 2\)"),
    ({"batch_tokens": 256, "micro_batch_tokens": 128}, r"(?s)n_batch += 256\n.*n_ubatch += 128\n"),
    ({"flash_attention": True}, r"flash_attn += enabled"),
    ({"flash_attention": False}, r"flash_attn += disabled"),
    ({"mmap": False}, r"load_mode = none\b"),
    ({"mmap": True}, r"load_mode = mmap\)"),
    ({"keep_in_memory": True}, r"load_mode = mmap\+mlock\b"),
    ({"mmap": False, "keep_in_memory": True}, r"load_mode = mlock\b"),
    ({"runtime": Runtime.CPU, "gpu_layers": 99}, r"KV buffer size"),
]


@pytest.fixture
def place(folder: Path) -> LoadPlace:
    return LoadPlace(
        models=folder / "models",
        log=folder / "logs/engine.log",
        timeout_s=60.0,
        clock=SystemClock(),
        cancelled=threading.Event(),
        notify=lambda stage: None,
    )


@pytest.mark.parametrize(("asked", "said"), SETTINGS, ids=[" ".join(asked) for asked, _ in SETTINGS])
def test_settings_reach_the_engine(place: LoadPlace, asked: dict[str, Any], said: str) -> None:
    session = Embedded().load(tiny(**asked), place)
    try:
        assert re.search(said, place.log.read_text()), place.log.read_text()
    finally:
        session.close()


def test_what_would_falsify_a_measurement_is_off(place: LoadPlace) -> None:
    session = Embedded().load(tiny(), place)
    try:
        url = httpx.URL(session.request_for(SHORT, 0).url)
        assert url.host == "127.0.0.1"
        props = httpx.get(url.copy_with(path="/props"), trust_env=False).json()
        assert props["total_slots"] == 1
        assert props["default_generation_settings"]["n_ctx"] == 1024
        assert "prompt cache is disabled" in place.log.read_text()
        handed = dict(session.loaded.settings)
        assert (handed["fit_params"], handed["cache_prompt"], handed["GOMP_SPINCOUNT"]) == ("False", "False", "10000")
    finally:
        session.close()


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("context", [1000, 4096])
@pytest.mark.parametrize("name", ["llama", "qwen3moe", "deepseek2", "qwen3vl"])
def test_the_predicted_kv_cache_is_the_engines(place: LoadPlace, name: str, context: int, kv_type: str) -> None:
    made = make_tiny(name, "Q8_0", place.models / "tiny")
    files = replace(made, mmproj=None)  # its encoder is not part of the cache, and takes time
    load = tiny(name, context_tokens=context, kv_type_k=kv_type, kv_type_v=kv_type)
    session = EmbeddedSession(load, files, place)
    session.close()
    shape = check_gguf(files.path).kv_shape
    assert shape is not None
    predicted, seen = kv_bytes(shape, context, kv_type, kv_type), session.loaded.kv_bytes
    assert predicted is not None and seen is not None
    assert round(predicted / MIB, 2) == pytest.approx(seen / MIB, abs=0.0051)  # the log has two decimals


def damaged(folder: Path, how: str) -> Path:
    whole = make_tiny("llama", "Q8_0", folder / "models" / "tiny").path.read_bytes()
    path = folder / f"{how}.gguf"
    content = {"truncated": whole[:-300_000], "head cut": whole[:3000], "text": b"no model\n" * 99, "empty": b""}
    if how != "missing":
        path.write_bytes(content[how])
    return path


@pytest.mark.parametrize(
    ("how", "cause", "words"),
    [
        ("missing", Cause.MODEL_FILE_MISSING, "no such model file"),
        ("truncated", Cause.MODEL_FILE_INVALID, "truncated?"),
        ("head cut", Cause.MODEL_FILE_INVALID, "head cut.gguf"),
        ("text", Cause.MODEL_FILE_INVALID, "is not a GGUF file"),
        ("empty", Cause.MODEL_FILE_INVALID, "is empty"),
    ],
)
def test_a_bad_file_is_a_failure_in_words(bench: Bench, folder: Path, how: str, cause: Cause, words: str) -> None:
    stale = folder / "logs/c/j-1.log"
    stale.parent.mkdir(parents=True)
    stale.write_text("words of an engine before a crash")
    report = bench.run(a_job(at(damaged(folder, how))))
    outcome = failed(report.outcome)
    assert outcome.cause is cause and words in outcome.detail
    assert (outcome.loaded, outcome.trials, report.log) == (None, (), "")  # no engine was started: no log
    measured(bench.outcome(a_job(tiny())))  # the next job is well


def test_a_load_that_failed_is_not_tried_again_for_its_repeats(bench: Bench, folder: Path) -> None:
    path = damaged(folder, "missing")
    first = failed(bench.outcome(a_job(at(path))))
    path.write_bytes(make_tiny("llama", "Q8_0", folder / "models" / "tiny").path.read_bytes())
    again = failed(bench.outcome(a_job(at(path), job_id="j2")))
    assert again.cause is first.cause
    assert again.detail == f"{first.detail} (not tried again: it failed so just before)"
    measured(bench.outcome(a_job(tiny(), job_id="j3")))
    measured(bench.outcome(a_job(at(path), job_id="j4")))  # after another load it has its chance


def test_a_bad_file_after_a_good_engine_brings_no_stale_log(bench: Bench, folder: Path) -> None:
    measured(bench.outcome(a_job(tiny())))
    report = bench.run(a_job(at(damaged(folder, "text")), job_id="j2"))
    assert failed(report.outcome).cause is Cause.MODEL_FILE_INVALID
    assert report.log == ""


def test_what_the_file_check_lets_pass_the_engine_refuses_in_its_own_words(bench: Bench, folder: Path) -> None:
    whole = make_tiny("llama", "Q8_0", folder / "models" / "tiny").path.read_bytes()
    key = b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llam"
    assert whole.count(key) == 1
    path = folder / "unknown.gguf"
    path.write_bytes(whole.replace(key + b"a", key + b"X"))
    report = bench.run(a_job(at(path)))
    outcome = failed(report.outcome)
    assert outcome.cause is Cause.MODEL_FILE_INVALID
    assert "unknown model architecture: 'llamX'" in outcome.detail
    assert "unknown model architecture" in report.log and "exiting due to" in outcome.log_tail


def test_a_context_that_no_memory_holds_is_refused_at_once(bench: Bench) -> None:
    report = bench.run(a_job(tiny(context_tokens=1_000_000_000)))
    outcome = failed(report.outcome)
    assert outcome.cause is Cause.RAM
    assert outcome.detail.startswith("the KV cache for 1,000,000,000 tokens needs 1.9 TiB (and the weights 4.")
    assert report.ended_unix_s - report.started_unix_s < 30
    assert "loading" not in bench.phases and report.log == ""


def test_a_v_cache_that_needs_flash_attention(bench: Bench) -> None:
    outcome = failed(bench.outcome(a_job(tiny(kv_type_v="q8_0", flash_attention=False))))
    assert outcome.cause is Cause.LOAD_FAILED
    assert "quantized V cache requires flash_attn to be enabled" in outcome.detail


@pytest.mark.parametrize(
    ("load", "cause", "words"),
    [
        (tiny(kv_type_k="q3_z"), Cause.UNSUPPORTED, "KV type q3_z: llama.cpp has f32, f16"),
        (replace(tiny(), engine="vllm"), Cause.UNSUPPORTED, "no adapter for engine vllm; it has embedded"),
    ],
)
def test_what_cannot_be_done_is_refused(bench: Bench, load: LoadSettings, cause: Cause, words: str) -> None:
    outcome = bench.outcome(a_job(load))
    assert isinstance(outcome, Refused)
    assert outcome.cause is cause and words in outcome.detail


def test_a_runtime_that_is_not_here_is_refused(place: LoadPlace) -> None:
    found = Embedded().find()
    missing = next(kind for kind in Runtime if kind.value not in found.runtimes)
    with pytest.raises(Unsupported, match=f"runtime {missing.value}") as caught:
        Embedded().load(tiny(runtime=missing), place)
    assert caught.value.cause is Cause.RUNTIME_MISSING


def test_a_prompt_longer_than_the_context(bench: Bench) -> None:
    report = bench.run(a_job(tiny(context_tokens=256), Synthetic("pp512", prompt_tokens=512)))
    outcome = failed(report.outcome)
    assert outcome.cause is Cause.PROMPT_TOO_LONG
    assert "context size" in outcome.detail
    assert outcome.loaded is not None and "n_ctx" in report.log


def test_a_full_context_stops_early_and_is_flagged(bench: Bench) -> None:
    (trial,) = measured(bench.outcome(a_job(tiny(context_tokens=256), Synthetic("tg", 100, 500)))).trials
    assert trial.stop_reason is StopReason.CONTEXT_FULL
    assert (trial.completion_tokens or 0) < 200 and Flag.FEWER_TOKENS in trial.flags


def test_a_load_that_takes_too_long(bench: Bench) -> None:
    outcome = failed(bench.outcome(a_job(tiny(), timeouts=Timeouts(load_s=0.0))))
    assert (outcome.cause, outcome.detail) == (Cause.LOAD_TIMEOUT, "not loaded within 0 s")


@pytest.mark.parametrize(
    ("timeouts", "cause"),
    [
        (Timeouts(60.0, 0.0, 60.0), Cause.FIRST_TOKEN_TIMEOUT),
        (Timeouts(60.0, 60.0, 0.3), Cause.TRIAL_TIMEOUT),
    ],
)
def test_a_stream_that_takes_too_long(bench: Bench, timeouts: Timeouts, cause: Cause) -> None:
    outcome = failed(bench.outcome(a_job(tiny(context_tokens=65_536), LONG, timeouts=timeouts)))
    assert outcome.cause is cause
    assert outcome.loaded is not None


@pytest.mark.parametrize("phase", ["preparing model", "loading"])
def test_cancelled_before_the_model_is_ready(bench: Bench, phase: str) -> None:
    outcome = failed(bench.outcome(a_job(tiny()), {phase: lambda _: bench.cancelled.set()}))
    assert outcome.cause is Cause.CANCELLED
    assert outcome.loaded is None


def in_mid_stream(do: Callable[[], None]) -> Callable[[LiveCount | None], None]:
    """For a phase: does something from another thread when tokens arrive."""

    def begin(live: LiveCount | None) -> None:
        assert live is not None

        def watch() -> None:
            until(lambda: live.reads > 5, "tokens")
            do()

        threading.Thread(target=watch, daemon=True).start()

    return begin


def test_cancelled_while_tokens_arrive(bench: Bench) -> None:
    job = a_job(tiny(context_tokens=65_536), LONG)
    outcome = failed(bench.outcome(job, {"measuring": in_mid_stream(bench.cancelled.set)}))
    assert outcome.cause is Cause.CANCELLED
    assert outcome.loaded is not None
    bench.cancelled.clear()
    measured(bench.outcome(a_job(tiny())))


def test_an_engine_that_is_killed_while_tokens_arrive(bench: Bench) -> None:
    job = a_job(tiny(context_tokens=65_536), LONG)
    killed: list[psutil.Process] = []

    def kill() -> None:
        killed.extend(engines())
        killed[0].kill()

    report = bench.run(job, {"measuring": in_mid_stream(kill)})
    outcome = failed(report.outcome)
    assert outcome.cause is Cause.ENGINE_CRASHED
    assert "SIGKILL" in outcome.detail and "listening on" in report.log
    assert not psutil.pid_exists(killed[0].pid)  # reaped: no zombie


def test_trials_that_were_complete_stay_when_a_later_one_fails(bench: Bench) -> None:
    def cancel(_: LiveCount | None) -> None:
        bench.cancelled.set()

    outcome = failed(bench.outcome(a_job(tiny(), warmups=2), {"measuring": cancel}))
    assert [trial.warmup for trial in outcome.trials] == [True, True]


def test_an_engine_that_dies_while_it_loads(place: LoadPlace) -> None:
    """Killed as soon as it is there: no words of its own, but its end is told."""
    done = threading.Event()

    def kill() -> None:
        until(lambda: bool(engines()) or done.is_set(), "an engine")
        for engine in engines():
            engine.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        with pytest.raises(LoadFailed, match="SIGKILL") as caught:
            Embedded().load(tiny(), place)
    finally:
        done.set()
        thread.join()
    assert caught.value.cause is Cause.RAM
    assert engines() == []
