from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.device import Device, MemoryKind
from orchestrator.cli.ledger_access import ledger_path
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.matrix import expand, read_matrix
from tests.unit.cli.conftest import Orchestrate
from tests.unit.results.made_attempts import DEVICE

HERE = replace(DEVICE, device_id="id-a", name="alpha", dedicated_vram_bytes=512 * 2**20)
SIMPLE = """
name: simple
question: Which context?
defaults: {engine: embedded, model: tiny:llama, workload: pp8}
axes: {context: [1K, 2K]}
measure: {repeats: 3}
"""


MATRICES = sorted((Path(__file__).parents[3] / "matrices").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "m.yaml"
    path.write_text(text)
    return path


def remember(folder: Path, *devices: Device) -> Ledger:
    """As if these devices had run something for this home before."""
    ledger = Ledger(ledger_path(folder / "home"))
    ledger.record_devices(devices)
    return ledger


def cells_sorted(out: str) -> list[str]:
    """The lines without the cells' numbers; cells in a row, which are shuffled, are sorted. Numbers must go up by 1."""
    lines: list[str] = []
    row: list[str] = []
    number = 0
    for line in [*out.splitlines(), ""]:
        found = re.fullmatch(r" *(\d+)  (.*)", line)
        if found:
            number += 1
            assert int(found[1]) == number
            row.append(found[2])
            continue
        lines += [*sorted(row), line]
        row = []
        number = 0 if line.startswith("on ") else number
    return lines[:-1]


def test_a_matrix_on_a_known_device(orchestrate: Orchestrate, tmp_path: Path) -> None:
    remember(tmp_path, HERE).close()
    ended = orchestrate("plan", write(tmp_path, SIMPLE))
    assert (ended.code, ended.err) == (0, "")
    assert cells_sorted(ended.out) == [
        "simple: 2 cells x 3 repeats = 6 jobs",
        "question: Which context?",
        "",
        "on alpha (a CPU, 64 GiB RAM), time unknown: none of these cells ran here before:",
        "ctx 1K  x3  ?",
        "ctx 2K  x3  ?",
    ]


def test_earlier_runs_tell_how_long(orchestrate: Orchestrate, tmp_path: Path) -> None:
    path = write(tmp_path, SIMPLE)
    first, second = expand(read_matrix(path))
    ledger = remember(tmp_path, HERE)
    ledger.add("run-1", "simple", "{}", [("j1", first.cell_id, "id-a", 0), ("j2", second.cell_id, "id-a", 0)])
    ledger.mark_done("j1", 1, None, 20.0)
    assert "1 min 00 s for 1 cell that ran before, 1 never did:" in orchestrate("plan", path).out
    ledger.mark_done("j2", 1, None, 40.0)
    ledger.close()
    assert cells_sorted(orchestrate("plan", path).out)[3:] == [
        "on alpha (a CPU, 64 GiB RAM), about 3 min 00 s:",
        "ctx 1K  x3  1 min 00 s",
        "ctx 2K  x3  2 min 00 s",
    ]


STATES = """
name: states
defaults: {engine: embedded, model: tiny:llama, workload: pp8}
axes: {context: [1K, 2K, 4K, 8K, 16K], dedicated_vram: [512MiB, 32GiB], power_limit: [55W, 80W]}
measure: {repeats: 1}
"""


CONTEXTS = ("1K", "2K", "4K", "8K", "16K")
NO_POWER = STATES.replace(", power_limit: [55W, 80W]", "")


def cells(state: str, pad: int, mark: str = "") -> list[str]:
    """Lines of the five contexts in a state, as ``cells_sorted`` has them."""
    return sorted(f"ctx {size} {state}{' ' * (pad + 3 - len(size))}  x1{mark}" for size in CONTEXTS)


def test_a_known_device_and_its_machine_states(orchestrate: Orchestrate, tmp_path: Path) -> None:
    remember(tmp_path, HERE).close()
    out = cells_sorted(orchestrate("plan", write(tmp_path, NO_POWER)).out)
    assert out[2].startswith("on alpha (a CPU, 64 GiB RAM), 10 cells in 2 machine states, 1 reboot, 0 changes of")
    assert out[3:] == [
        "  dedicated VRAM 512 MiB:",
        *cells("vram 512MiB", 0, "  ?"),
        "  set and reboot: dedicated VRAM 32 GiB:",
        *cells("vram 32GiB", 1, "  ?"),
    ]


def test_who_sets_a_state(orchestrate: Orchestrate, tmp_path: Path) -> None:
    ours = replace(HERE, sets_split=True, carveout_options_bytes=(2**29, 2**35), power_limit_w=55.0)
    remember(tmp_path, ours).close()
    out = orchestrate("plan", write(tmp_path, STATES)).out.splitlines()
    assert out[2].startswith("on alpha (a CPU, 64 GiB RAM), 20 cells in 4 machine states, 1 reboot, 2 changes of")
    assert [line for line in out[3:] if line.endswith(":")] == [
        "  dedicated VRAM 512 MiB, power limit 55 W:",
        "  set by hand: dedicated VRAM 512 MiB, power limit 80 W:",
        "  set by the agent, with a reboot: dedicated VRAM 32 GiB, power limit 80 W:",
        "  set by hand: dedicated VRAM 32 GiB, power limit 55 W:",
    ]


def test_what_a_device_can_never_be_is_refused_and_needs_no_reboot(orchestrate: Orchestrate, tmp_path: Path) -> None:
    remember(tmp_path, replace(HERE, memory_kind=MemoryKind.DISCRETE)).close()
    out = cells_sorted(orchestrate("plan", write(tmp_path, NO_POWER)).out)
    assert "10 cells in 2 machine states, 0 reboots, 0 changes of the power limit" in out[2]
    assert out[9:] == [
        "  dedicated VRAM 32 GiB:",
        *cells("vram 32GiB", 1, "  refused"),
        "  would be refused, as it was last seen (5 of 10 cells):",
        "    5 cells: dedicated VRAM of alpha cannot be chosen: it has a card with memory of its own;"
        " asked for: 32 GiB",
    ]


def test_no_known_device_fits_and_the_order_is_shown_all_the_same(orchestrate: Orchestrate, tmp_path: Path) -> None:
    remember(tmp_path, HERE).close()
    path = write(tmp_path, "devices: {gpu_vendor: nvidia}\n" + STATES)
    assert cells_sorted(orchestrate("plan", path).out) == [
        "states: 20 cells x 1 repeat; no device that is known here can run any of them",
        "",
        "20 cells fit no device that is known here:",
        "  alpha: its GPU is by amd, not nvidia",
        "  20 cells: no device fits the matrix's devices: section; known: alpha",
        "",
        "on a device that fits, 20 cells in 4 machine states, 1 reboot, 2 changes of the power limit:",
        "  dedicated VRAM 512 MiB, power limit 55 W:",
        *cells("vram 512MiB 55W", 0),
        "  set by hand: dedicated VRAM 512 MiB, power limit 80 W:",
        *cells("vram 512MiB 80W", 0),
        "  set and reboot: dedicated VRAM 32 GiB, power limit 80 W:",
        *cells("vram 32GiB 80W", 1),
        "  set by hand: dedicated VRAM 32 GiB, power limit 55 W:",
        *cells("vram 32GiB 55W", 1),
    ]


def test_each_state_shows_some_cells_and_all_of_them_when_asked(orchestrate: Orchestrate, tmp_path: Path) -> None:
    remember(tmp_path, HERE).close()
    text = STATES.replace("[1K, 2K, 4K, 8K, 16K]", "{from: 1K, to: 20K, step: 1K}")
    path = write(tmp_path, "devices: {gpu_vendor: nvidia}\n" + text)
    short = orchestrate("plan", path).out
    assert short.count("... and 13 more (--all shows them)") == 4
    second = short.partition("power limit 80 W:\n")[2]
    assert second.startswith("   21  ctx "), "numbers go on over what is not shown"
    full = orchestrate("plan", path, "--all").out
    assert "more (--all" not in full
    assert sum(line.strip().endswith("x1") for line in full.splitlines()) == 80


def test_a_device_that_cells_name_and_nobody_knows(orchestrate: Orchestrate, tmp_path: Path) -> None:
    remember(tmp_path, HERE).close()
    path = write(tmp_path, SIMPLE.replace("axes: {", "axes: {device: [alpha, gamma], "))
    out = orchestrate("plan", path).out
    assert "simple: 4 cells x 3 repeats = 6 jobs\n" in out
    assert "2 cells fit no device that is known here:\n  2 cells: no device gamma; known: alpha\n" in out
    assert cells_sorted(out)[-3:] == ["on gamma:", "ctx 1K on gamma  x3", "ctx 2K on gamma  x3"]


def test_for_scripts(orchestrate: Orchestrate, tmp_path: Path) -> None:
    remember(tmp_path, HERE).close()
    ended = orchestrate("plan", write(tmp_path, "devices: {gpu_vendor: nvidia}\n" + STATES), "--json")
    told = json.loads(ended.out)
    assert (told["matrix"], told["cells"], told["jobs"], told["devices"]) == ("states", 20, 0, [])
    assert len(told["unplaced"]) == 20
    (unknown,) = told["on_unknown_devices"]
    assert (unknown["name"], unknown["reboots"], unknown["power_changes"]) == (None, 1, 2)
    assert [(each["dedicated_vram_bytes"], each["power_limit_w"]) for each in unknown["phases"]] == [
        (2**29, 55),
        (2**29, 80),
        (2**35, 80),
        (2**35, 55),
    ]
    assert [each["reboot_before"] for each in unknown["phases"]] == [False, False, True, False]
    assert [cell for each in unknown["phases"] for cell in each["cells"]] == [x["cell_id"] for x in unknown["cells"]]
    known = json.loads(orchestrate("plan", write(tmp_path, SIMPLE), "--json").out)
    assert [(each["name"], len(each["cells"]), each["reboots"]) for each in known["devices"]] == [("alpha", 2, 0)]
    assert known["jobs"] == 6


def test_on_an_empty_home_it_plans_for_this_machine_and_starts_nothing(
    orchestrate: Orchestrate, tmp_path: Path
) -> None:
    ended = orchestrate("plan", write(tmp_path, SIMPLE))
    assert ended.code == 0
    assert "time unknown" in ended.out
    assert not ledger_path(tmp_path / "home").exists()


@pytest.mark.parametrize("matrix", MATRICES, ids=lambda path: path.stem)
def test_the_projects_own_matrices(orchestrate: Orchestrate, matrix: Path) -> None:
    ended = orchestrate("plan", matrix)
    assert (ended.code, ended.err) == (0, "")
    assert "\n    1  " in ended.out, "an order is shown, whatever this machine is"


HEAVY = {"ray", "pyarrow", "numpy", "httpx", "rich", "huggingface_hub", "xllamacpp"}
STARTED = f"""
import sys
from orchestrator.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print("heavy:", sorted({{name.partition(".")[0] for name in sys.modules}} & {HEAVY}))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "m.yaml"], ["plan", "--json", "m.yaml"]])
def test_what_must_start_at_once_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    write(tmp_path, SIMPLE)
    remember(tmp_path, HERE).close()
    command = [sys.executable, "-c", STARTED, *arguments]
    environment = {"ORCHESTRATE_HOME": str(tmp_path / "home"), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
