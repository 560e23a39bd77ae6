"""A service that reads an environment file when it is restarted, as systemd's do: ``restarted_ollama.py FOLDER``.

It ends the server of before, starts ``FOLDER/ollama serve`` with the variables of ``FOLDER/ollama.env``, and leaves its
process id in ``FOLDER/pid``. The server answers ``/api/version`` at the port in ``FOLDER/port``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PROGRAM = """#!{python}
import http.server, pathlib, socketserver, sys
class Version(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{{"version": "0.33.0"}}')
    def log_message(self, *words): pass
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", int(sys.argv[2])), Version).serve_forever()
"""


def make(folder: Path, port: int) -> tuple[str, ...]:
    """The command that restarts it."""
    program = folder / "ollama"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    (folder / "port").write_text(str(port))
    return (sys.executable, __file__, str(folder))


def end(folder: Path) -> None:
    with suppress(OSError, ValueError):
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


def restart(folder: Path) -> None:
    end(folder)
    file = folder / "ollama.env"
    text = file.read_text() if file.exists() else ""
    read = not (folder / "deaf").exists()  # a service that does not name the file
    environment = dict(line.split("=", 1) for line in text.splitlines() if "=" in line) if read else {}
    server = subprocess.Popen(
        [str(folder / "ollama"), "serve", (folder / "port").read_text()],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    (folder / "pid").write_text(str(server.pid))


if __name__ == "__main__":
    restart(Path(sys.argv[1]))
