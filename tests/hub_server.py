"""The routes of the Hugging Face hub that an upload takes, on this machine."""

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class HubServer:
    """A hub whose repositories are dictionaries. It takes all files in a commit, as the real one takes small ones.

    Large files go by Xet, a protocol of the hub's own storage, which has no stand-in.

    Args:
        token: that it lets in.
    """

    token: str = "hf_of_a_test"
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    return self.answer({"error": "Invalid credentials"}, 401)
                return self.answer(hub.post(self.path, body))

            def do_GET(self) -> None:
                self.answer({"error": "not here"}, 404)

            def answer(self, value: Any, status: int = 200) -> None:
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def post(self, path: str, body: bytes) -> Any:
        """The answer to a request."""
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.repositories.setdefault(name, {})
            self.private.setdefault(name, asked.get("private") or asked.get("visibility") == "private")
            return {"url": f"{self.url}/{name}", "name": name, "id": name}
        repository = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        assert "/commit/" in path, path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repositories[repository][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"{self.url}/{repository}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None}
