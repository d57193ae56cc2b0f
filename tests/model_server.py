"""A model server of our own on loopback, which says what a test wants it to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, str]


def said(text: str) -> Reply:
    """An answer from `/chat/completions`."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return 200, json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


def wrote(text: str) -> Reply:
    """The same from `/completions`."""
    choice = {"index": 0, "finish_reason": "stop", "text": text}
    return 200, json.dumps({"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]})


def offered_by(owner: str) -> Reply:
    """A page `/models` of a server that says whose model it is."""
    return 200, json.dumps({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": owner}]})


class Server:
    """A server of our own on loopback; `reply` gets what is posted and its number, `pages` is what a GET finds."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.pages: dict[str, Reply] = {}
        self.looked: list[str] = []
        self.headers: dict[str, str] = {}
        self.reply: Callable[[dict[str, Any], int], Reply] = lambda request, _: said(request["messages"][-1]["content"])
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.looked.append(self.path)
                self._send(*outer.pages.get(self.path, (404, "{}")))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(request)
                    outer.paths.append(self.path)
                    outer.keys.append(self.headers["Authorization"])
                    number = len(outer.requests)
                self._send(*outer.reply(request, number))

            def _send(self, status: int, body: str) -> None:
                kind = "text/html" if body.startswith("<") else "application/json"
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    for header in outer.headers.items():
                        self.send_header(*header)
                    self.send_header("Content-Length", str(len(body.encode())))
                    self.end_headers()
                    self.wfile.write(body.encode())
                except OSError:
                    pass  # the client gave up

            def log_message(self, *_: Any) -> None:
                pass

        self.handler = Handler
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer_raw(self, *head: str, body: str = "") -> None:
        """Answer with these lines of a response's head, whatever is asked; the connection is then cut."""
        outer = self

        def post(handler: BaseHTTPRequestHandler) -> None:
            request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
            outer.requests.append(request)
            handler.wfile.write("\r\n".join((*head, "", body)).encode())
            handler.close_connection = True

        self.handler.do_POST = post  # type: ignore[method-assign,assignment]
