"""A stand-in for Weights & Biases' server, on loopback: takes runs in and remembers them.

Answers the few GraphQL operations that wandb 0.31 needs to start a run or to sync one.
"""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "team"


@dataclass
class WandbServer:
    """What was sent: `runs` as they were created, `history` rows in order, keys used."""

    url: str = ""
    runs: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    credentials: set[str] = field(default_factory=set)

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data that a query asks for; null for all that is not needed."""
        if "upsertBucket" in query:
            self.runs.append(variables)
            bucket = {
                "id": "aWQ=",
                "name": variables.get("name"),
                "displayName": variables.get("displayName"),
                "sweepName": None,
                "historyLineCount": 0,
                "config": "{}",
                "project": {"id": "cA==", "name": "p", "entity": {"id": "ZQ==", "name": ENTITY}},
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        viewer: dict[str, Any] = {"id": "dg==", "entity": ENTITY, "username": ENTITY, "flags": "{}"}
        viewer |= {"teams": {"edges": []}, "apiKeys": {"edges": []}}
        return {"viewer": viewer, "serverInfo": None, "createRunFiles": {"files": []}}

    def stream(self, body: dict[str, Any]) -> None:
        """Take in one piece of a run's history."""
        content = body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.history += [json.loads(line) for line in content]


@contextmanager
def serve_wandb(refusal: tuple[int, bytes] | None = None) -> Iterator[WandbServer]:
    """A server; with `refusal`, one that gives this status and body to everything."""
    state = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                raw = gzip.decompress(raw)
            state.credentials.add(self.headers.get("authorization", ""))
            answer: dict[str, Any] = {}
            if self.path.endswith("/graphql"):
                asked = json.loads(raw)
                answer = {"data": state.graphql(asked["query"], asked.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                state.stream(json.loads(raw))
            self._answer(*(refusal or (200, json.dumps(answer).encode())))

        do_PUT = do_POST

        def do_GET(self) -> None:
            self._answer(*(refusal or (200, b"{}")))

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_parts: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
