"""A real chat-completions server on this machine, whose faults a test chooses."""

import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

KEY = "sk-secret-0123456789"
"""A key that a test looks for."""

ENDLESS = {
    "drip": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"),
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "refusal": (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}
"""By fault: what is sent first, and what again and again, a hundred times a second."""


@dataclass
class Answer:
    """What the server does with a request.

    Args:
        text: the model's reply; unused with `content`.
        status: of HTTP.
        content: the whole body instead.
        headers: further ones.
        fault: None; `reset`: the connection is reset; `silence`: nothing is sent for as long as the server runs; what
            `ENDLESS` has: it is sent for as long.
    """

    text: str | None = "happiness"
    status: int = 200
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    fault: str | None = None

    def body(self) -> bytes:
        if self.content is not None:
            return self.content
        usage = {"prompt_tokens": 100, "completion_tokens": 2}
        return json.dumps(
            {"choices": [{"message": {"role": "assistant", "content": self.text}}], "usage": usage}
        ).encode()


@dataclass
class Request:
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"]


def then_fine(*faults: Answer) -> Callable[[int, Request], Answer]:
    """The faults for the first requests, one each, and a good reply for the others."""
    return lambda number, request: faults[number] if number < len(faults) else Answer("Sad")


class ChatServer(ThreadingHTTPServer):
    """Answers in a thread; a context manager.

    Args:
        answer: from the number of the request (0..) and the request to the answer.
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[int, Request], Answer] = lambda number, request: Answer()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests: list[Request] = []
        self.most_at_once = 0
        self.ended = threading.Event()
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def prompts(self) -> list[str]:
        return [request.prompt for request in self.requests]

    def begin(self, request: Request) -> Answer:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.requests.append(request)
            number = len(self.requests) - 1
        return self.answer(number, request)

    def end(self) -> None:
        with self._lock:
            self._at_once -= 1

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that give up are expected."""

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.die()

    def die(self) -> None:
        """Stop listening: the next connection is refused."""
        self.ended.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.server.begin(Request(self.path, dict(self.headers), body))
        try:
            if answer.fault == "reset":
                # Closing with a linger time of 0 sends RST instead of FIN.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif answer.fault == "silence":
                self.server.ended.wait(10)
            elif answer.fault in ENDLESS:
                first, again = ENDLESS[answer.fault]
                self.wfile.write(first)
                while not self.server.ended.wait(0.01):
                    self.wfile.write(again)
            else:
                self._send(answer)
        finally:
            self.server.end()
        self.close_connection = True

    def _send(self, answer: Answer) -> None:
        content = answer.body()
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """The test's own output is enough."""
