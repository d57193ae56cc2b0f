"""Step order: which scenes make up each optimizer step, fixed before the training run starts.

Step k is always the same list of scenes. So a run can be resumed at any step, and any number of processes trains on the
same steps.

Input: scene sizes and a seed. Output: a `StepOrder`, a flat list of forests.
Does not depend on: models, text.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erc_llm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Batch:
    """The scenes of one forest, which is one forward and backward pass.

    Attributes:
        epoch: Number of its pass over the data, from 0.
        scenes: Indices of its scenes.
    """

    epoch: int
    scenes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepOrder:
    """Every optimizer step of a training run.

    Attributes:
        steps: The forests of each step, as many as processes times accumulation.
    """

    steps: tuple[tuple[Batch, ...], ...]

    def batches(self) -> list[Batch]:
        """All forests in the order in which they are distributed over processes."""
        return [batch for step in self.steps for batch in step]

    @property
    def sha256(self) -> str:
        """Hash of the scenes of each step, however they are split into forests."""
        steps = [sorted((batch.epoch, scene) for batch in step for scene in batch.scenes) for step in self.steps]
        return hashlib.sha256(json.dumps(steps).encode()).hexdigest()


def order_steps(
    sizes: Sequence[int] | Sequence[Sequence[int]], *, epochs: float, tokens_per_step: int, parts: int, seed: int
) -> StepOrder:
    """Distribute scenes over optimizer steps.

    Scenes are shuffled again for each epoch; a step takes scenes in that order until the next one would exceed its
    token budget, so that conversations stay whole and steps stay full. A step's scenes do not depend on `parts` unless
    it would have fewer scenes than parts.

    Args:
        sizes: (scenes,) tokens of each scene, or (epochs, scenes) where they differ by epoch; a scene of size 0 has
            nothing to train on in that epoch and is left out.
        epochs: Passes over the scenes; a fraction cuts the last pass.
        tokens_per_step: Token budget of one step; a scene that exceeds it gets its own step. A step has at least
            `parts` scenes even if they exceed it together.
        parts: Forests per step (processes times accumulation); each gets at least one scene.
        seed: Seed of the order.

    Raises:
        ConfigError: An epoch has fewer scenes than parts.
    """
    steps: list[tuple[Batch, ...]] = []
    for epoch, tokens in enumerate(_by_epoch(sizes, epochs)):
        order = [i for i, size in enumerate(tokens) if size > 0]
        if 0 < len(order) < parts:
            raise ConfigError(
                f"training.accumulation: {parts} forests a step (all processes) need as many scenes, not {len(order)}"
            )
        random.Random(f"{seed}/{epoch}").shuffle(order)
        if epochs < epoch + 1:
            order = order[: max(parts, round(len(order) * (epochs - epoch)))]
        steps += [_split(epoch, scenes, tokens, parts) for scenes in _fill(order, tokens, tokens_per_step, parts)]
    return StepOrder(tuple(steps))


def forests_of_process(accumulation: int, processes: int, scenes: int) -> int:
    """Forests of a step that one process computes: `accumulation`, or fewer if there are too few scenes for all.

    Args:
        accumulation: `training.accumulation`.
        processes: Number of processes.
        scenes: The least number of scenes with something to train on in an epoch.
    """
    return max(1, min(accumulation, scenes // processes))


def _by_epoch(sizes: Sequence[int] | Sequence[Sequence[int]], epochs: float) -> list[list[int]]:
    """(epochs, scenes) sizes from either form that `order_steps` accepts."""
    rows = np.asarray(sizes, dtype=np.int64)
    repeated: list[list[int]] = np.broadcast_to(rows, (math.ceil(epochs), rows.shape[-1])).tolist()
    return repeated


def _fill(order: Sequence[int], sizes: Sequence[int], budget: int, least: int) -> list[list[int]]:
    steps: list[list[int]] = [[]]
    used = 0
    for scene in order:
        if used + sizes[scene] > budget and len(steps[-1]) >= least:
            steps.append([])
            used = 0
        steps[-1].append(scene)
        used += sizes[scene]
    if len(steps) > 1 and len(steps[-1]) < least:
        last = steps.pop()
        steps[-1] += last
    return steps


def _split(epoch: int, scenes: Sequence[int], sizes: Sequence[int], parts: int) -> tuple[Batch, ...]:
    """Split a step's scenes into forests of about equal size: largest first, each to the emptiest forest."""
    forests: list[list[int]] = [[] for _ in range(parts)]
    for scene in sorted(scenes, key=lambda s: (-sizes[s], s)):
        min(forests, key=lambda f: sum(sizes[s] for s in f)).append(scene)
    return tuple(Batch(epoch, tuple(forest)) for forest in forests)
