"""The socket of a server, and the server that answers on it until it is told to end.

Input: an ASGI application, a host and a port. Output: none; it runs until SIGINT or SIGTERM.
Does not depend on: models, routes.
"""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from erc_llm.errors import ConfigError
from erc_llm.hosting.guard import LOOPBACK

_CONNECTIONS = 1024  # above it, uvicorn answers 503 at once


def check_door(host: str, key: str | None) -> None:
    """Refuse to be reachable from other machines without a key.

    Raises:
        ConfigError: The address is not this machine's own, and there is no key.
    """
    if key is None and host not in LOOPBACK:
        raise ConfigError(
            f"--host {host}: can be reached from other machines, so clients need a key; set the environment variable "
            "ERC_LLM_API_KEY, or leave --host out"
        )


def open_socket(host: str, port: int) -> socket.socket:
    """A socket with its address, so that a taken port is found before a model is loaded; nobody is answered yet.

    Raises:
        ConfigError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except OSError as error:
        door.close()
        raise ConfigError(f"--host {host} --port {port}: {error.strerror or error}; choose another port") from error
    return door


def answer(app: Any, door: socket.socket, seconds: float) -> None:
    """Answer requests until SIGINT or SIGTERM; then those that are in work have some seconds to end."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=round(seconds),
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[door])
