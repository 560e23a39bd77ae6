"""llama-server, what is pure of it: builds as they tell of themselves, command lines, answers of a running one."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.clock import SystemClock
from agents.contract.job import Chat, LoadSettings, ModelSource, Runtime, Synthetic
from agents.contract.report import Cause
from agents.device_file import DeviceFile, EngineEntry
from agents.engines import engines_of
from agents.engines.base import LoadPlace
from agents.engines.llama.answers import (
    arguments_in,
    context_like,
    quantisation_of,
    read_props,
    read_served,
    settings_in,
)
from agents.engines.llama.flags import server_arguments
from agents.engines.llama.log import read_log
from agents.engines.llama.programs import Build, choose, devices_in, flags_in, version_in
from agents.engines.llama.requests import llama_request
from agents.engines.llama.running import LlamaRunning
from agents.engines.llama.server import LlamaServer, address_in
from agents.engines.llama.session import loaded_of
from agents.errors import LoadFailed, Unsupported
from agents.models.store.files import ModelFiles
from tests.contract.adapters.llama_server import RECORDINGS, RUNNING, recorded
from tests.fakes.llama_server_program import DEVICES
from tests.fakes.recorded_server import RecordedServer, json_answer

MIB = 1024 * 1024
NEW = flags_in((RECORDINGS / "help.txt").read_text())
OLD = flags_in("""----- common params -----

-m,    --model FNAME                    model path
-fa,   --flash-attn                     enable Flash Attention (default: disabled)
                                        (env: LLAMA_ARG_FLASH_ATTN)
-nkvo, --no-kv-offload                  disable KV offload
-np,   --parallel N                     number of parallel sequences to decode (default: 1)
--mlock                                 force system to keep model in RAM rather than swapping or compressing
--no-mmap                               do not memory-map model (slower load but may reduce pageouts if not using
                                        mlock)
-dev,  --device <dev1,dev2,..>          comma-separated list of devices to use for offloading (none = don't
                                        offload)
--list-devices                          print list of available devices and exit
-ngl,  --gpu-layers, --n-gpu-layers N   number of layers to store in VRAM
-lv,   --verbosity, --log-verbosity N   Set the verbosity threshold. Messages with a higher verbosity will be ignored.
--log-prefix                            Enable prefx in log messages
--no-context-shift                      disables context shift on inifinite text generation (default: disabled)
--no-webui                              Disable the Web UI (default: enabled)
""")  # b4743, by tools/server/README.md of that time
FILES = ModelFiles(Path("/m/a.gguf"))


def a_build(poses: str = "vulkan", flags: dict[str, str] = NEW) -> Build:
    return Build(Path(f"/opt/{poses}"), "b1 (x)", devices_in(DEVICES[poses]), flags)


def line(build: Build, files: ModelFiles = FILES, **asked: Any) -> str:
    return f" {' '.join(server_arguments(LoadSettings('llama-server', 'm', **asked), files, build))} "


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ((RECORDINGS / "version.txt").read_text(), "b11549 (xllamacpp)"),
        ("ggml_vulkan: Found 1 Vulkan devices:\nversion: 6795 (unknown)\nbuilt with FreeBSD clang", "b6795 (unknown)"),
        ("version: 8204 (7a99dc85e)\nbuilt with GNU 11.4.0 for Linux x86_64", "b8204 (7a99dc85e)"),
        ("Python 3.11", None),
    ],
)
def test_the_version(text: str, version: str | None) -> None:
    assert version_in(text) == version


def test_devices_are_listed_with_their_memory() -> None:
    assert devices_in(DEVICES["cpu"]) == devices_in("") == ()
    noise = "ggml_vulkan: 0 = NVIDIA (NVIDIA) | uma: 0 | fp16: 1\n  Device 0: NVIDIA, VMM: yes, VRAM: 11909 MiB\n"
    (one,) = devices_in(noise + DEVICES["vulkan"])
    assert (one.name, one.description, one.total_bytes) == ("Vulkan0", "NVIDIA GeForce RTX 2060", 6144 * MIB)
    (odd,) = devices_in("  Vulkan0: AMD Radeon Graphics (RADV GFX1151) (87722 MiB, 87100 MiB free)\r\n")
    assert (odd.description, odd.runtime) == ("AMD Radeon Graphics (RADV GFX1151)", Runtime.VULKAN)
    assert [each.runtime for each in devices_in(DEVICES["cuda"])] == [Runtime.CUDA, Runtime.CUDA]
    assert a_build("cuda").runtimes == ("cpu", "cuda")
    assert a_build("cuda").device_of(Runtime.CUDA) == devices_in(DEVICES["cuda"])[0]


def test_flags_know_their_help() -> None:
    assert NEW["-fa"] == NEW["--flash-attn"] and "on|off|auto" in NEW["-fa"]
    assert {"--no-kv-offload", "-nkvo", "--load-mode", "--no-mmproj-offload", "--fit", "--no-ui"} <= set(NEW)
    assert "--no-mmap" not in NEW and "--no-mmap" in OLD and "--load-mode" not in OLD
    assert "4: trace" in NEW["-lv"]


@pytest.mark.parametrize(
    ("asked", "new", "old"),
    [
        ({}, " --verbosity 4 ", " --log-prefix "),
        ({}, " --fit off --no-cache-prompt --cache-ram 0 --no-context-shift ", " --parallel 1 --no-context-shift "),
        ({"context_tokens": 2048, "threads": 3}, " -c 2048 -t 3 ", " -c 2048 -t 3 "),
        ({"flash_attention": True}, " -fa on ", " -fa "),
        ({"flash_attention": False}, " -fa off ", None),
        ({"mmap": False}, " --load-mode none ", " --no-mmap "),
        ({"mmap": True, "keep_in_memory": True}, " --load-mode mmap+mlock ", " --mlock "),
        ({"mmap": False, "keep_in_memory": True}, " --load-mode mlock ", " --no-mmap --mlock "),
        ({"kv_offload": False}, " --no-kv-offload ", " --no-kv-offload "),
        ({"kv_offload": True}, " --kv-offload ", None),
        ({"gpu_layers": -1}, " -ngl 999 ", " -ngl 999 "),
        ({"gpu_layers": 7}, " -ngl 7 ", " -ngl 7 "),
        ({"runtime": Runtime.VULKAN}, " -ngl 999 -dev Vulkan0 ", " -ngl 999 -dev Vulkan0 "),
        ({"runtime": Runtime.VULKAN, "gpu_layers": 0}, " -ngl 0 -dev Vulkan0 ", " -ngl 0 -dev Vulkan0 "),
        ({"runtime": Runtime.CPU, "gpu_layers": 9}, " -ngl 0 -dev none --no-op-offload ", " -ngl 0 -dev none "),
        ({"kv_type_k": "q8_0", "kv_type_v": "f16"}, " -ctk q8_0 -ctv f16 ", " -ctk q8_0 -ctv f16 "),
        ({"batch_tokens": 64, "micro_batch_tokens": 32}, " -b 64 -ub 32 ", " -b 64 -ub 32 "),
    ],
)
def test_each_setting_in_the_words_of_the_build(asked: dict[str, Any], new: str, old: str | None) -> None:
    assert new in line(a_build(), **asked)
    seen = line(a_build(flags=OLD), **asked)
    assert old in seen if old else seen == line(a_build(flags=OLD))
    known = {word for word in seen.split() if word.startswith("--")} - {"--host", "--port"}
    assert known <= set(OLD)


def test_what_an_old_build_has_no_flag_for_is_refused() -> None:
    bare = {name: text for name, text in OLD.items() if name in ("-m", "--model")}
    refused: list[dict[str, Any]] = [{"mmap": False}, {"keep_in_memory": True}, {"kv_offload": False}]
    for asked in refused:
        with pytest.raises(Unsupported, match="so it cannot set"):
            line(a_build(flags=bare), **asked)
    with pytest.raises(Unsupported, match="vision"):
        line(a_build(flags=bare), replace(FILES, mmproj=Path("/m/p.gguf")))
    assert " --mmproj /m/p.gguf " in line(a_build(), replace(FILES, mmproj=Path("/m/p.gguf")))


def test_the_build_with_the_runtime_is_taken() -> None:
    vulkan, cuda, cpu = a_build("vulkan"), a_build("cuda"), a_build("cpu")
    builds = [vulkan, cuda, cpu]
    assert choose(builds, None) is vulkan
    assert choose(builds, Runtime.CUDA) is cuda
    assert choose(builds, Runtime.CPU) is cpu
    assert choose([cuda, vulkan], Runtime.CPU) is cuda
    with pytest.raises(Unsupported, match=r"runtime rocm: .*/opt/vulkan sees cpu, vulkan; /opt/cuda sees") as caught:
        choose(builds, Runtime.ROCM)
    assert caught.value.cause is Cause.RUNTIME_MISSING


@pytest.mark.parametrize(
    ("log", "address"),
    [
        ("0.01 I srv  llama_server: listening on http://127.0.0.1:33161\n", "http://127.0.0.1:33161"),
        ("main: server is listening on http://127.0.0.1:8081 - starting the main loop", "http://127.0.0.1:8081"),
        ("main: HTTP server is listening, hostname: 127.0.0.1, port: 8082, http threads: 7", "http://127.0.0.1:8082"),
        ("listening on http://127.0.0.1:0\n", None),
        ("", None),
    ],
)
def test_the_address_is_read_from_the_log(log: str, address: str | None) -> None:
    assert address_in(log) == address


GPU_LOG = """0.01 I load_model: using device Vulkan0 (AMD Radeon (RADV)) (0000:c4:00.0) - 87100 MiB free
0.02 I load_tensors: offloaded {}/33 layers to GPU
"""


@pytest.mark.parametrize(
    ("runtime", "log", "words"),
    [
        (Runtime.VULKAN, GPU_LOG.format(33), None),
        (Runtime.VULKAN, GPU_LOG.format(0), "put no layer on a GPU"),
        (Runtime.VULKAN, "warning: no usable GPU found, --gpu-layers option will be ignored", "devices it used: none"),
        (Runtime.CPU, GPU_LOG.format(33), "put 33 layers on a GPU"),
        (Runtime.CPU, "", None),
        (None, GPU_LOG.format(33), None),
    ],
)
def test_the_runtime_is_believed_from_the_log_alone(
    tmp_path: Path, runtime: Runtime | None, log: str, words: str | None
) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"x")
    settings = LoadSettings("llama-server", "m", runtime=runtime, source=ModelSource(path=str(model)))
    if words is None:
        loaded = loaded_of(settings, ModelFiles(model), log, 1.0, "b1", ())
        assert loaded.engine_runtime == (", ".join(read_log(log).devices) or "cpu")
        return
    with pytest.raises(LoadFailed, match=words) as caught:
        loaded_of(settings, ModelFiles(model), log, 1.0, "b1", ())
    assert caught.value.cause is Cause.RUNTIME_MISSING


def test_a_url_means_a_server_that_runs() -> None:
    def of(entry: dict[str, Any]) -> object:
        own = DeviceFile.model_validate({"engines": {"llama-server": entry}})
        return next(engine for engine in engines_of(own) if engine.name == "llama-server")

    assert isinstance(of({"url": "http://127.0.0.1:9"}), LlamaRunning)
    assert isinstance(of({"programs": ["/opt/a"]}), LlamaServer)


def test_answers_of_one_model_and_of_a_router() -> None:
    props = read_props(recorded("props"))
    assert props is not None
    assert (props.build, props.router, props.context_tokens) == ("b11549-xllamacpp", False, 2048)
    assert (props.slots, props.file_type) == (1, "Q8_0")
    router = read_props(recorded("router_props"))
    assert router is not None and router.router
    assert [each.state for each in read_served(recorded("router_loading"))] == ["unloaded", "unloaded", "loading"]
    broken = read_served(recorded("router_failed"))[0]
    assert (broken.name, broken.state, broken.failed, broken.exit_code) == ("broken", "unloaded", True, 1)
    served = read_served(recorded("router_loaded"))[-1]
    assert (served.n_vocab, served.context_tokens, served.model_bytes) == (2048, 2048, 4465664)


@pytest.mark.parametrize("odd", [None, [], {}, {"data": {}}, {"data": [1]}, {"data": [{"id": 3}]}, "text"])
def test_odd_answers_are_as_if_not_told(odd: Any) -> None:
    assert read_served(odd) == () and read_props(odd) is None
    (one,) = read_served({"data": [{"id": "a", "status": "x", "meta": [], "aliases": 3, "args": None}]})
    assert one.name == "a" and one.n_vocab is None


def test_arguments_of_a_servers_process() -> None:
    command = "llama-server -c 4096 --api-key s3cret --cache-type-k q8_0 -fa on --no-kv-offload -ngl all"
    command += " --device ROCm0 --threads -1 --mlock --hf-token t --ssl-key-file k"
    found = arguments_in(command.split())
    assert not {"s3cret", "t", "k"} & set(found.values())
    assert found["--ctx-size"] == "4096" and found["--no-kv-offload"] == ""
    told = settings_in(found)
    wanted = {"context_tokens": 4096, "kv_type_k": "q8_0", "flash_attention": True, "kv_offload": False}
    wanted |= {"gpu_layers": -1, "runtime": Runtime.ROCM, "threads": -1, "keep_in_memory": True}
    assert {name: value for name, value in told.items() if value is not None} == wanted
    assert settings_in({"--load-mode": "mmap+mlock"})["mmap"] is True
    assert settings_in({"--load-mode": "none", "--device": "none"})["runtime"] is Runtime.CPU


@pytest.mark.parametrize(
    ("file_type", "asked", "name"),
    [
        ("Q8_0", None, "Q8_0"),
        ("Q4_K - Medium", "q4_k_m", "q4_k_m"),
        ("(guessed) Q3_K - Small", None, "Q3_K_S"),
        ("IQ4_XS - 4.25 bpw", "IQ4_XS", "IQ4_XS"),
        ("MXFP4 MoE", "Q8_0", "MXFP4 MoE"),
        (None, "Q8_0", None),
    ],
)
def test_a_file_type_by_the_name_that_cells_use(file_type: str | None, asked: str | None, name: str | None) -> None:
    assert quantisation_of(file_type, asked) == name


def test_a_context_is_rounded_as_the_engine_does() -> None:
    assert context_like(2048, 2000) == 2000
    assert context_like(2048, 1500) == 2048
    assert context_like(None, 1500) is None and context_like(2048, None) == 2048


def test_the_key_goes_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_LLAMA", "s3cret")
    with RecordedServer(RUNNING.routes) as server:
        engine = LlamaRunning(EngineEntry(url=server.url, token_env="KEY_OF_LLAMA"))
        session = engine.load(RUNNING.settings, a_place())
        request = session.request_for(Chat("hello", "Hello.", 4), 0)
        assert request.headers["Authorization"] == "Bearer s3cret"
        assert {each.headers["authorization"] for each in server.asked} == {"Bearer s3cret"}
        server.answer("GET /props", json_answer({"error": {"code": 401, "message": "Invalid API Key"}}, 401))
        with pytest.raises(Unsupported, match=r"Invalid API Key.*; its key belongs into KEY_OF_LLAMA"):
            engine.find()


def test_a_router_is_told_the_model_and_not_to_load_it() -> None:
    url = "http://127.0.0.1:8080"
    for workload in (Chat("hello", "Hello.", 4), Synthetic("pp4 @ d4", 4, 1, 4)):
        request = llama_request(url, workload, 2048, 0, routed="a/b:Q8_0")
        assert request.url.endswith("?autoload=false")
        assert all(json.loads(body)["model"] == "a/b:Q8_0" for body in (request.body, request.prime) if body)
    with pytest.raises(Unsupported, match="does not tell its vocabulary"):
        llama_request(url, Synthetic("pp4", 4), None, 0)


def a_place() -> LoadPlace:
    return LoadPlace(Path("models"), Path("log"), 10.0, SystemClock(), threading.Event(), lambda phase: None)
