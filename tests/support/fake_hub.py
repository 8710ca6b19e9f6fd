"""A Hugging Face hub on this machine, as far as an upload goes: repositories, and commits."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class FakeHub:
    """What was sent: `tokens`, and `files` by repository and name. `status`: of every answer."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()
        self.paths: list[str] = []
        self.status = 200
        self.endpoint = ""

    def answer(self, path: str, body: bytes) -> Any:
        parts = path.partition("?")[0].strip("/").split("/")
        repo = "/".join(parts[2:4])
        if "create" in parts:
            return self._create(json.loads(body))
        if "validate-yaml" in parts:
            return {"errors": [], "warnings": []}
        if "preupload" in parts:
            return {"files": [_preupload(file["path"]) for file in json.loads(body)["files"]]}
        if "commit" in parts:
            self._commit(repo, body)
            return {"commitUrl": f"{self.endpoint}/{repo}/commit/1", "commitOid": "0" * 40}
        files = self.files[repo]
        if "tree" in parts:
            oid = "0" * 40
            return [
                {"type": "file", "path": name, "size": len(data), "oid": oid}
                for name, data in files.items()
            ]
        return {"id": repo, "sha": "0" * 40, "siblings": [{"rfilename": name} for name in files]}

    def _create(self, table: dict[str, Any]) -> dict[str, str]:
        owner = table.get("organization")
        name = f"{owner}/{table['name']}" if owner else table["name"]
        self.files.setdefault(name, {})
        self.private[name] = bool(table.get("private") or table.get("visibility") == "private")
        return {"url": f"{self.endpoint}/{name}", "name": name}

    def _commit(self, repo: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del self.files[repo][value["path"]]


def _preupload(name: str) -> dict[str, Any]:
    return {"path": name, "uploadMode": "regular", "shouldIgnore": False}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that takes every token."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.tokens.add(self.headers.get("Authorization"))
            hub.paths.append(f"{self.command} {self.path}")
            found: Any = {"error": f"no: {self.headers.get('Authorization')}"}
            if hub.status == 200:
                found = hub.answer(self.path, body)
            data = json.dumps(found).encode()
            self.send_response(hub.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if hub.status != 200:
                self.send_header("X-Error-Message", found["error"])
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _handle

        def log_message(self, *_args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
