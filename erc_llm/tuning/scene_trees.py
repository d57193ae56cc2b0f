"""Training trees: builds the token trees of a scene in an epoch, and measures their sizes.

Input: training scenes, a prompter, and the targets of each epoch. Output: token trees with gold answers; sizes.
Does not depend on: models, optimisation, files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erc_llm.config import RunConfig
from erc_llm.corpus import Dialogue
from erc_llm.prompting.auxiliary import TASKS, AuxiliaryQuestions
from erc_llm.prompting.prompter import Answers, Prompter, shuffled_labels
from erc_llm.prompting.state import corrupted_state, smoothed
from erc_llm.trees.forest import rows_by_part
from erc_llm.trees.tree import TokenTree
from erc_llm.tuning.sampling import Asked

TreesOf = Callable[[int, int], list[TokenTree]]  # from scene and epoch to the scene's trees with gold answers


def training_trees(
    config: RunConfig,
    scenes: Sequence[Dialogue],
    prompter: Prompter,
    confusion: Sequence[Sequence[int]] | None,
    asked: Sequence[Asked] | None = None,
) -> TreesOf:
    """A function from the numbers of a scene and an epoch to the scene's trees.

    Args:
        config: The configuration of the run.
        scenes: The training scenes.
        prompter: Builds the trees.
        confusion: Counts that corrupt the state in questions, if it is set, from `read_confusion`.
        asked: Targets of each epoch and scene with their weights; by default all labelled targets with weight 1.
    """
    likely = None if confusion is None or config.state.source == "none" else smoothed(confusion)
    closed = config.training.objective == "closed_set"
    answers: Answers = "gold_all" if closed else "gold"
    auxiliary = config.training.auxiliary
    weights_of = {task: getattr(auxiliary, task) for task in TASKS}
    further = AuxiliaryQuestions(prompter, weights_of, auxiliary.fraction, config.seed, closed=closed)

    def trees_of(scene: int, epoch: int) -> list[TokenTree]:
        dialogue = scenes[scene]
        order = state = None
        if config.prompt.shuffle_labels:
            order = shuffled_labels(prompter.labels, config.seed, epoch, dialogue.id)
        if likely is not None:
            state = corrupted_state(dialogue, prompter.labels, likely, config.state.dropout, config.seed, epoch)
        weights = None if asked is None else asked[epoch][scene]
        more = further.of_epoch(dialogue.id, epoch) if further else None
        return prompter.trees(
            dialogue, answers, weights=weights, label_order=order, state=state, further=more, words=auxiliary.words
        )

    return trees_of


def scene_sizes(trees_of: TreesOf, asked: Sequence[Asked]) -> list[list[int]]:
    """Return (epochs, scenes) number of tokens of a scene with the epoch's questions about it; 0 if it has none.

    Sizes are measured on the trees of the first epoch with all questions. In other epochs the order of the labels or
    the state in the questions changes them by a few tokens at most, and which lines have auxiliary questions by more.
    """
    parts = [[rows_by_part(tree) for tree in trees_of(scene, 0)] for scene in range(len(asked[0]))]
    return [
        [sum(tree.asking(targets) for tree in trees) for trees, targets in zip(parts, epoch, strict=True)]
        for epoch in asked
    ]
