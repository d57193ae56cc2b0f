"""Base model checks: its architecture without its weights, the attention on token trees, and the layers of the adapter.

The model is built on torch's device `meta`, where tensors have shapes and no values: that of a 7B model takes a second
and no memory. A forward pass of a small forest there shows what the attention of each layer is asked for.

Input: a model folder with its `config.json`. Output: the model on `meta`, findings, the number of trainable parameters.
Does not depend on: weights, tokenizers, prompts.
"""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.config import LoraConfig
from erc_llm.errors import ConfigError, ModelError
from erc_llm.models.wheels import quiet_loading
from erc_llm.planning.findings import Finding

if TYPE_CHECKING:
    from peft import PeftModel

_OTHER = "choose a model with full attention in every layer, such as Llama, Qwen2.5 or Mistral v0.3"


def build_skeleton(folder: Path) -> Any:
    """A base model without its weights, on the device `meta`.

    Raises:
        ModelError: Its configuration is missing or damaged, or of an architecture that transformers does not know.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from erc_llm.trees.attention import ATTENTION

    try:
        with quiet_loading(), warnings.catch_warnings(), redirect_stderr(io.StringIO()), torch.device("meta"):
            warnings.simplefilter("ignore")
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.float32).eval()
    # Architectures raise errors of many kinds for configurations that they cannot use.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder}: not the configuration of a causal language model: {reason}") from error


def check_attention(skeleton: Any) -> list[Finding]:
    """An error if a layer of the model cannot attend over token trees; a note if that could not be found out."""
    kinds = set(getattr(skeleton.config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        found = f"layers of the kinds {', '.join(sorted(kinds))}, which a token tree cannot express"
        return [Finding("error", "model.base", found, _OTHER)]
    import torch

    from erc_llm.trees.attention import forest_logits

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forest_logits(skeleton, _small_forest().to("meta"))
    except ModelError as error:
        return [Finding("error", "model.base", str(error), _OTHER)]
    except Exception as error:  # an operation that `meta` lacks; nothing is known of the model then
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        found = f"whether its attention runs on token trees was not checked: {reason}"
        return [Finding("note", "model.base", found, "training checks it on the loaded model before its first step")]
    return []


def _small_forest() -> Any:
    """A trunk of three tokens with two questions."""
    from erc_llm.trees.forest import pack
    from erc_llm.trees.tree import TreeBuilder

    builder = TreeBuilder()
    after = builder.add_trunk("line", [1, 2, 3])
    for target in range(2):
        builder.add_question(target, after, [("question", [1, 2])], [(0, [3, 1])], 1.0, 0)
    return pack([builder.build()])


def attach_to_skeleton(skeleton: Any, lora: LoraConfig) -> PeftModel:
    """The adapter of a configuration on a model that `build_skeleton` returned, which is changed in place.

    Raises:
        ModelError: The model has no such layers.
        ConfigError: The adapter would be on the output layer.
    """
    import torch

    from erc_llm.models.adapters import attach_lora
    from erc_llm.models.lora_targets import adapted_head

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = attach_lora(
            skeleton,
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            target_modules=lora.target_modules,
            seed=0,
        )
    if (head := adapted_head(adapted)) is not None:
        raise ConfigError(f"lora.target_modules: '{head}' is the output layer, which gets no adapter; leave it out")
    return adapted


def trainable_parameters(adapted: PeftModel) -> int:
    """Number of parameters that training changes."""
    return sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
