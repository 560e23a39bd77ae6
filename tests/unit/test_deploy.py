"""What stands in ``deploy/`` agrees with itself and with the program. That it works is told by its READMEs alone."""

from __future__ import annotations

import configparser
import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml

from agents.device_file import read_device_file
from orchestrator.cli import cluster_commands  # noqa: F401  its commands are there once it is imported
from orchestrator.cli.app import app
from orchestrator.cluster import ray_command
from orchestrator.dispatch.notify import read_coordinator_file

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
PAGES = [path for path in FILES if path.name == "README.md"]
UNITS = [path for path in FILES if path.suffix == ".service"]
JOIN = DEPLOY / "linux" / "join.sh"
NEWER_THAN_SOME = ("RestartSteps", "RestartMaxDelaySec")  # systemd 254

# `orchestrate COMMAND ...` at the begin of a line or of a word in code
COMMAND = re.compile(r"(?:^|`|bin/)orchestrate ([a-z]+)([^`\n]*)", re.MULTILINE)
NAMED = re.compile(r"`(?:deploy/linux/)?([\w.-]+\.(?:sh|ps1|rules|service|plist|example|conf))`")
SECRETS = (
    r"BEGIN [A-Z ]*(PRIVATE KEY|CERTIFICATE)",
    r"\b[0-9a-fA-F]{32,}\b",
    r"\b(hf|ghp|gho|glpat|sk|xox[bp])[_-][A-Za-z0-9]{16,}",
    r"(?i)\b(password|passwd|secret|token)\s*[:=]\s*\S{8,}",
    r"[A-Za-z0-9+/]{48,}={0,2}",
)
REGISTRIES = r"(?i)pypi|pythonhosted|index-url|find-links|simple/|registry\.|npmjs|ghcr\.io|docker\.io"


def ids(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def commands() -> dict[str, set[str]]:
    """The options of each command that the program has."""
    group = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def check_command(name: str, words: str) -> None:
    known = commands()
    assert name in known, f"orchestrate has no {name}"
    for option in re.findall(r"(?<!\S)--[a-z-]+", words):
        assert option in known[name], f"orchestrate {name} has no {option}"


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    return parser


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    for name in NAMED.findall(text):
        assert any(path.name == name for path in FILES), name


@pytest.mark.parametrize("path", [path for path in FILES if path not in PAGES], ids=ids)
def test_every_file_is_named_in_its_page(path: Path) -> None:
    assert path.name in (path.parent / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_page_says_what_was_tried(page: Path) -> None:
    assert re.search(r"\btried\b", page.read_text(), re.IGNORECASE)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_commands_and_options_are_those_of_the_program(path: Path) -> None:
    for name, words in COMMAND.findall(path.read_text()):
        check_command(name, words)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_there_are_no_secrets_and_no_registries(path: Path) -> None:
    text = path.read_text()
    for pattern in (*SECRETS, REGISTRIES):
        found = re.search(pattern, text)
        assert found is None, found


@pytest.mark.parametrize("path", UNITS, ids=ids)
def test_a_unit_runs_the_program_and_leaves_nothing_behind(path: Path) -> None:
    service = unit(path)["Service"]
    program, name, *words = service["ExecStart"].split()
    assert program == "/opt/orchestrate/bin/orchestrate"
    check_command(name, " ".join(words))
    assert "--block" in words
    example = path.parent / f"{Path(service['EnvironmentFile']).name}.example"
    given = set(re.findall(r"^([A-Z]+)=", example.read_text(), re.MULTILINE))
    assert given == set(re.findall(r"\$\{?([A-Z]+)", service["ExecStart"]))
    for option in re.findall(r"(?<!\S)(--[a-z-]+)", example.read_text()):
        check_command(name, option)
    assert (service["Restart"], service["KillMode"], service["OOMPolicy"]) == ("always", "mixed", "continue")
    assert unit(path)["Unit"]["Wants"] == "network-online.target"
    assert "network-online.target" in unit(path)["Unit"]["After"].split()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("path", UNITS, ids=ids)
def test_systemd_knows_what_stands_in_a_unit(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace("/opt/orchestrate/bin/orchestrate", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if path.name in line]
    assert [line for line in said if not any(f"'{key}'" in line for key in NEWER_THAN_SOME)] == []


def test_property_list_of_macos() -> None:
    job = plistlib.loads((DEPLOY / "macos" / "orchestrate.device.plist").read_bytes())
    _, name, *words = job["ProgramArguments"]
    check_command(name, " ".join(words))
    assert "--block" in words
    assert job["KeepAlive"] is job["RunAtLoad"] is True
    assert job["EnvironmentVariables"]["HOME"] == f"/Users/{job['UserName']}"
    assert job["EnvironmentVariables"]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"


def test_table_of_ports_is_that_of_the_program() -> None:
    rows = (line.split("|")[1:] for line in (DEPLOY / "README.md").read_text().splitlines() if line.startswith("| "))
    table = {cells[0].strip(): cells[2] for cells in rows if re.match(r"\s*\d{4}", cells[0])}
    for option, port in ray_command.PINNED.items():
        assert f"`--{option}`" in table[str(port)]
    least, most = ray_command.WORKER_PORTS
    others = (ray_command.HEAD_PORT, ray_command.MODELS_PORT, ray_command.HEAD_MODELS_PORT, f"{least}-{most}")
    assert set(table) == {*map(str, ray_command.PINNED.values()), *map(str, others)}


def test_examples_of_settings_are_read(tmp_path: Path) -> None:
    written = re.findall(r"```yaml\n(.*?)```", "".join(page.read_text() for page in PAGES), re.DOTALL)
    read = []
    for text in written:
        name = "coordinator.yaml" if "notify" in yaml.safe_load(text) else "device.yaml"
        (tmp_path / name).write_text(text)
        settings = read_coordinator_file(tmp_path) if name == "coordinator.yaml" else read_device_file(tmp_path)
        read.append(settings.model_fields_set)
    assert set().union(*read) >= {"name", "labels", "memory", "dedicated_vram", "power_limit", "allow", "notify"}


@pytest.mark.skipif(sys.platform != "linux", reason="join.sh is for Linux")
@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_join_script_is_well_formed(shell: str) -> None:
    assert os.access(JOIN, os.X_OK)
    subprocess.run([shell, "-n", str(JOIN)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="join.sh is for Linux")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "SOURCE"),
        ([], 2, "SOURCE"),
        (["/nowhere/at.whl", "10.0.0.1"], 2, "neither a wheel nor a checkout"),
        (["."], 2, "HEAD is missing"),
        (["--venv"], 2, "needs a value"),
        (["--wheel", "x"], 2, "allowed: --venv"),
        (["--python", "/bin/true-not-there", ".", "10.0.0.1"], 2, "3.11 to 3.14"),
    ],
)
def test_join_script_says_what_is_wrong_and_installs_nothing(arguments: list[str], code: int, words: str) -> None:
    done = subprocess.run(
        [str(JOIN), *arguments], cwd=DEPLOY.parent, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code
    assert words in done.stdout + done.stderr
