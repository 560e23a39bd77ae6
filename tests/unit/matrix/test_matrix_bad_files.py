"""Files that cannot be used: each error with its line, its key, what stands there and what is allowed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.matrix import MatrixErrors, parse_matrix, read_matrix
from orchestrator.matrix.problems import SHOWN
from tests.unit.matrix.matrix_file import GOOD, errors

AXES = "axes: {model: tiny:llama, workload: pp512, "

# text of the file -> parts of its only error
ONE_ERROR = [
    # YAML itself
    ("", "the file is empty"),
    ("# only a comment\n", "the file is empty"),
    ("[1, 2]", "1: a mapping (key: value) belongs here, but a list stands here"),
    ("hello", '1: a mapping (key: value) belongs here, but "hello" stands here'),
    ("a: [1\nb: 2\n", "2: not YAML: while parsing a flow sequence, did not find expected ',' or ']'"),
    ("a: 1\n\tb: 2\n", "2: not YAML: while scanning"),
    (GOOD + "name: a\x01b", "2: not YAML: character U+0001 is not allowed"),
    (GOOD + "---\na: 1\n", "2: a second document begins here"),
    (GOOD + "name: !!python/object/apply:os.system ls\n", 'tag "!!python/object/apply:os.system" is not allowed'),
    (GOOD + "? [a]\n: b\n", "2: a key must be a word, not a list or a mapping"),
    (GOOD + "name: *nowhere\n", "2: name: alias *nowhere has no anchor above it. Allowed: none is defined above"),
    (GOOD + "x-a: &a [*a]\n", "2: x-a[0]: alias *a stands inside its own anchor"),
    (GOOD + "x-a: {<<: text}\n", "2: x-a: << takes a mapping"),
    (GOOD + "x-a: " + "[" * 40 + "]" * 40, "2: more than 32 levels of lists and mappings"),
    (b"name: caf\xe9\n" + GOOD.encode(), "1: not UTF-8: byte 0xE9 is not allowed here"),
    (GOOD + "name: a\nname: b\n", '3: name: key "name" stands here a second time; the first is on line 2'),
    # keys
    (GOOD + "exlude: []\n", '2: exlude: unknown key "exlude"; did you mean "exclude"? Allowed: name, question,'),
    (
        "axes:\n  model: tiny:llama\n  workload: pp512\n  contxt: 1K\n",
        '4: axes.contxt: unknown key "contxt"; did you mean "context"? Allowed: model,',
    ),
    (
        GOOD + "measure: {repeat: 2}",
        '2: measure.repeat: unknown key "repeat"; did you mean "repeats"? Allowed: repeats, warmups,',
    ),
    (GOOD + "timeouts: {loading: 2s}", '2: timeouts.loading: unknown key "loading"; did you mean "load"?'),
    (GOOD + "devices: {min_rm: 2G}", '2: devices.min_rm: unknown key "min_rm"; did you mean "min_ram"?'),
    (
        GOOD + "models: {a: {tiny: llama, names: {lmstudo: b}}}",
        'models.a.names.lmstudo: unknown key "lmstudo"; did you mean "lmstudio"?',
    ),
    (
        GOOD + "workloads: {a: {prompt: x, max_token: 3, max_tokens: 3}}",
        'workloads.a.max_token: unknown key "max_token"; did you mean "max_tokens"? Allowed: seed,',
    ),
    (
        GOOD + "workloads: {a: {prompt_tokens: 5, prompt: x}}",
        'workloads.a.prompt: unknown key "prompt"; did you mean "prompt_tokens"?',
    ),
    (GOOD + "workloads: {a: {prompt: x}}", '2: workloads.a: key "max_tokens" is missing'),
    (AXES + "context: {from: 1K, step: 1K}}", '1: axes.context: key "to" is missing'),
    (AXES + "quantisation: Q8_0, quantization: Q4_0}", "axes: quantization and quantisation are the same axis"),
    # types
    ("axes: [a]", "1: axes: a mapping (key: value) belongs here, but a list stands here"),
    (GOOD + "include: {model: tiny:llama}", "2: include: a list belongs here, but a mapping stands here"),
    (GOOD + "zip: [a]", '2: zip[0]: a mapping (key: value) belongs here, but "a" stands here'),
    (GOOD + "name: [a]", "2: name: one value belongs here, but a list stands here"),
    (GOOD + "measure: {repeats: }", "2: measure.repeats: one value belongs here, but nothing stands here"),
    (GOOD + "defaults: {context: [1K, 2K]}", "2: defaults.context: one value belongs here, but a list stands here"),
    (AXES + "mmap: {from: on}}", "axes.mmap: one value belongs here, but a mapping stands here"),
    (AXES + "batch: []}", "axes.batch: the list is empty"),
    # values
    (
        "axes:\n  model: tiny:llama\n  workload: pp512\n  context:\n    - 4K\n    - 16X\n",
        '6: axes.context[1]: "16X" is not allowed here. Allowed: a whole number of tokens such as 4096, 16K',
    ),
    (AXES + "context: nan}", '"nan" is not allowed here'),
    (AXES + "threads: -2}", '"-2" is not allowed here. Allowed: a whole number from 1 to 4,096'),
    (AXES + "power_limit: .inf}", '".inf" is not allowed here. Allowed: watts above 0'),
    (AXES + "dedicated_vram: 512}", '"512" is not allowed here. Allowed: a size with its unit such as 512MiB'),
    (
        AXES + "runtime: vulcan}",
        '"vulcan" is not a runtime; did you mean "vulkan"? Allowed: vulkan, rocm, cuda, metal, cpu',
    ),
    (AXES + "engine: olama}", '"olama" is not an engine; did you mean "ollama"? Allowed: embedded,'),
    (AXES + "kv_type: q8}", '"q8" is not a KV type; did you mean "q8_0"?'),
    (AXES + "kv_type: f16/f16/f16}", '"f16/f16/f16" is not a KV type'),
    (AXES + "quantisation: Q4_K_N}", '"Q4_K_N" is not a quantisation; did you mean "Q4_K_'),
    (AXES + "gpu_layers: most}", '"most" is not a number of layers. Allowed: all'),
    (AXES + "flash_attention: 1}", '"1" is not a switch. Allowed: on, true, yes, off, false, no'),
    ("axes: {model: 'tiny:', workload: pp512}", '"tiny:" is not a tiny model'),
    ("axes: {model: 'tiny:lama', workload: pp512}", 'did you mean "tiny:llama"? Allowed: tiny:llama, tiny:qwen3moe'),
    ("axes: {model: hf:qwen3, workload: pp512}", '"hf:qwen3" is not a Hugging Face name. Allowed: hf:OWNER/REPO'),
    (GOOD + "timeouts: {trial: 1:30}", '2: timeouts.trial: "1:30" is not allowed here. Allowed: a time above 0'),
    (GOOD + "measure: {repeats: 0}", '"0" is not allowed here. Allowed: a whole number from 1 to 10,000'),
    (GOOD + "name: two words", '"two words" is not a name. Allowed: ASCII letters'),
    (
        GOOD + "devices: {gpu_vendor: [amd, nvidea]}",
        'devices.gpu_vendor[1]: "nvidea" is not a GPU vendor; did you mean "nvidia"?',
    ),
    (
        GOOD + "workloads: {a: {prompt: x, max_tokens: 2, temperature: nan}}",
        'workloads.a.temperature: "nan" is not allowed here. Allowed: a number from 0 to 10',
    ),
    (
        GOOD + "workloads: {a: {prompt: x, max_tokens: 2, stop: exactly}}",
        '"exactly" is not a way to stop; did you mean "exact"? Allowed: natural, exact',
    ),
    (GOOD + "workloads: {a: {prompt: ' ', max_tokens: 2}}", "workloads.a.prompt: the text is empty"),
    (GOOD + "workloads: {a: {max_tokens: 2}}", "workloads.a: a chat takes either prompt or prompt_file"),
    (GOOD + "workloads: {a: {depth: 2}}", "workloads.a: nothing to measure"),
    (GOOD + "workloads: {pp7: {prompt_tokens: 2}}", '"pp7" is built in'),
    (GOOD + "models: {a: {}}", "models.a: nothing says where the model comes from"),
    (GOOD + "models: {a: {hf: o/r, path: b.gguf}}", "models.a: hf and path each say where the model comes from"),
    (GOOD + "models: {a: {path: b.gguf, file: c}}", "models.a: file and revision belong to hf"),
    (GOOD + "models: {a: {hf: r}}", 'models.a.hf: "r" is not a Hugging Face repository. Allowed: OWNER/REPO'),
    # ranges
    (AXES + "threads: {from: 1, to: 8, step: 0}}", '"0" is not allowed here. Allowed: a whole number from 1'),
    (
        AXES + "gpu_layers: {from: 1, to: 8, step: 0}}",
        "axes.gpu_layers: step must be above 0, else the range never ends",
    ),
    (AXES + "threads: {from: 1, to: 8, factor: 1}}", 'factor "1" must be above 1, else the range never ends'),
    (AXES + "gpu_layers: {from: 0, to: 8, factor: 2}}", "from must be above 0 with a factor"),
    (AXES + "gpu_layers: {from: 0, to: all, step: 2}}", "a range takes numbers from 0"),
    (AXES + "threads: {from: 9, to: 8, step: 1}}", "from (9) is greater than to (8); ranges go upwards"),
    (AXES + "threads: {from: 1, to: 8}}", "a range takes either step (added) or factor (multiplied)"),
    (AXES + "context: {from: 1, to: 1M, step: 1}}", "the range has more than 10,000 values"),
    (AXES + "context: {from: 1, to: 1M, factor: 1.0000001}}", "the range has more than 10,000 values"),
    # what must fit together
    ("axes: {workload: pp512}", "1: axes: no model is given. Allowed in: defaults, axes, zip"),
    ("axes: {model: tiny:llama}", "1: axes: no workload is given"),
    (GOOD + "include: [{model: tiny:llama}]", "2: include[0]: no workload is given. Allowed in: defaults, include[0]"),
    (
        "axes: {model: tiny:llama}\nworkloads: {webpage: {prompt: x, max_tokens: 2}}\ndefaults: {workload: web-page}",
        '3: defaults.workload: "web-page" is not a workload; did you mean "webpage"? Allowed: webpage, pp512,',
    ),
    ("axes: {model: tiny:llama, workload: [pp512, pp0, tg]}", '"pp0" is not a workload', '"tg" is not a workload'),
    ("axes: {model: tiny:llama, workload: pp512tg128}", '"pp512tg128" is not a workload'),
    (
        GOOD + "zip: [{context: [1K, 2K], threads: [1, 2, 3]}]",
        "2: zip[0]: lists that go together must have one length, but context has 2, threads has 3",
    ),
    (GOOD + "zip: [{model: tiny:qwen3moe, context: 1K}]", '2: zip[0].model: axis "model" stands in axes.model too'),
    (GOOD + "zip: [{context: 1K}, {context: 2K}]", '2: zip[1].context: axis "context" stands in zip[0].context too'),
    (GOOD + "zip: [{}]", "2: zip[0]: the entry is empty"),
    (GOOD + "exclude: [{}]", "2: exclude[0]: the entry is empty"),
    (GOOD + "exclude:\n- {context: 1K}", '3: exclude[0]: matches no cell: no cell of the product has "context"'),
    (GOOD + "exclude: [{workload: pp513}]", "2: exclude[0]: matches no cell: workload is never pp513. Allowed: pp512"),
    (
        GOOD + "zip: [{context: [1K, 2K], threads: [1, 2]}]\nexclude: [{context: 1K, threads: 2}]",
        "3: exclude[0]: matches no cell: these values never stand together",
    ),
    (GOOD + "exclude: [{model: tiny:llama}]", "2: exclude: every cell of the product is excluded"),
    (
        "include: [{model: tiny:llama, workload: pp1}]\nexclude: [{model: tiny:llama}]",
        "exclude[0]: nothing to exclude from",
    ),
    (
        "axes: {model: llama, workload: pp512}\nmodels: {llama3: {tiny: llama}}",
        '1: axes.model: "llama" has no files, and the embedded engine knows no names of its own; did you mean "llama3',
    ),
    (
        "axes: {model: m, workload: pp512}\nmodels: {m: {path: 'x-{quantisation}.gguf'}}",
        '"m" is named with {quantisation}, but no quantisation is given',
    ),
    (
        GOOD + "zip: [{context: {from: 1, to: 5000, step: 1}}, {threads: {from: 1, to: 4000, step: 1}}]",
        "the product has 20,000,000 cells; at most 10,000,000",
    ),
    (
        GOOD
        + "defaults: {model: tiny:llama, workload: pp1}\n"
        + "include: [{batch: {from: 1, to: 5000, step: 1}, threads: {from: 1, to: 400, step: 1}}]",
        "3: include: the entries make 2,000,000 cells; at most 100,000",
    ),
    # files
    (
        GOOD + "workloads: {a: {prompt: x, max_tokens: 2, image: no.png}}",
        '2: workloads.a.image: "no.png": no such file',
    ),
    (
        GOOD + "workloads: {a: {prompt: x, max_tokens: 2, image: m.yaml}}",
        "the file is not a picture that can be read. Allowed: a PNG, JPEG or WebP picture",
    ),
    (GOOD + "workloads: {a: {prompt_file: ~nobody-here/a, max_tokens: 2}}", "no such file (no such user)"),
    (GOOD + "workloads: {a: {prompt: x, max_tokens: 2, image: .}}", "is a folder, not a file"),
    (
        GOOD + "workloads: {a: {prompt_file: no.txt, max_tokens: 2}}",
        '2: workloads.a.prompt_file: "no.txt": no such file',
    ),
]


@pytest.mark.parametrize(("text", "parts"), [(row[0], row[1:]) for row in ONE_ERROR])
def test_one_error(tmp_path: Path, text: str | bytes, parts: tuple[str, ...]) -> None:
    found = errors(tmp_path, text)
    assert len(found) == len(parts), found
    for line, part in zip(found, parts, strict=True):
        assert part in line


def test_all_errors_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
nam: a
devices: {min_ram: 32}
workloads:
  web: {prompt: x, max_tokens: many}
  pic: {prompt: x, max_tokens: 8, image: no.png}
defaults: {engine: embeded}
axes:
  model: tiny:llama
  workload: [web, pic, wob]
  contxt: 1K
  runtime: [cpu, vulcan]
zip:
  - {threads: [1, 2], batch: [1]}
measure: {repeats: -1}
measure: {repeats: 2}
"""
    found = errors(tmp_path, text)
    assert [int(line.split(":")[0]) for line in found] == [1, 2, 4, 5, 6, 9, 10, 11, 13, 15]
    assert 'axes.workload[2]: "wob" is not a workload; did you mean "web"?' in found[5]


def test_a_section_that_is_wrong_causes_no_second_error(tmp_path: Path) -> None:
    assert len(errors(tmp_path, "axes: {model: 'tiny:', workload: pp512}")) == 1
    assert len(errors(tmp_path, "axes: 3")) == 1
    assert len(errors(tmp_path, GOOD + "zip: [{context: 1X, threads: [1, 2]}]")) == 1
    assert len(errors(tmp_path, "axes: {model: own-name, workload: pp512, engine: olama}")) == 1


def test_many_errors_are_counted(tmp_path: Path) -> None:
    found = errors(tmp_path, "axes: {model: tiny:llama, workload: pp512, threads: [" + "x, " * 500 + "]}")
    assert len(found) == SHOWN + 1
    assert found[-1] == "... and 400 more"


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 10)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
        "a: &a {k: x, l: y}\n"
        + "".join(
            f"{n}: &{n} {{p: *{p}, q: *{p}}}\n"
            for p, n in zip("abcdefghijklmnopqrstu", "bcdefghijklmnopqrstuv", strict=True)
        ),
        "axes: {threads: [" + "1, " * 1_100_000 + "]}",
    ],
    ids=["laughs", "doubling", "long"],
)
def test_too_much_is_refused_early(tmp_path: Path, text: str) -> None:
    begun_s = time.process_time()  # of this process alone: the machine may be busy
    (found,) = errors(tmp_path, text)
    assert "over 1,000,000 values" in found or "more than 32 levels" in found
    assert time.process_time() - begun_s < 10


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, part in ((tmp_path / "no.yaml", "no such file"), (tmp_path, "is a folder, not a file")):
        with pytest.raises(MatrixErrors, match=part):
            read_matrix(path)
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(16 * 1024**2 + 1)
    with pytest.raises(MatrixErrors, match="larger than 16 MiB"):
        read_matrix(large)


def test_a_prompt_file_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    (tmp_path / "b.txt").write_bytes(b" \n")
    text = GOOD + "workloads:\n  a: {prompt_file: a.txt, max_tokens: 2}\n  b: {prompt_file: b.txt, max_tokens: 2}\n"
    found = errors(tmp_path, text)
    assert 'workloads.a.prompt_file: "a.txt" is not UTF-8 text (byte 2)' in found[0]
    assert 'workloads.b.prompt_file: "b.txt" is empty' in found[1]


def test_a_message_names_the_file_as_it_was_given() -> None:
    with pytest.raises(MatrixErrors) as caught:
        parse_matrix("axes: {contxt: 1}", Path("some/quickstart.yaml"), lambda name: b"")
    assert str(caught.value).splitlines()[-1].startswith("some/quickstart.yaml:1: axes.contxt: unknown key")


def test_an_unknown_key_in_an_entry_hides_nothing_else_of_it(tmp_path: Path) -> None:
    text = "include: [{model: 'tiny:llama', contxt: 4K, threads: -3, workload: nope}]"
    found = sorted(line.split(": ")[1] for line in errors(tmp_path, text))
    assert found == ["include[0].contxt", "include[0].threads", "include[0].workload"]
