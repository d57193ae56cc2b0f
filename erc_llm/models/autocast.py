"""Autocast: the precision of matrix products outside of training steps.

Scoring, generation, the check of token trees and the selection scores of a training run all use it, so an adapter is
selected by the same numbers that it predicts with later.

Input: a loaded model. Output: a context manager.
Does not depend on: prompts, adapters, how the model was loaded.
"""

from __future__ import annotations

from typing import Any

import torch

HALF = (torch.bfloat16, torch.float16)


def autocast(model: Any) -> torch.autocast:
    """A context in which matrices are multiplied in the model's dtype if that has 16 bits; else nothing is cast.

    During training an adapter has fp32 weights on a base of 16 bits. Without autocast its updates would be computed in
    fp32, with other results than those of the saved adapter, which is loaded in the dtype of its base.

    Args:
        model: A `PreTrainedModel`, a `PeftModel` around one, or either in the wrapper of distributed training.
    """
    bare = getattr(model, "module", model)
    return autocast_to(bare.device, bare.dtype)


def autocast_to(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which matrices are multiplied in bf16 or fp16; with another dtype nothing is cast."""
    half = dtype in HALF
    return torch.autocast(device.type, dtype if half else torch.bfloat16, enabled=half)
