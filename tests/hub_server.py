"""A loopback stand-in for the model hub: serves one folder in the hub's layout, and nothing else.

In: a repository name and a folder. Out: an address for `HF_ENDPOINT`, and a list of what was asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.loopback import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve_hub(repository: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a model folder as `repository` until the block ends."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            asked.append(f"{self.command} {path}")
            if path.startswith(f"/api/models/{repository}/tree/"):
                return self._send(json.dumps([_entry(file) for file in _files(folder)]).encode(), body)
            if path.startswith(f"/api/models/{repository}"):
                siblings = [{"rfilename": file.name} for file in _files(folder)]
                info = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "private": False}
                return self._send(json.dumps(info).encode(), body)
            name = path.removeprefix(f"/{repository}/resolve/{COMMIT}/").removeprefix(f"/{repository}/resolve/main/")
            if "/" not in name and (folder / name).is_file():
                return self._send((folder / name).read_bytes(), body, etag=True)
            return self._missing(known=repository in path)

        def _send(self, content: bytes, body: bool, etag: bool = False) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            if etag:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _missing(self, known: bool) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as address:
        yield address, asked


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file())


def _entry(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
