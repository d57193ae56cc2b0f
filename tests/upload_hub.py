"""A loopback stand-in for the hub that takes uploads: repositories as folders, one commit at a time.

Out: an address for `HF_ENDPOINT`, the repositories' files, and the messages of their commits.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import serving

TOKEN = "hf_secret"


@dataclass
class UploadHub:
    """What the stand-in holds."""

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@contextmanager
def taking_uploads() -> Iterator[UploadHub]:
    """Serve until the block ends."""
    hub = UploadHub()

    class Handler(_Handler):
        state = hub

    with serving(Handler) as hub.address:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: UploadHub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if name not in self.state.repositories:
            return self._send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in self.state.repositories[name].items()
            ]
            return self._send(tree)
        files = [{"rfilename": file} for file in self.state.repositories[name]]
        return self._send({"id": name, "sha": self._sha(), "siblings": files, "private": self.state.private[name]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send({"error": "Invalid credentials"}, 401)
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".gguf")) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            return self._send({"files": modes})
        if "/commit/" in path:
            return self._commit(name, body)
        return self._send({"error": path}, 404)

    def do_PUT(self) -> None:
        digest = self.path.rpartition("/")[2]
        self.state.objects[digest] = self.rfile.read(int(self.headers["Content-Length"]))
        self._send({})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.state.repositories:
            return self._send({"error": "exists", "url": f"{self.state.address}/{name}"}, 409)
        self.state.repositories[name] = {".gitattributes": b""}
        self.state.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self._send({"url": f"{self.state.address}/{name}", "name": name})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.state.address}/objects/{each['oid']}"}}}
            for each in asked["objects"]
        ]
        self._send({"transfer": "basic", "objects": objects})

    def _sha(self) -> str:
        """That of the latest commit."""
        return f"{len(self.state.commits):040x}"

    def _commit(self, name: str, body: bytes) -> None:
        files = self.state.repositories[name]
        entries = [json.loads(line) for line in body.splitlines()]
        if entries[0]["value"].get("parentCommit") not in (None, self._sha()):
            return self._send({"error": "A commit has happened since"}, 412)
        for entry in entries:
            value = entry["value"]
            if entry["key"] == "header":
                self.state.commits.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        url = f"{self.state.address}/{name}/commit/{self._sha()}"
        return self._send({"commitUrl": url, "commitOid": self._sha(), "success": True})

    def _send(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass
