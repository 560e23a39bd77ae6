"""LM Studio's command line, as far as runtimes go: prints a recorded table, and selects in it.

``python tests/fakes/lms_program.py TABLE NOTES runtime ls|select ALIAS --port N``: TABLE is the file with the table,
which a selection changes; each call's words are a line of NOTES. Where a file ``TABLE.deaf`` is, a selection is
said to be made and is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

MARK = "✓"


def main(table: Path, notes: Path, words: list[str]) -> int:
    with notes.open("a", encoding="utf-8") as file:
        file.write(" ".join(words) + "\n")
    lines = table.read_text(encoding="utf-8").splitlines()
    if words[:2] == ["runtime", "ls"]:
        sys.stdout.buffer.write(("\n".join(lines) + "\n").encode())
        return 0
    alias = words[2]
    chosen = next((line for line in lines if line.split(" ")[0] == alias), None)
    if chosen is None:
        sys.stdout.buffer.write(f"No installed runtime extensions found matching: {alias}\n".encode())
        return 1
    if not Path(f"{table}.deaf").exists():
        formats = chosen.split()[-1]
        table.write_text("\n".join(_marked(line, alias, formats) for line in lines), encoding="utf-8")
    sys.stdout.buffer.write(f"Selected {alias}\n".encode())
    return 0


def _marked(line: str, alias: str, formats: str) -> str:
    name, *rest = line.split()
    if "@" not in name or rest[-1] != formats:
        return line
    return f"{name:50}{MARK if name == alias else '':^8}    {formats:^12}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
