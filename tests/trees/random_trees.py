"""Token trees of random ids, for tests that need no text."""

from __future__ import annotations

import random

from erc_llm.trees.tree import TokenTree, TreeBuilder

VOCABULARY = 500  # below that of both stand-in tokenizers


def random_tree(seed: int, labels: int = 4, most_trunk: int = 20, most_questions: int = 5) -> TokenTree:
    """A trunk with questions at any of its nodes; of each question's answers some begin alike, one goes on another.

    Args:
        seed: Fixes everything.
        labels: Answers on each question, at least 3; 1 stands for a gold label only.
        most_trunk: Most trunk nodes.
        most_questions: Most questions.
    """
    draw = random.Random(seed)

    def ids(least: int, most: int) -> list[int]:
        return [draw.randrange(VOCABULARY) for _ in range(draw.randint(least, most))]

    builder = TreeBuilder()
    builder.add_trunk("instruction", ids(1, most_trunk // 2))
    builder.add_trunk("line", ids(1, most_trunk // 2))
    trunk = len(builder.build())
    for target in range(draw.randint(1, most_questions)):
        pieces = [("question", ids(1, 4)), ("bridge", ids(1, 2))]
        end = [VOCABULARY + 1]
        words = [[7, 8], [7], *([draw.randrange(10, VOCABULARY), *ids(0, 2)] for _ in range(labels))][:labels]
        order = draw.sample(range(labels), labels)
        answers = [(label, words[label] + end) for label in order]
        builder.add_question(target, draw.randrange(trunk), pieces, answers, weight=draw.choice([0.5, 1.0, 3.0]))
    return builder.build()
