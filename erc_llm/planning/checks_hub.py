"""Hub checks: whether a base model's weights are in the cache whole, or can be downloaded.

Gated weights show themselves on the request for a file: information about a gated model is public, its files are not.

Input: a hub id, or a model folder. Output: findings, and whether the small files of the model can be had.
Does not depend on: what is done with the weights; none are downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erc_llm.planning.disk_space import check_space, check_writable, size_text
from erc_llm.planning.findings import Finding

TIMEOUT = 5.0  # seconds to wait for each of the hub's answers
_FIELD = "model.base"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class HubState:
    """What is known of a model on the hub.

    Attributes:
        findings: The findings.
        available: Whether its configuration and tokenizer are in the cache or can be downloaded.
    """

    findings: tuple[Finding, ...]
    available: bool


def missing_shards(folder: Path) -> list[str]:
    """Weight files that a model folder's index names and that are not there."""
    try:
        named: Mapping[str, str] = json.loads((folder / _INDEX).read_text("utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return sorted(name for name in set(named.values()) if not (folder / name).is_file())


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_shards(folder: Path, remedy: str) -> Iterator[Finding]:
    """An error if shards of a model folder are missing."""
    if missing := missing_shards(folder):
        found = f"{folder}: shards that {_INDEX} names are missing: {_listed(missing)}"
        yield Finding("error", _FIELD, found, remedy)


def whole_in_cache(hub_id: str) -> bool:
    """Whether a model's weights are in the hub's cache, with every shard."""
    cached = _cached_snapshot(hub_id)
    return cached is not None and any(cached.glob("model*.safetensors")) and not missing_shards(cached)


def check_hub(hub_id: str) -> HubState:
    """Findings about a model of the hub: cached, half downloaded, gated, unknown, or out of reach."""
    from huggingface_hub import constants

    if whole_in_cache(hub_id):
        return HubState((), True)
    cached = _cached_snapshot(hub_id)
    again = f"`hf download {hub_id}` continues the download"
    findings = tuple(_half_downloaded(hub_id, cached, again))
    small = cached is not None and all((cached / name).is_file() for name in ("config.json", "tokenizer_config.json"))
    if constants.is_offline_mode():
        offline = _not_cached(hub_id, "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
        return HubState((*findings, offline), small)
    online = _ask_hub(hub_id)
    return HubState((*findings, *online.findings), online.available or small)


def _in_cache(hub_id: str) -> Path:
    """The model's folder in the hub's cache ("Understand caching" in the documentation of huggingface_hub)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"


def _cached_snapshot(hub_id: str) -> Path | None:
    """The folder of the model's main revision in the hub's cache, with whatever files it has; None without one."""
    folder = _in_cache(hub_id)
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    return snapshot if snapshot.is_dir() else None


def _half_downloaded(hub_id: str, cached: Path | None, again: str) -> Iterator[Finding]:
    """A warning for shards that are missing from the cache, and for parts of files that a download left."""
    missing, blobs = [] if cached is None else missing_shards(cached), _in_cache(hub_id) / "blobs"
    parts = sorted(blobs.glob("*.incomplete"))
    if not missing and not parts:
        return
    found = f"{blobs.parent}: a download is incomplete"
    if missing:
        found += f"; missing shards: {_listed(missing)}"
    if parts:
        found += f"; files that end in .incomplete: {len(parts)} ({size_text(sum(p.stat().st_size for p in parts))})"
    yield Finding("warning", _FIELD, found, f"{again}; training does too, if it reaches the hub")


def _not_cached(hub_id: str, why: str, remedy: str) -> Finding:
    from huggingface_hub import constants

    return Finding(
        "error",
        _FIELD,
        f"not in the cache ({constants.HF_HUB_CACHE}) whole, and not to be had now: {why}",
        f"{remedy}, or run `hf download {hub_id}` where there is a network, or set model.base=FOLDER",
    )


def _ask_hub(hub_id: str) -> HubState:
    """What the hub answers: access, formats of the weights, and room for them in the cache."""
    from huggingface_hub import HfApi, constants, get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    url = f"{constants.ENDPOINT}/{hub_id}/resolve/main/config.json"
    findings: list[Finding] = []
    try:
        info = HfApi(endpoint=constants.ENDPOINT).model_info(hub_id, files_metadata=True, timeout=TIMEOUT)
        findings += _check_files({file.rfilename: file.size or 0 for file in info.siblings or ()}, hub_id)
        get_hf_file_metadata(url, timeout=TIMEOUT, endpoint=constants.ENDPOINT)
        return HubState(tuple(findings), True)
    except HfHubHTTPError as error:
        findings.append(_refused(hub_id, error))
    # The client also raises the errors of the HTTP library that it uses, for names that do not resolve and the like.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        findings.append(
            _not_cached(hub_id, f"{constants.ENDPOINT} did not answer: {reason}", "check the network or a proxy")
        )
    return HubState(tuple(findings), False)


def _refused(hub_id: str, error: Any) -> Finding:
    """The error for a model that the hub does not give."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    page, status = f"{constants.ENDPOINT}/{hub_id}", getattr(error.response, "status_code", None)
    if isinstance(error, GatedRepoError):
        return Finding(
            "error",
            _FIELD,
            f"'{hub_id}' is gated: the hub refuses its files ({status})",
            f"accept its licence on {page}, wait until access is granted, then `hf auth login` with a token of that "
            "account (or set HF_TOKEN); or set model.base=FOLDER",
        )
    if isinstance(error, EntryNotFoundError):
        return Finding("error", _FIELD, f"'{hub_id}' has no config.json", "name a model for transformers")
    if isinstance(error, RepositoryNotFoundError):
        found = f"the hub at {constants.ENDPOINT} has no model '{hub_id}', or it is private"
        return Finding("error", _FIELD, found, "correct the name; `hf auth login` if it is private")
    if status in (401, 403):
        found = f"the hub refuses this account's token for '{hub_id}' ({status})"
        return Finding("error", _FIELD, found, "`hf auth login` with a valid token, or unset HF_TOKEN")
    return _not_cached(hub_id, f"{constants.ENDPOINT} answered {status}", "try again later")


def _check_files(sizes: Mapping[str, int], hub_id: str) -> Iterator[Finding]:
    """Findings about the repository's weights, by file name and bytes."""
    from huggingface_hub import constants

    weights = {name: size for name, size in sizes.items() if name.startswith("model") and name.endswith(".safetensors")}
    if not weights:
        found = f"'{hub_id}' has no model*.safetensors; a pickle (.bin) can run code and is never read"
        yield Finding("error", _FIELD, found, "choose a model that comes as safetensors, or convert it to a folder")
        return
    blobs = _in_cache(hub_id) / "blobs"
    there = sum(path.stat().st_size for path in blobs.glob("*")) if blobs.is_dir() else 0
    needed = max(sum(weights.values()) - there, 0)
    cache, what = Path(constants.HF_HUB_CACHE), f"the download of '{hub_id}'"
    if refused := check_writable(cache, "HF_HOME", "set HF_HOME to a folder that you may write"):
        yield refused
    if short := check_space(cache, needed, what, "HF_HOME", "make room there, or set HF_HOME to another disk"):
        yield short
    yield Finding("note", _FIELD, f"{size_text(needed)} of weights of '{hub_id}' will be downloaded")
