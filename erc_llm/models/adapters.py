"""LoRA adapters: attaches a new one to a model, saves it, and loads it onto its base model.

Input: a base model, and either the shape of an adapter or a folder. Output: a PEFT model, or a folder that PEFT alone
can load too.
Does not depend on: training, runs.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.errors import ModelError

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LORA_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")


def attach_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    target_modules: str | Sequence[str] = "all-linear",
    seed: int,
) -> PeftModel:
    """Freeze a model and attach a new LoRA adapter, which changes nothing until it is trained (B is zero).

    Args:
        model: The base model; it is changed in place.
        rank: Inner dimension of the updates.
        alpha: Scale of the updates: they are multiplied by alpha / rank (Hu et al., 2021).
        dropout: Probability of dropping an input of the adapter in training.
        target_modules: `all-linear` (all but the head), or module names.
        seed: Seed of the random A matrices; torch's global random state does not change.

    Raises:
        ModelError: The model has no such modules.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
    )
    names = [name for name, _ in model.named_modules()]
    gpus = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        try:
            adapted: PeftModel = get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(f"lora.target_modules: {error}") from error
    _shorten_targets(config, names)
    return adapted


def save_adapter(adapted: PeftModel, folder: Path | str, base_model: str | None = None) -> None:
    """Save the adapter's two files; no file is ever half-written.

    A new folder appears with both files at once. In an existing one each file is replaced in one step, the weights
    first.

    Args:
        adapted: The PEFT model; only its adapter is saved.
        folder: Folder of the adapter.
        base_model: Hub id or folder of the base model (`LoadedModel.reference`), for `base_model_name_or_path`; by
            default the folder that the base was loaded from.

    Raises:
        ModelError: The adapter cannot be written.
    """
    from safetensors import SafetensorError

    target = Path(folder)
    draft: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        _write_adapter(adapted, draft, base_model)
        if target.is_dir():
            for name in (WEIGHTS, CONFIG):
                os.replace(draft / name, target / name)
        else:
            draft.chmod(0o755)
            draft.rename(target)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{target}: could not write the adapter: {error}") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def load_adapter(model: PreTrainedModel, folder: Path | str, *, trainable: bool = False) -> PeftModel:
    """Load a saved adapter onto the base model that it was trained on.

    Args:
        model: The base model; it is changed in place.
        folder: A folder with `adapter_config.json` and `adapter_model.safetensors`.
        trainable: Whether the adapter will be trained further.

    Raises:
        ModelError: A file is missing or damaged, or the adapter does not fit; the message names the first tensor that
            does not fit, with its shape and the expected one.
    """
    import torch

    with _without_notices():
        from peft import PeftModel

    source = Path(folder)
    config, shapes = _read_fitting(model, source)
    try:
        with warnings.catch_warnings():
            # PEFT only warns of missing tensors; here they are an error, which is raised below.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            adapted = PeftModel.from_pretrained(
                model, str(source), is_trainable=trainable, torch_device=str(torch.device(model.device))
            )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{source}: does not fit the base model: {error}") from error
    if lacking := sorted(_expected(adapted) - shapes.keys(), key=_natural):
        adapted.unload()
        raise ModelError(_lacks(source, lacking, config))
    if not trainable:
        _cast_to_base(adapted, "default")
    return adapted


@contextmanager
def _without_notices() -> Iterator[None]:
    """Silence bitsandbytes, which PEFT imports and which warns of a missing package that only 4-bit models need."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def start_from(adapted: PeftModel, folder: Path | str) -> None:
    """Give a new adapter the weights of a saved one, to be trained further.

    Args:
        adapted: A model with a new adapter, in fp32.
        folder: Folder of the saved adapter.

    Raises:
        ModelError: A file is missing or damaged, or the saved adapter is of other layers or another kind.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    source, own = Path(folder), adapted.peft_config["default"]
    config, shapes = _read_fitting(adapted.get_base_model(), source)
    alike = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
    if shapes.keys() != _expected(adapted) or any(getattr(config, n, None) != getattr(own, n, None) for n in alike):
        raise ModelError(f"{source}: adapts other layers than this run, or in another way; start from another run")
    set_peft_model_state_dict(adapted, load_file(source / WEIGHTS))


def add_adapter(adapted: PeftModel, folder: Path | str, name: str) -> None:
    """Load a further adapter beside those that a model has; `activate_adapter` switches to it.

    Args:
        adapted: A model with an adapter; it is changed in place.
        folder: Folder of the further adapter.
        name: Its name in the model.

    Raises:
        ModelError: As for `load_adapter`.
    """
    import torch

    source = Path(folder)
    config, shapes = _read_fitting(adapted.get_base_model(), source)
    try:
        adapted.load_adapter(str(source), adapter_name=name, torch_device=str(torch.device(adapted.device)))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{source}: does not fit the base model: {error}") from error
    if lacking := sorted(_expected(adapted, name) - shapes.keys(), key=_natural):
        adapted.delete_adapter(name)
        raise ModelError(_lacks(source, lacking, config))
    _cast_to_base(adapted, name)


def _cast_to_base(adapted: PeftModel, name: str) -> None:
    """Cast an adapter, stored in fp32 and trained under autocast, to its base's 16 bits: no cast at every use."""
    from erc_llm.models.autocast import HALF

    if (dtype := adapted.get_base_model().dtype) in HALF:
        for parameter_name, parameter in adapted.named_parameters():
            if f".{name}." in parameter_name:
                parameter.data = parameter.data.to(dtype)


def activate_adapter(adapted: PeftModel, name: str) -> None:
    """Use one of a model's adapters from now on, and no other."""
    if adapted.active_adapters != [name]:
        adapted.set_adapter(name, inference_mode=True)


def _read_fitting(model: torch.nn.Module, source: Path) -> tuple[PeftConfig, dict[str, tuple[int, ...]]]:
    """Configuration and shapes of an adapter that fits a base model."""
    config, shapes = _read_adapter(source)
    if problem := _misfit(model, shapes):
        raise ModelError(f"{source}: {problem}. It was trained on {config.base_model_name_or_path}; load it on that")
    return config, shapes


def _shorten_targets(config: Any, names: Sequence[str]) -> None:
    """Replace the list of all layers' q_proj by `q_proj`, and so on, if both mean the same modules.

    PEFT lists the modules of `all-linear` one by one; such an adapter would load onto a deeper model without an error.
    """
    short = {target.rpartition(".")[2] for target in config.target_modules}
    if {name for name in names if name.rpartition(".")[2] in short} == set(config.target_modules):
        config.target_modules = short


def _write_adapter(adapted: PeftModel, draft: Path, base_model: str | None) -> None:
    # By default PEFT looks up on the hub whether embeddings were resized; here they never are.
    adapted.save_pretrained(str(draft), save_embedding_layers=False)
    (draft / "README.md").unlink(missing_ok=True)  # an empty model card
    path = draft / CONFIG
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if base_model is not None:
        config["base_model_name_or_path"] = base_model
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # PEFT stores a set, so files of equal adapters would differ
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _read_adapter(folder: Path) -> tuple[PeftConfig, dict[str, tuple[int, ...]]]:
    from peft import PeftConfig
    from safetensors import SafetensorError, safe_open

    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: there is no {name}, expected an adapter folder (a run's adapter/, or PEFT's)")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG}: is not a PEFT configuration: {error}") from error
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as tensors:
            return config, {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS}: is damaged or not a safetensors file: {error}") from error


def _misfit(model: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    modules = dict(model.named_modules())
    for name in sorted(shapes, key=_natural):
        match = LORA_TENSOR.fullmatch(name)
        if match is None:
            continue
        module = modules.get(match["module"])
        if module is None:
            return f"{name} is for a module that the base model does not have"
        found = shapes[name]
        width = getattr(module, "in_features" if match["matrix"] == "A" else "out_features", None)
        expected = (found[0], width) if match["matrix"] == "A" else (width, found[-1])
        if width is not None and found != expected:
            return f"{name} has shape {found}, the base model needs {expected}"
    return None


def _expected(adapted: PeftModel, name: str = "default") -> set[str]:
    from peft import get_peft_model_state_dict

    return set(get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False))


def _lacks(source: Path, lacking: Sequence[str], config: PeftConfig) -> str:
    return (
        f"{source}: has no {lacking[0]} and lacks {len(lacking)} tensors that its base model needs. "
        f"It was trained on {config.base_model_name_or_path}; load it on that"
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
