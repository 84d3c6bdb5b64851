"""A loopback server that speaks just enough of the OpenAI protocol, and misbehaves as it is told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What to answer: a status with a body, or a connection dropped without one."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


@dataclass
class FakeServer:
    """Answers each chat request with what `answer(request)` says; keeps the requests."""

    answer: Callable[[dict], Reply | str]
    models: tuple[str, ...] = ("served",)
    owner: str = "vllm"
    key: str = ""
    url: str = ""
    requests: list[dict] = field(default_factory=list)


def chat_body(text: str, *, finish_reason: str = "stop", **extra: Any) -> dict:
    """A chat completion."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "served",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": len(text.split()), "total_tokens": 0},
        **extra,
    }


@contextmanager
def running(server: FakeServer, *, port: int = 0) -> Iterator[FakeServer]:
    """Serves on 127.0.0.1 until left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if server.key and self.headers["Authorization"] != f"Bearer {server.key}":
                self._send(Reply(401, {"error": {"message": f"bad key {self.headers['Authorization']}"}}))
                return
            data = [{"id": m, "object": "model", "created": 0, "owned_by": server.owner} for m in server.models]
            self._send(Reply(body={"object": "list", "data": data}))

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(request)
            answer = server.answer(request)
            self._send(Reply(body=chat_body(answer)) if isinstance(answer, str) else answer)

        def _send(self, reply: Reply) -> None:
            if reply.drop:
                self.close_connection = True
                self.connection.close()
                return
            body = json.dumps(reply.body if reply.body is not None else {"error": {"message": "made up"}}).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    connections = []

    class Server(ThreadingHTTPServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            connections.append(request)
            super().process_request(request, client_address)

    httpd = Server(("127.0.0.1", port), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        for connection in connections:  # a server that ends ends its open connections too
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()
