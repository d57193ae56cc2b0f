"""Autocast: the precision of matrix products outside of training steps.

Scoring, generation, the check of token trees and the selection scores of a training run all use it, so an adapter is
selected by the same numbers that it predicts with later.

Input: a loaded model. Output: a context manager.
Does not depend on: prompts, adapters, how the model was loaded.
"""

from __future__ import annotations

from typing import Any

import torch


def autocast(model: Any) -> torch.autocast:
    """A context in which matrices are multiplied in bf16 if that is the model's dtype; else nothing is cast.

    During training an adapter has fp32 weights on a bf16 base. Without autocast its updates would be computed in fp32,
    with other results than those of the saved adapter, which is loaded in bf16.

    Args:
        model: A `PreTrainedModel`, a `PeftModel` around one, or either in the wrapper of distributed training.
    """
    bare = getattr(model, "module", model)
    return torch.autocast(bare.device.type, torch.bfloat16, enabled=bare.dtype == torch.bfloat16)
