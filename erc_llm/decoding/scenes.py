"""Label scores of whole scenes: trees, forwards, and the second pass that tells questions what the first one answered.

In: a model, a prompter, dialogues. Out: `LabelScores` of every asked target, scene by scene. Knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.decoding.scoring import LabelScores, score_trees
from erc_llm.prompting.examples import Prompter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = Sequence[str | None]


def score_scenes(
    model: PreTrainedModel,
    prompter: Prompter,
    dialogues: Sequence[Dialogue],
    answers: Literal["all", "gold_all"] = "all",
    *,
    passes: Literal[1, 2] = 1,
    tokens_per_forest: int = 4096,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[LabelScores]]:
    """Scores of the targets of every dialogue, in order.

    Args:
        model: A model with token tree attention.
        prompter: Makes the trees.
        dialogues: The scenes.
        answers: Which targets are asked about, see `Prompter.trees`.
        passes: 2: all targets are asked first without, then with what the first pass answered for earlier lines.
        tokens_per_forest: Most tokens of one forward.
        on_progress: Gets how much of the last pass is done, in dialogues.
    """
    states: list[State | None] = [None] * len(dialogues)
    if passes == 2:
        first = _score(model, prompter, dialogues, "all", states, tokens_per_forest, None)
        states = [state_of(d, s, prompter.labels.names) for d, s in zip(dialogues, first, strict=True)]
    return _score(model, prompter, dialogues, answers, states, tokens_per_forest, on_progress)


def state_of(dialogue: Dialogue, scores: Sequence[LabelScores], names: Sequence[str]) -> State:
    """The predicted label of each line; None where it was not asked about."""
    state: list[str | None] = [None] * len(dialogue.utterances)
    for score in scores:
        state[score.target] = names[int(score.log_likelihoods.argmax())]
    return state


def _score(
    model: PreTrainedModel,
    prompter: Prompter,
    dialogues: Sequence[Dialogue],
    answers: Literal["all", "gold_all"],
    states: Sequence[State | None],
    tokens_per_forest: int,
    on_progress: Callable[[int], None] | None,
) -> list[list[LabelScores]]:
    trees = [
        (i, tree)
        for i, (dialogue, state) in enumerate(zip(dialogues, states, strict=True))
        for tree in prompter.trees(dialogue, answers, state=state)
    ]
    done = None if on_progress is None else lambda n: on_progress(n * len(dialogues) // len(trees))
    scored = score_trees(model, [t for _, t in trees], tokens_per_forest=tokens_per_forest, on_progress=done)
    results: list[list[LabelScores]] = [[] for _ in dialogues]
    for (i, _), scores in zip(trees, scored, strict=True):
        results[i] += scores
    return results
