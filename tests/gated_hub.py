"""A loopback stand-in for the hub that tells about a model and refuses its files, as the hub does for gated weights.

Out: an address for `HF_ENDPOINT`. Information is public; a request for a file gets `status` and `X-Error-Code`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.loopback import serving

COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


@contextmanager
def refusing_files(
    repository: str, sizes: Mapping[str, int], status: int = 403, code: str | None = "GatedRepo"
) -> Iterator[str]:
    """Serve information about `repository`, whose files have these sizes, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            if path == f"/api/models/{repository}":
                siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
                return self._send(200, {"id": repository, "sha": COMMIT, "siblings": siblings, "gated": "manual"}, None)
            if path.startswith(f"/{repository}/resolve/"):
                return self._send(status, {"error": "Access to this model is restricted."}, code)
            return self._send(404, {"error": "Repository not found"}, "RepoNotFound")

        def _send(self, status: int, content: object, code: str | None) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            if code is not None:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as address:
        yield address
