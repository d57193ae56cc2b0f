"""Weight averaging: the mean of an adapter's weights over the last optimizer steps of a training run.

After the last step the adapter gets the mean. So the evaluation behind that step scores the mean, and a run without
evaluations keeps it. The factors A and B are averaged each; within one trajectory they are close, and the product of
the means is close to the mean of the products (`erc_llm.recipes.average` averages the products of separate runs).

Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018; they average along a
constant or cyclical learning rate, here it is the run's own schedule.

Input: training events, checkpoints. Output: the mean in the model; `average.safetensors` in checkpoints.
Does not depend on: losses, prompts, scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import get_swa_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from erc_llm.errors import RunError
from erc_llm.tuning.checkpoints import checkpoint_step

AVERAGE = "average.safetensors"


class AdapterAverage(TrainerCallback):
    """Averages the trainable weights over the last steps, and gives the model the mean after the last one.

    Each process averages its own weights, which are the same in all. Of the base model nothing is copied.

    Args:
        fraction: Fraction of the steps that are averaged, above 0; at least the last one is.
        steps: Optimizer steps of the training run.
    """

    def __init__(self, fraction: float, steps: int) -> None:
        self._before = steps - max(1, round(fraction * steps))
        self._steps = steps
        self._mean: dict[str, torch.Tensor] = {}
        self._update = get_swa_multi_avg_fn()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Take the step's weights into the mean; after the last step, the mean into the model."""
        averaged = state.global_step - self._before - 1  # number of steps in the mean
        if averaged < 0:
            return
        weights = _trainable(model)
        if averaged:
            self._update([self._mean[name] for name in weights], list(weights.values()), averaged)
        else:
            self._mean = {name: weight.clone() for name, weight in weights.items()}
        if state.global_step == self._steps:
            for name, weight in weights.items():
                weight.copy_(self._mean[name])

    def save(self, checkpoint: Path) -> None:
        """Store the mean so far, if there is one, in a checkpoint that is about to be written."""
        if self._mean:
            checkpoint.mkdir(parents=True, exist_ok=True)
            save_file(self._mean, checkpoint / AVERAGE)

    def restore(self, checkpoint: Path, model: torch.nn.Module) -> None:
        """Take up the mean of a checkpoint, in which there is one if steps before it are averaged.

        Raises:
            RunError: The file is missing, damaged, or of another adapter.
        """
        step = checkpoint_step(checkpoint)
        if step is None or step <= self._before:
            return
        path, weights = checkpoint / AVERAGE, _trainable(model)
        try:
            mean = load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path}: cannot be read: {error}; remove this checkpoint and add --resume") from error
        if {name: tensor.shape for name, tensor in mean.items()} != {n: w.shape for n, w in weights.items()}:
            raise RunError(f"{path}: is of another adapter; remove this checkpoint and add --resume")
        self._mean = {name: mean[name].to(weight.device) for name, weight in weights.items()}


def _trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Trainable weights by name, detached, in the order of the model."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
