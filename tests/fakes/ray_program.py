"""A program that stands for `ray`: each time that it is started it does the next thing of a list.

It writes the words of its command line, one start a line, into the file ``$FAKE_RAY/started``. What it does stands in
the files ``$FAKE_RAY/1``, ``2``, ... (the last again and again), a line each of: ``say TEXT``, ``fork`` (a process is
left behind), ``unmarked`` (another one, with an empty environment; its pid stands in ``$FAKE_RAY/unmarked``),
``stay``, ``exit CODE``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

FOLDER_VARIABLE = "FAKE_RAY"


def main(folder: Path, words: list[str]) -> None:
    with (folder / "started").open("a", encoding="utf-8") as file:
        file.write(f"{' '.join(words)}\n")
    starts = len((folder / "started").read_text(encoding="utf-8").splitlines())
    plans = sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    for line in plans[min(starts, len(plans)) - 1].read_text(encoding="utf-8").splitlines():
        verb, _, rest = line.partition(" ")
        if verb == "unmarked":
            alone = [sys.executable, "-c", "import signal; signal.pause()"]
            nowhere = subprocess.DEVNULL
            process = subprocess.Popen(alone, env={}, stdin=nowhere, stdout=nowhere, stderr=nowhere)
            (folder / "unmarked").write_text(str(process.pid), encoding="utf-8")
        elif verb == "say":
            sys.stdout.write(f"{rest}\n")
            sys.stdout.flush()
        elif verb == "fork":
            left = [sys.executable, "-c", "import signal; signal.pause()"]
            subprocess.Popen(left, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        elif verb == "stay":
            signal.pause()
        elif verb == "exit":
            sys.exit(int(rest))


if __name__ == "__main__":
    main(Path(os.environ[FOLDER_VARIABLE]), sys.argv[1:])
