"""Training trees: what a scene looks like in an epoch, and how many tokens it takes.

Input: training scenes, a prompter, and what each epoch asks. Output: token trees with gold answers, and their sizes.
Does not depend on: models, optimisation, files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erc_llm.config import RunConfig
from erc_llm.corpus import Dialogue
from erc_llm.prompting.prompter import Answers, Prompter, shuffled_labels
from erc_llm.prompting.state import corrupted_state, smoothed
from erc_llm.trees.forest import rows_by_part
from erc_llm.trees.tree import TokenTree
from erc_llm.tuning.sampling import Asked

TreesOf = Callable[[int, int], list[TokenTree]]  # (scene, epoch) -> its trees, which know the gold answers


def training_trees(
    config: RunConfig,
    scenes: Sequence[Dialogue],
    prompter: Prompter,
    confusion: Sequence[Sequence[int]] | None,
    asked: Sequence[Asked] | None = None,
) -> TreesOf:
    """A function from a scene and an epoch, both by number, to the scene's trees.

    Args:
        config: The run.
        scenes: The training scenes.
        prompter: Builds the trees.
        confusion: Counts that corrupt the state in questions, as from `read_confusion`.
        asked: What each epoch asks about each scene, with which weight; by default all labelled targets with 1.
    """
    likely = None if confusion is None else smoothed(confusion)
    answers: Answers = "gold" if config.training.objective == "label" else "gold_all"

    def trees_of(scene: int, epoch: int) -> list[TokenTree]:
        dialogue = scenes[scene]
        order = state = None
        if config.prompt.shuffle_labels:
            order = shuffled_labels(prompter.labels, config.seed, epoch, dialogue.id)
        if likely is not None:
            state = corrupted_state(dialogue, prompter.labels, likely, config.state.dropout, config.seed, epoch)
        weights = None if asked is None else asked[epoch][scene]
        return prompter.trees(dialogue, answers, weights=weights, label_order=order, state=state)

    return trees_of


def scene_sizes(trees_of: TreesOf, asked: Sequence[Asked]) -> list[list[int]]:
    """(epochs, scenes) tokens that a scene takes with what the epoch asks about it; 0 where it asks nothing.

    Measured once, on the first epoch's trees with all their questions: another order of the labels, or another state
    in the questions, moves it by a few tokens at most.
    """
    parts = [[rows_by_part(tree) for tree in trees_of(scene, 0)] for scene in range(len(asked[0]))]
    return [
        [sum(tree.asking(targets) for tree in trees) for trees, targets in zip(parts, epoch, strict=True)]
        for epoch in asked
    ]
