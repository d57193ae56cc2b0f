"""Prints a prompt: its exact text or tokens, the trained tokens highlighted, and the token counts of its parts.

This is the cheapest way to catch a wrong template.

Input: a `Prompter` and a dialogue. Output: text on a rich console.
Does not depend on: models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.errors import CorpusError
from erc_llm.prompting.prompter import Prompter
from erc_llm.trees.tree import Question, TokenTree

if TYPE_CHECKING:
    from erc_llm.corpus.dialogues import Corpus

_STYLES = {
    "instruction": "dim",
    "retrieved": "yellow",
    "profile": "magenta",
    "line": "",
    "question": "cyan",
    "bridge": "dim cyan",
    "answer": "bold black on green",
}


def print_prompt(
    prompter: Prompter,
    corpus: Corpus,
    dialogue_id: str | None,
    utterance: int | None,
    tokens: bool,
    console: Console,
) -> None:
    """Print a scene's tree, or the prompt for one line.

    Args:
        prompter: Builds the prompt.
        corpus: The corpus of the scene.
        dialogue_id: Id of the scene; None: the first scene of the corpus.
        utterance: Number of a line, from 1; only the root path of its question is printed. None: the whole tree.
        tokens: Whether to print every token with its id.
        console: Console for the output.

    Raises:
        CorpusError: There is no such scene or line, or the line is not a target.
    """
    dialogue = _find(corpus, dialogue_id)
    shown = dialogue.targets if utterance is None else [k for k in dialogue.targets if k == utterance - 1]
    labelled = any(dialogue.utterances[k].label is not None for k in shown)
    trees = prompter.trees(dialogue, "gold" if labelled else "none")
    if not trees:
        raise CorpusError(f"dialogue '{dialogue.id}' has no target, so there is no prompt to show; choose another one")
    if utterance is not None:
        trees = [_only(trees, dialogue, utterance - 1)]
    for tree in trees:
        _print_tree(prompter, tree, utterance is not None, tokens, console)
    console.print(_counts(trees, len(dialogue.utterances)))


def _find(corpus: Corpus, dialogue_id: str | None) -> Dialogue:
    if not any(True for _ in corpus.dialogues()):
        raise CorpusError(f"corpus '{corpus.name}' has no dialogue")
    for dialogue in corpus.dialogues():
        if dialogue_id is None or dialogue.id == dialogue_id:
            return dialogue
    near = [d.id for d in corpus.dialogues() if dialogue_id and d.id.startswith(dialogue_id[:7])][:5]
    hint = f"; similar ids: {', '.join(near)}" if near else ""
    raise CorpusError(f"no dialogue '{dialogue_id}' in corpus '{corpus.name}'{hint}")


def _only(trees: Sequence[TokenTree], dialogue: Dialogue, target: int) -> TokenTree:
    for tree in trees:
        for question in tree.questions:
            if question.target == target:
                return _path_tree(tree, question)
    raise CorpusError(
        f"dialogue '{dialogue.id}': line {target + 1} is no target; it has {len(dialogue.utterances)} lines, "
        f"targets are {', '.join(str(k + 1) for k in dialogue.targets)}"
    )


def _path_tree(tree: TokenTree, question: Question) -> TokenTree:
    """The root path of one question, as a tree of its own."""
    from erc_llm.trees.tree import TreeBuilder

    builder, after = TreeBuilder(), -1
    pieces = []
    for span in tree.prompt_of(question):
        ids = tree.token_ids[span.start : span.stop].tolist()
        if span.start < tree.trunk:
            after = builder.add_trunk(span.kind, ids)
        else:
            pieces.append((span.kind, ids))
    answers = [
        (label, tree.token_ids[list(path)].tolist())
        for label, path in zip(question.labels, question.answers, strict=True)
    ]
    builder.add_question(question.target, after, pieces, answers)
    return builder.build()


def _print_tree(prompter: Prompter, tree: TokenTree, path: bool, tokens: bool, console: Console) -> None:
    text = Text()
    attached: dict[int, list[Question]] = {}
    for question in tree.questions:
        attached.setdefault(int(tree.parent[question.start]), []).append(question)
    for span in tree.spans:
        if span.start >= tree.trunk:
            break
        text.append_text(_span(prompter, tree, span.start, span.stop, span.kind, tokens))
        for question in attached.get(span.stop - 1, []):
            if not path:
                text.append("  ├─ ", style="dim")
            for part in tree.spans:
                if question.start <= part.start < question.stop:
                    shown = _span(prompter, tree, part.start, part.stop, part.kind, tokens)
                    text.append_text(shown if path or tokens else _escaped(shown))
            text.append("\n")
    console.print(text, soft_wrap=True)


def _escaped(text: Text) -> Text:
    """Replace line breaks by a visible sign, so that a branch stays on one line."""
    shown = Text()
    for part in text.split("\n", include_separator=True):
        broken = part.plain.endswith("\n")
        if broken:
            part.right_crop(1)
        shown.append_text(part)
        if broken:
            shown.append("⏎", style="dim")
    return shown


def _span(prompter: Prompter, tree: TokenTree, start: int, stop: int, kind: str, tokens: bool) -> Text:
    decode = prompter.frame.encoder.tokenizer.decode
    if not tokens:
        return Text(str(decode(tree.token_ids[start:stop].tolist())), style=_STYLES[kind])
    text = Text()
    for token in tree.token_ids[start:stop].tolist():
        text.append(repr(decode([token]))[1:-1], style=_STYLES[kind])
        text.append(f"·{token} ", style="dim")
    return text.append("\n")


def _counts(trees: Sequence[TokenTree], lines: int) -> Table:
    counts: Counter[str] = Counter()
    for tree in trees:
        for span in tree.spans:
            counts[span.kind] += span.stop - span.start
    table = Table(title="tokens per part (answer: trained)", title_justify="left", box=None)
    questions = sum(len(tree.questions) for tree in trees)
    for kind in _STYLES:
        if counts[kind] or kind != "retrieved":
            table.add_row(kind, str(counts[kind]))
    paths = sum(
        len(tree.root_path(path[-1])) for tree in trees for q in tree.questions for path in q.answers or [()] if path
    )
    table.add_row("tree", str(sum(counts.values())), f"{lines} lines, {questions} questions")
    if paths:
        table.add_row("one prompt per question", str(paths), f"{paths / sum(counts.values()):.1f} times as many")
    return table
