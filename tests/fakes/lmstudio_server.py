"""LM Studio's server as its SDK sees it: websockets beside REST on one port, and a state that loads change.

Messages as the package ``lmstudio`` 1.5.0 exchanges them (its ``json_api`` module). Needs ``wsproto``, which comes
with it.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Message, Ping, Request, TextMessage

Answer = Mapping[str, Any]


@dataclass
class FakeLMStudio:
    """``rest``: (method and path, body) -> answer, given this state; None is a 404. ``received`` came by websocket.

    ``held``: a load answers when the event is set; ``refusal``: the error that a load is answered with; ``changes``:
    fields of the configuration that the server loads with, whatever was asked.
    """

    rest: Callable[[FakeLMStudio, str, Any], Answer | None]
    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    received: list[dict[str, Any]] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)
    held: threading.Event | None = None
    refusal: dict[str, Any] | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    loading: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> FakeLMStudio:
        state = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    _serve(state, self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.held is not None:
            self.held.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def unload(self, instance: str) -> None:
        self.unloaded.append(instance)
        self.loaded.pop(instance, None)

    def answers(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """To one message of the SDK."""
        self.received.append(message)
        if message.get("type") == "channelCreate":
            return self._load(message)
        if message.get("type") != "rpcCall":
            return []
        results: dict[str, Callable[[], Any]] = {
            "version": lambda: {"version": "0.3.39", "build": 2},
            "getLoadConfig": lambda: {
                "fields": _fields(self.loaded[message["parameter"]["specifier"]["query"]["identifier"]])
            },
            "unloadModel": lambda: self.unload(message["parameter"]["identifier"]),
        }
        return [{"type": "rpcResult", "callId": message["callId"], "result": results[message["endpoint"]]()}]

    def _load(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        channel, asked = {"channelId": message["channelId"]}, message["creationParameter"]
        self.loading.set()
        if self.held is not None:
            self.held.wait(30.0)
        if self.refusal is not None:
            return [{"type": "channelError", **channel, "error": self.refusal}]
        name = asked["identifier"]
        layers = asked["loadConfigStack"]["layers"]
        config = {each["key"]: each["value"] for layer in layers for each in layer["config"]["fields"]}
        self.loaded[name] = {**config, **self.changes}
        info = {"identifier": name, "instanceReference": "r1", "path": "p"}
        return [
            {"type": "channelSend", **channel, "message": {"type": "progress", "progress": 0.5}},
            {"type": "channelSend", **channel, "message": {"type": "success", "info": info}},
            {"type": "channelClose", **channel},
        ]


def _fields(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in config.items()]


def _serve(state: FakeLMStudio, connection: Any) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        if not piece:
            return
        data += piece
    if b"upgrade: websocket" in data.lower():
        _talk(state, connection, data)
        return
    head, _, body = data.partition(b"\r\n\r\n")
    sizes = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < (int(sizes[0]) if sizes else 0):
        body += connection.recv(65_536)
    route = " ".join(head.split(b"\r\n")[0].decode().split(" ")[:2])
    found = (
        {"lmstudio": True} if route == "GET /lmstudio-greeting" else state.rest(state, route, json.loads(body or b"{}"))
    )
    content = json.dumps(found if found is not None else {"error": "not found"}).encode()
    status = "200 OK" if found is not None else "404 Not Found"
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n".encode())
    connection.sendall(f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)


def _talk(state: FakeLMStudio, connection: Any, first: bytes) -> None:
    ws, data, text, authenticated = WSConnection(ConnectionType.SERVER), first, "", False
    while True:
        ws.receive_data(data)
        for event in ws.events():
            if isinstance(event, Request):
                connection.sendall(ws.send(AcceptConnection()))
            elif isinstance(event, Ping):
                connection.sendall(ws.send(event.response()))
            elif isinstance(event, CloseConnection):
                connection.sendall(ws.send(event.response()))
                return
            elif isinstance(event, TextMessage):
                text += event.data
                if not event.message_finished:
                    continue
                message, text = json.loads(text), ""
                answers = state.answers(message) if authenticated else [{"success": True}]
                authenticated = True
                for answer in answers:
                    connection.sendall(ws.send(Message(data=json.dumps(answer))))
        data = connection.recv(65_536)
        if not data:
            return
