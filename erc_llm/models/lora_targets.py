"""LoRA targets: refuses an adapter on the output layer.

TRL refuses it too: it computes log-probabilities from the weights of the output layer itself, so an adapter there would
never be trained.

Input: the field `lora.target_modules`, or a model with its adapter. Output: the checked field, or the layer's name.
Does not depend on: how an adapter is attached.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel

_HEAD = "lm_head"  # the name in nearly all models


def checked_targets(targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return the targets unchanged; refuse the output layer before a model is loaded.

    Args:
        targets: Targets as PEFT takes them: `all-linear`, a regular expression over whole names, or names and their
            endings.

    Raises:
        ValueError: The targets include the output layer, or are not a regular expression.
    """
    if isinstance(targets, str):
        try:
            found = targets != "all-linear" and re.fullmatch(targets, _HEAD) is not None
        except re.error as error:
            raise ValueError(f"'{targets}' is not a regular expression: {error}") from error
    else:
        found = any(name.rpartition(".")[2] == _HEAD for name in targets)
    if found:
        raise ValueError(f"{_HEAD}, the output layer, gets no adapter; leave it out")
    return targets


def adapted_head(model: PeftModel) -> str | None:
    """The name of the model's output layer if it has an adapter; else None."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    head = model.get_output_embeddings()
    if not isinstance(head, BaseTunerLayer):
        return None
    names: list[str] = [name for name, module in model.get_base_model().named_modules() if module is head]
    return names[0]
