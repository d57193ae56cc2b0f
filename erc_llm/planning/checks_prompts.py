"""Prompt checks: lengths against budgets, the trained tokens of a few targets, and the end of an answer.

Input: a prompter, training scenes and their trees, facts about the base model. Output: findings, and `TrainedPrompt`s.
Does not depend on: loaded models, weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from erc_llm.corpus import Dialogue
from erc_llm.planning.findings import Finding, TrainedPrompt
from erc_llm.prompting.prompter import Prompter
from erc_llm.trees.tree import Question, TokenTree

_SHOWN = 60  # characters of a prompt before its answer
_CHAT_NAME = re.compile(r"chat|instruct|-it\b", re.IGNORECASE)

Trees = Sequence[tuple[Dialogue, Sequence[TokenTree]]]  # training scenes with their trees


def check_lengths(trees: Trees, prompter: Prompter, tokens_per_step: int, positions: int | None) -> Iterator[Finding]:
    """Findings about the lengths of the training prompts.

    Args:
        trees: Scenes with their trees.
        prompter: The prompter that built them.
        tokens_per_step: `training.tokens_per_step`.
        positions: `max_position_embeddings` of the model; None if it states none.
    """
    from erc_llm.trees.forest import rows_of

    longest = max(int(tree.depth.max()) + 1 for _, parts in trees for tree in parts)
    limit = "" if positions is None else f" of the model's {positions:,} positions"
    yield Finding("note", "prompts", f"the longest training prompt has {longest:,} tokens{limit}")
    sizes = [sum(map(rows_of, parts)) for _, parts in trees]
    if over := sum(size > tokens_per_step for size in sizes):
        found = f"scenes with more tokens than this budget of {tokens_per_step:,}: {over} of {len(sizes)}, the largest "
        found += f"{max(sizes):,}; each of them is a step of its own"
        remedy = f"plan memory for {max(sizes):,} tokens; a lower prompt.trunk_budget cuts long scenes into windows"
        yield Finding("note", "training.tokens_per_step", found, remedy)
    yield from _shortened([dialogue for dialogue, _ in trees], [parts for _, parts in trees], prompter)


def _shortened(
    scenes: Sequence[Dialogue], trees: Sequence[Sequence[TokenTree]], prompter: Prompter
) -> Iterator[Finding]:
    budget, most = prompter.options.trunk_budget, prompter.longest_line
    if windows := sum(len(parts) > 1 for parts in trees):
        found = f"scenes of more than {budget:,} tokens, which become overlapping windows: {windows} of {len(scenes)}"
        yield Finding("note", "prompt.trunk_budget", found, "raise prompt.trunk_budget to show more context")
    # A tokenizer makes at most one token per UTF-8 byte, so short lines need no look.
    texts = (u.text for scene in scenes for u in scene.utterances if len(u.text.encode()) > most // 2)
    encoder = prompter.frame.encoder
    if cut := sum(len(encoder.data(encoder.harmless(text))) >= most for text in texts):
        found = f"lines of {most:,} tokens or more, half of the budget, which are cut there: {cut}"
        yield Finding("warning", "prompt.trunk_budget", found, "raise prompt.trunk_budget, or split these lines")


def check_vocabulary(trees: Trees, prompter: Prompter, vocabulary: int) -> Iterator[Finding]:
    """Errors for token ids beyond the model's embeddings, and for labels that the tokenizer cannot write.

    Args:
        trees: Scenes with their trees.
        prompter: The prompter that built them.
        vocabulary: Number of rows of the model's embeddings.
    """
    tokenizer = prompter.frame.encoder.tokenizer
    largest = max(int(tree.token_ids.max()) for _, parts in trees for tree in parts)
    if largest >= vocabulary:
        found = f"token {largest} ({tokenizer.decode([largest])!r}) is beyond the model's {vocabulary:,} embeddings"
        yield Finding(
            "error", "model.base", found, "use the tokenizer that belongs to the model, as its folder has it on the hub"
        )
    unknown = getattr(tokenizer, "unk_token_id", None)
    unwritable = [name for name, ids in zip(prompter.labels.names, prompter.answer_ids, strict=True) if unknown in ids]
    if unwritable:
        found = f"the tokenizer has no tokens for {', '.join(unwritable)}"
        yield Finding("error", "corpus.labels", found, "choose label names, or prompt answers, of ordinary letters")


def trained_prompts(trees: Trees, prompter: Prompter, most: int = 3) -> tuple[TrainedPrompt, ...]:
    """The trained tokens of the first targets of different labels, and of further ones if there are too few labels."""
    everything = [
        (dialogue, tree, question)
        for dialogue, parts in trees
        for tree in parts
        for question in tree.questions
        if question.task == "label"
    ]
    first: dict[int | None, tuple[Dialogue, TokenTree, Question]] = {}
    for found in everything:
        first.setdefault(found[2].gold, found)
    others = [found for found in everything if first[found[2].gold] is not found]
    return tuple(_trained(*found, prompter) for found in [*first.values(), *others][:most])


def _trained(dialogue: Dialogue, tree: TokenTree, question: Question, prompter: Prompter) -> TrainedPrompt:
    """The trained tokens of one question, read from the forest from which the loss is computed."""
    from erc_llm.trees.forest import pack

    forest = pack([tree])
    number = tree.questions.index(question)
    edges = forest.pair_edge[forest.pair_answer == forest.gold[number]]
    ids = forest.edge_token[edges].tolist()
    encoder = prompter.frame.encoder
    path = tree.token_ids[tree.root_path(question.last)].tolist()
    # Decoded behind the prompt: some tokenizers drop a space at the beginning of a text.
    texts = [encoder.text([*path, *ids[:count]]) for count in range(len(ids) + 1)]
    tokens = [after[len(before) :] or repr(ids[i]) for i, (before, after) in enumerate(pairwise(texts))]
    end = list(encoder.markup(prompter.frame.end))
    return TrainedPrompt(dialogue.id, question.target + 1, texts[0][-_SHOWN:], tuple(tokens), ids[-len(end) :] == end)


def check_ends(prompts: Sequence[TrainedPrompt], end: str) -> Iterator[Finding]:
    """An error if the tokens that end an answer are not trained."""
    if without := [prompt for prompt in prompts if not prompt.ends]:
        found = f"the end of an answer, {end!r}, is not among the trained tokens of {len(without)} of {len(prompts)}"
        remedy = "end the block `answer` before the block `end` of prompt.template, or use `instruct` or `plain`"
        yield Finding("error", "prompt.template", found, remedy)


def check_chat_end(prompter: Prompter, model: str, folder: Path) -> Iterator[Finding]:
    """A warning if a chat template is put around the prompts of a base model that never learned its end of turn.

    This is a heuristic: the name tells a base model, and the stop tokens in its files tell what it has learned.

    Args:
        prompter: The prompter.
        model: Name of the model: a hub id, or a folder.
        folder: Folder with its `config.json`, and perhaps `generation_config.json`.
    """
    name = Path(model).name  # of a folder, or of a hub id without its owner
    if not prompter.template.chat or _CHAT_NAME.search(name):
        return
    encoder = prompter.frame.encoder
    last = encoder.markup(prompter.frame.end)[-1]
    stops = stop_tokens(folder)
    if not stops or last in stops:
        return
    decode = encoder.tokenizer.decode
    yield Finding(
        "warning",
        "prompt.template",
        f"'{name}' looks like a base model (its name has no chat, instruct or -it), and the chat template ends an "
        f"answer with {decode([last])!r}, while the model's files stop at "
        f"{', '.join(repr(decode([stop])) for stop in sorted(stops))}: that token was probably never trained, so "
        "generated text may not stop. This is a guess from names and files",
        "set prompt.template=plain, or use the model's chat version",
    )


def stop_tokens(folder: Path) -> set[int]:
    """Ids of the tokens at which a model stops, by its `generation_config.json` or else `config.json`."""
    for name in ("generation_config.json", "config.json"):
        try:
            found: Any = json.loads((folder / name).read_text("utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        if found is not None:
            return set(found) if isinstance(found, list) else {found}
    return set()
