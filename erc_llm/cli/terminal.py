"""Shows predictions in a terminal: a coloured scene, or a conversation that is labelled while it is typed.

Input: labelled utterances, or typed lines `Name: text` and a predictor. Output: text on a rich console.
Does not depend on: how models are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from erc_llm.predictor import LabelledUtterance, Predictor

# EmoryNLP's labels in the colours of Willcox's feeling wheel; other labels take the rest in order.
_COLOURS = {
    "Joyful": "yellow",
    "Mad": "red",
    "Neutral": "white",
    "Peaceful": "green",
    "Powerful": "magenta",
    "Sad": "blue",
    "Scared": "cyan",
}
_OTHERS = ("bright_yellow", "bright_red", "bright_green", "bright_magenta", "bright_blue", "bright_cyan")


def colour(label: str, labels: Sequence[str]) -> str:
    """The colour of a label."""
    return _COLOURS.get(label) or _OTHERS[labels.index(label) % len(_OTHERS)]


def print_scene(
    lines: Sequence[LabelledUtterance], console: Console, decided: Sequence[str | None] | None = None
) -> None:
    """Print one scene: predicted label with its probability, speaker, text, and the gold label if it differs.

    Args:
        lines: The labelled lines.
        console: Where to print.
        decided: Labels of the same lines by another decision rule, printed where they differ.
    """
    for line, other in zip(lines, decided or [None] * len(lines), strict=True):
        labels = list(line.probabilities)
        style = colour(line.label, labels)
        text = Text()
        text.append(f"{line.label:>9} {line.probabilities[line.label]:4.0%} ", style=f"bold {style}")
        text.append(f"{line.speaker}: ", style="bold")
        text.append(line.utterance.text, style=style)
        gold = line.utterance.label
        if gold is not None:
            text.append("  ✓" if gold == line.label else f"  (gold: {gold})", style="dim")
        if other is not None and other != line.label:
            text.append(f"  decided: {other}" + (" ✓" if other == gold else ""), style=colour(other, labels))
        console.print(text, soft_wrap=False)


def talk(predictor: Predictor, source: Iterable[str], console: Console) -> None:
    """Label typed lines `Name: text` as they arrive; an empty line starts a new conversation."""
    console.print("Type lines as `Name: text`; an empty line starts a new conversation, the end of input quits.")
    session = predictor.live()
    for typed in source:
        if not typed.strip():
            session = predictor.live()
            console.print("[dim]new conversation[/]")
            continue
        name, colon, text = typed.partition(":")
        if not colon or not name.strip() or not text.strip():
            console.print("expected `Name: text`, such as `Ada: You came back!`", style="red")
            continue
        line = session.say(name.strip(), text.strip())
        shown = sorted(line.probabilities.items(), key=lambda item: -item[1])[:3]
        answer = Text("  ")
        if line.label != shown[0][0]:  # a decision rule may choose another label than the most probable one
            answer.append(f"{line.label}, from ", style=f"bold {colour(line.label, list(line.probabilities))}")
        for label, probability in shown:
            answer.append(f"{label} {probability:.0%}  ", style=colour(label, list(line.probabilities)))
        console.print(answer)
