"""Adapters on stand-in models whose updates are large enough to show in every probability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from tests.tiny_models import TinyModel

IDS = tuple(range(5, 45))


def adapted(tiny: TinyModel, folder: Path, /, **config: Any) -> Any:
    """A PEFT model with random A and B, saved to `folder`."""
    options: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    model = get_peft_model(tiny.fresh_model(), LoraConfig(**options | config))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    model.save_pretrained(folder, save_embedding_layers=False)
    return model.eval()


def logits(model: Any, ids: tuple[int, ...] = IDS) -> torch.Tensor:
    """(tokens, vocabulary) of one row of ids."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].float()
