"""The layers that may get an adapter: all but the output layer, which TRL refuses.

TRL computes log-probabilities from the output layer's own weights, so that an adapter there would never be trained.

Input: the field `lora.target_modules`, or a model with its adapter. Output: whether the output layer is among them.
Does not depend on: how an adapter is attached.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel

_HEAD = "lm_head"  # what nearly all models call it


def checked_targets(targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The names of layers as they are; those that stand for the output layer are refused, before there is a model.

    Args:
        targets: As PEFT takes them: `all-linear`, a regular expression over whole names, or names and their endings.

    Raises:
        ValueError: They do, or are no regular expression.
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
    """The name of the output layer if it has an adapter, whatever the model calls it; else None."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    head = model.get_output_embeddings()
    if not isinstance(head, BaseTunerLayer):
        return None
    names: list[str] = [name for name, module in model.get_base_model().named_modules() if module is head]
    return names[0]
