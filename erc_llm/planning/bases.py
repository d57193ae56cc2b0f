"""Bases: finds the `config.json` of a base model without downloading its weights.

It is looked for in this order: a local folder, the hub's cache, the shapes that come with the package, the hub.

Input: the name that a configuration gives. Output: a `Base`, with the place its shape came from.
Does not depend on: torch, transformers, weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from erc_llm.errors import ModelError
from erc_llm.models.cache import cache_dir
from erc_llm.models.loading import HUB_ID
from erc_llm.models.wheels import BASE_MODELS, CONVERSION
from erc_llm.planning.architecture import Architecture, parse_architecture

Origin = Literal["folder", "hub cache", "package", "hub"]


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that is not loaded.

    Attributes:
        name: The name that the configuration gives.
        hub_id: Its hub id; None for a folder.
        architecture: Its shape.
        origin: Where the shape came from.
        tokenizer: Its `tokenizer.json` on this machine; None if there is none.
        downloaded: Whether its weights are on this machine already.
    """

    name: str
    hub_id: str | None
    architecture: Architecture
    origin: Origin
    tokenizer: Path | None
    downloaded: bool


def find_base(name: str) -> Base:
    """The base model of this name.

    Raises:
        ModelError: There is no such model, its `config.json` cannot be had or read, or it cannot be planned.
    """
    folder = _folder(name)
    if folder is not None:
        config = _read(folder / "config.json")
        tokenizer = folder / "tokenizer.json"
        architecture = parse_architecture(config, str(folder / "config.json"))
        return Base(name, None, architecture, "folder", tokenizer if tokenizer.is_file() else None, True)
    wheel = BASE_MODELS.get(name)
    hub_id = wheel.hub_id if wheel else name
    if not HUB_ID.fullmatch(hub_id):
        raise ModelError(f"'{name}': there is no such folder, and it is not a hub id such as meta-llama/Llama-2-7b-hf")
    config, origin = _hub_config(hub_id)
    tokenizer_file = _cached(hub_id, "tokenizer.json")
    complete = any(_cached(hub_id, file) for file in ("model.safetensors", "model.safetensors.index.json"))
    architecture = parse_architecture(config, f"{hub_id}/config.json")
    return Base(name, hub_id, architecture, origin, tokenizer_file, complete)


def _folder(name: str) -> Path | None:
    """The local folder of a model, if the name is one; that of a wheel only if it was converted already.

    Raises:
        ModelError: The folder or file holds no model.
    """
    if name in BASE_MODELS:
        made = sorted((cache_dir() / "models").glob(f"{name}-*-v{CONVERSION}/config.json"))
        return made[-1].parent if made else None
    folder = Path(name).expanduser()
    if folder.is_file() or (folder.is_dir() and not (folder / "config.json").is_file()):
        raise ModelError(f"{folder}: there is no config.json, expected a folder written by save_pretrained")
    return folder if name and folder.is_dir() else None


def _hub_config(hub_id: str) -> tuple[Mapping[str, Any], Origin]:
    cached = _cached(hub_id, "config.json")
    if cached is not None:
        return _read(cached), "hub cache"
    shipped = shipped_shapes().get(hub_id)
    if shipped is not None:
        return shipped, "package"
    return _read(_download(hub_id)), "hub"


def shipped_shapes() -> dict[str, Mapping[str, Any]]:
    """Hub id to the shape that comes with the package, as fields of a `config.json`."""
    content = json.loads(files("erc_llm.planning").joinpath("shapes.json").read_text("utf-8"))
    return {hub_id: model["config"] for model in content["models"] for hub_id in model["ids"]}


def _cached(hub_id: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, file)
    return Path(found) if isinstance(found, str) else None


def _download(hub_id: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(hub_id, "config.json"))
    except GatedRepoError as error:
        reason = "the hub wants its licence accepted: do that on the model's page, then log in with `hf auth login`"
        raise ModelError(f"'{hub_id}': {reason}") from error
    except RepositoryNotFoundError as error:
        reason = f"the hub at {constants.ENDPOINT} has no such model (or it is private: `hf auth login`)"
        raise ModelError(f"'{hub_id}': {reason}") from error
    # The hub client also raises the errors of the HTTP library that it uses.
    except Exception as error:
        raise ModelError(
            f"'{hub_id}': its config.json is not in the hub's cache, and {constants.ENDPOINT} did not give it; run "
            f"`hf download {hub_id} config.json` where there is a network, or give a folder"
        ) from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected the fields of a model configuration, found {type(content).__name__}")
    return content
