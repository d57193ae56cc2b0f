"""Forests of a run: the largest one that training or scoring packs, from the sizes of the scenes.

Input: scene sizes, token budgets, a seed. Output: the `Load` of the largest forest.
Does not depend on: torch; the order of steps is the one that training uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erc_llm.planning.memory import Load
from erc_llm.planning.tree_sizes import SceneSize
from erc_llm.tuning.order import StepOrder


@dataclass(frozen=True, slots=True)
class ForestSizes:
    """The forests whose peaks are planned.

    Attributes:
        training: The largest forest of training.
        scoring: The largest forest of scoring.
    """

    training: Load
    scoring: Load


def load_of(scenes: Sequence[SceneSize]) -> Load:
    """Scenes packed into one forest."""
    return Load(
        tokens=sum(scene.rows for scene in scenes),
        logit_rows=sum(scene.logit_rows for scene in scenes),
        mask=sum(scene.mask for scene in scenes),
    )


def largest_training_forest(scenes: Sequence[SceneSize], order: StepOrder) -> Load:
    """The largest forest of these steps."""
    largest = max(order.batches(), key=lambda batch: sum(scenes[number].rows for number in batch.scenes))
    return load_of([scenes[number] for number in largest.scenes])


def largest_scoring_forest(scenes: Sequence[SceneSize], tokens_per_forest: int) -> Load:
    """A full forest of scoring, as dense in logits and masks as the corpus.

    A tree above the budget is scored in pieces, so no forest exceeds it. The longest scenes are packed first, and have
    the largest masks.
    """
    packed: list[SceneSize] = []
    for scene in sorted(scenes, key=lambda scene: -scene.rows):
        if sum(other.rows for other in packed) + scene.rows <= tokens_per_forest:
            packed.append(scene)
    load = load_of(packed or sorted(scenes, key=lambda scene: scene.rows)[:1])
    if load.tokens <= tokens_per_forest:
        return load
    return load.scaled(tokens_per_forest)
