"""Autocast: the one rule for the precision in which a model's matrices are multiplied outside of training steps.

Scoring, generation, the check of token trees and the selection scores of a training run all compute inside it, so an
adapter is selected by the same numbers that it predicts with later.

Input: a loaded model. Output: a context manager.
Does not depend on: prompts, adapters, how the model was loaded.
"""

from __future__ import annotations

from typing import Any

import torch


def autocast(model: Any) -> torch.autocast:
    """Multiply in bf16 inside, where that is the model's dtype; everywhere else nothing is cast.

    An adapter that is being trained has fp32 weights on a bf16 base: without autocast its updates would be computed in
    fp32, with other results than those of the saved adapter, which is loaded in bf16.

    Args:
        model: A `PreTrainedModel`, a `PeftModel` around one, or either inside the wrapper of distributed training.
    """
    bare = getattr(model, "module", model)
    return torch.autocast(bare.device.type, torch.bfloat16, enabled=bare.dtype == torch.bfloat16)
