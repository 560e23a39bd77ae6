"""Models from an address: as the axis's own value, under ``models``, in a cell's id, and in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.contract.job import ModelSource
from orchestrator.matrix import MatrixErrors, expand
from tests.unit.matrix.matrix_file import read
from tests.unit.matrix.test_matrix_schema import schema_faults

SHA256 = "0123456789abcdef" * 4
SECRETS = ("annie", "pa55", "s3cr3t")
ADDRESS = "https://annie:pa55@host/m-{quantisation}.gguf?token=s3cr3t"


def sources(folder: Path, text: str) -> list[ModelSource]:
    assert schema_faults(text) == []
    return [cell.load.source for cell in expand(read(folder, text))]


def ids(folder: Path, model: str) -> list[str]:
    text = f"models: {{m: {model}}}\naxes: {{model: m, workload: pp1, quantisation: Q8_0}}"
    return [cell.cell_id for cell in expand(read(folder, text))]


def test_an_address_as_the_value_of_the_axis(tmp_path: Path) -> None:
    text = "axes: {model: 'https://host/m-{quantisation}.gguf', quantisation: [Q4_K_M, Q8_0], workload: pp1}"
    found = sources(tmp_path, text)
    assert [source.url for source in found] == ["https://host/m-Q4_K_M.gguf", "https://host/m-Q8_0.gguf"]
    assert {source.path for source in found} == {None}


def test_an_address_under_models(tmp_path: Path) -> None:
    text = (
        "models:\n"
        f"  a: {{url: '{ADDRESS}', mmproj: 'mmproj-{{quantisation_lower}}.gguf'}}\n"
        f"  b: {{url: HTTP://host/b.GGUF, sha256: {SHA256.upper()}, mmproj: 'https://host/p.gguf?x=1'}}\n"
        "axes: {model: [a, b], quantisation: Q8_0, workload: pp1}"
    )
    assert sources(tmp_path, text) == [
        ModelSource(url=ADDRESS.replace("{quantisation}", "Q8_0"), mmproj="mmproj-q8_0.gguf"),
        ModelSource(url="HTTP://host/b.GGUF", sha256=SHA256, mmproj="https://host/p.gguf?x=1"),
    ]


def test_an_id_knows_the_file_and_no_secret(tmp_path: Path) -> None:
    plain = ids(tmp_path, "{url: 'https://host/a.gguf?x=1'}")
    assert ids(tmp_path, "{url: 'https://annie:pa55@host/a.gguf?x=1'}") == plain
    assert ids(tmp_path, "{url: 'https://host/a.gguf?x=2'}") != plain
    known = ids(tmp_path, f"{{url: 'https://host/a.gguf?x=1', sha256: {SHA256}}}")
    assert known != plain
    assert ids(tmp_path, f"{{url: 'https://mirror/b.gguf', sha256: {SHA256}}}") == known
    assert ids(tmp_path, f"{{url: 'https://mirror/b.gguf', sha256: {SHA256[::-1]}}}") != known
    beside = ids(tmp_path, "{url: 'https://host/a.gguf?x=1', mmproj: 'https://annie:pa55@host/p.gguf'}")
    assert beside == ids(tmp_path, "{url: 'https://host/a.gguf?x=1', mmproj: 'https://host/p.gguf'}") != plain


@pytest.mark.parametrize(
    ("model", "id_"),
    [
        ("{path: a.gguf}", "969293e81ebb85ae7163"),
        ("{hf: o/r, file: '*{quantisation}*', mmproj: 'mm*'}", "890e782b734a6832839f"),
        ("{tiny: llama}", "63b69098099141ffbab0"),
    ],
)
def test_ids_of_other_sources_are_what_they_were(tmp_path: Path, model: str, id_: str) -> None:
    assert ids(tmp_path, model) == [id_]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {m: {url: ftp://annie:pa55@host/m.gguf}}", 'models.m.url: "host/m.gguf" is not the address'),
        ("models: {m: {url: 'https://annie:pa55@host/m.bin?t=s3cr3t'}}", '"https://host/m.bin?..." is not the address'),
        (
            "models: {m: {url: 'https://annie:pa55@/m.gguf'}}",
            "Allowed: http:// or https://, a host, and a path that ends",
        ),
        ("models: {m: {url: 'https://annie:pa55@host:x/m.gguf'}}", '"https://host:x/m.gguf" is not the address'),
        ("models: {m: {url: 'https://host/..%2fm.gguf'}}", "is not the address"),
        ("models: {m: {url: 'https://host/a b.gguf'}}", "is not the address"),
        ("models: {m: {url: 'https://host/m.gguf', sha256: abc}}", 'models.m.sha256: "abc" is not a SHA-256'),
        (f"models: {{m: {{path: a.gguf, sha256: {SHA256}}}}}", "models.m: sha256 belongs to url, which is not given"),
        (
            f"models: {{m: {{url: 'https://host/{{quantisation}}.gguf', sha256: {SHA256}}}}}",
            "sha256 is that of one file, but {quantisation} in url names several",
        ),
        ("models: {m: {url: 'https://host/m.gguf', path: b.gguf}}", "path and url each say where the model comes from"),
        ("models: {m: {url: 'https://host/m.gguf', file: a}}", "file and revision belong to hf"),
        ("models: {m: {url: 'https://host/m.gguf', mmproj: 'mm*.gguf'}}", 'mmproj: "mm*.gguf" does not name one file'),
        (
            "models: {m: {url: 'https://host/m.gguf', mmproj: /a/mm.gguf}}",
            "does not name one file. Allowed with url: an",
        ),
        (
            "models: {m: {url: 'https://host/m.gguf', mmproj: 'https://annie:pa55@host/m'}}",
            'mmproj: "https://host/m" is',
        ),
        (
            "models: {m: {hf: o/r, mmproj: 'https://annie:pa55@host/m.gguf'}}",
            "mmproj is an address, which goes with url",
        ),
        ("models: {m: 'https://annie:pa55@host/m.gguf'}", '"https://host/m.gguf" stands here'),
        ("axes: {model: 'https://annie:pa55@host/m.gguf', workload: pp1}", "comes with a login or a query"),
        ("axes: {model: 'https://host/m.gguf?token=s3cr3t', workload: pp1}", "under models: {NAME: {url: ...}}"),
        ("axes: {model: 'https://annie:pa55@host/m', workload: pp1}", '"https://host/m" is not the address'),
        ("axes: {model: 'https://host/{quantisation}.gguf', workload: pp1}", "but no quantisation is given"),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(tmp_path: Path, text: str, words: str) -> None:
    if "axes" not in text:
        text += "\naxes: {model: tiny:llama, workload: pp1}"
    with pytest.raises(MatrixErrors) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
