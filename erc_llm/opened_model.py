"""The model of a run, an export or a configuration: its base model, with its adapter on it or in it.

Input: an `Opened`. Output: a `LoadedModel`; or an adapter more on the model of another run.
Does not depend on: prompts, corpora, answers.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from erc_llm.build import build_merged_model, build_model
from erc_llm.config import RunConfig
from erc_llm.errors import ConfigError, ModelError
from erc_llm.models.adapters import add_adapter, load_adapter
from erc_llm.models.loading import LoadedModel
from erc_llm.runs.directory import Run
from erc_llm.runs.exported import check_weights
from erc_llm.runs.opened import Opened


def load_model(opened: Opened) -> LoadedModel:
    """The model that a run, an export or a configuration names, with its adapter on it or in it.

    Raises:
        RunError: The weights of an export are not those that were verified.
        ModelError: The base model is missing, or is not the one that the adapter was trained on.
    """
    run, export = opened.run, opened.export
    _check_export(opened)
    if run is not None and export is not None and export.form in ("merged", "gguf"):
        gguf = next(iter(export.weights)) if export.form == "gguf" else None
        return build_merged_model(opened.config, run.folder, gguf)
    loaded = build_model(opened.config)
    if run is None:
        return loaded
    check_base_model(run, opened.config, loaded)
    if export is None or export.form == "peft":
        return replace(loaded, model=load_adapter(loaded.model, run.adapter))
    from erc_llm.export.gguf_lora import read_gguf_lora

    with tempfile.TemporaryDirectory() as folder:
        read_gguf_lora(run.folder / next(iter(export.weights)), loaded.path, Path(folder))
        return replace(loaded, model=load_adapter(loaded.model, folder))


def share_model(first: Opened, loaded: LoadedModel, opened: Opened) -> str:
    """Load another adapter onto the base model of a run; returns its name there, for `activate_adapter`.

    Args:
        first: The run or export whose model it is.
        loaded: That model; it is changed in place.
        opened: The run or export whose adapter is added.

    Raises:
        ConfigError: One of them is no adapter, or they use their base models differently.
        RunError: The weights of an export are not those that were verified.
        ModelError: The adapter was trained on another base model.
    """
    run, model, shared = opened.run, opened.config.model, first.config.model
    forms = {None if each is None else each.form for each in (first.export, opened.export)}
    if run is None or first.run is None or not forms <= {None, "peft"}:
        raise ConfigError("beside: only adapters (run directories, or exports as peft) can share a base model")
    for field in ("quantisation", "precision", "device"):
        one, other = getattr(model, field), getattr(shared, field)
        if one != other:
            raise ConfigError(
                f"beside: {run.folder} has model.{field}={one}, {first.run.folder} {other}; load it by itself"
            )
    _check_export(opened)
    check_base_model(run, first.config, loaded)
    name = f"adapter-{len(loaded.model.peft_config)}"
    add_adapter(loaded.model, run.adapter, name)
    return name


def _check_export(opened: Opened) -> None:
    if opened.run is not None and opened.export is not None:
        check_weights(opened.run.folder, opened.export)


def check_base_model(run: Run, config: RunConfig, loaded: LoadedModel) -> None:
    """Refuse a base model other than the one that the run's adapter was trained on.

    Raises:
        ModelError: Their weights have different hashes.
    """
    expected = run.manifest.base_model_sha256
    if loaded.weights_sha256 != expected:
        raise ModelError(
            f"{run.folder}: its adapter was trained on a base model with hash {expected[:12]}, "
            f"'{config.model.base}' here has {loaded.weights_sha256[:12]}; name the right one with model.base="
        )
