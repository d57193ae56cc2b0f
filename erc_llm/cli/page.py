"""Drawing on a console: styled sentences, tables, bars and intervals, with control characters of file content removed.

Input: text and numbers. Output: rich renderables, plain ASCII without colour where the console is no UTF terminal.
Does not depend on: what is shown.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from erc_llm.metrics import Estimate


def printable(words: str, console: Console) -> str:
    """Text of a file without control characters, and with only characters of the console's encoding."""
    shown = "".join(c if c.isprintable() else " " for c in words)
    return shown.encode(console.encoding, "replace").decode(console.encoding)


class Page:
    """A console: colour and block characters in a terminal, plain ASCII anywhere else."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rich = console.is_terminal and console.encoding.lower().startswith("utf")
        self.colour = self.rich and console.color_system is not None

    def say(self, sentence: str, style: str = "") -> None:
        """Print a sentence, wrapped."""
        self.console.print(self.text(sentence, style), soft_wrap=False)

    def table(self, table: Table) -> None:
        """Print a table after an empty line; one that is wider than the terminal is not cropped."""
        self.console.print()
        self.console.print(table, crop=False)

    def text(self, words: str, style: str = "") -> Text:
        """Printable text with a style; never read as markup."""
        return Text(printable(words, self.console), style=style)

    def bar(self, share: float, width: int, style: str) -> Text:
        """A bar that fills `share` of `width`; in steps of an eighth of a column where blocks can be shown."""
        if not self.rich:
            return Text("#" * round(share * width))
        eighths = round(share * width * 8)
        return Text("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip(), style=style)

    def range(self, estimate: Estimate, width: int) -> Text:
        """A scale from 0 to 1 with the interval and its value."""
        end, line, dot, empty = ("╾╼", "━", "●", "·") if self.rich else ("[]", "-", "o", ".")
        cells = [empty] * width
        low = estimate.value if estimate.low is None else estimate.low
        high = estimate.value if estimate.high is None else estimate.high
        first, last, at = (min(width - 1, int(v * width)) for v in (low, high, estimate.value))
        cells[first : last + 1] = [line] * (last - first + 1)
        cells[first], cells[last] = end[0], end[1]
        cells[at] = dot
        drawn = Text("".join(cells), style="dim")
        drawn.stylize("not dim cyan", first, last + 1)
        return drawn

    def cell(self, count: int, share: float, width: int, right: bool) -> Text:
        """A count on blue for right answers, on orange for wrong ones, the stronger the larger its share of the row."""
        if not count:
            return Text(("·" if self.rich else ".").rjust(width), style="dim")
        words = f"{count:,}".rjust(width)
        if not self.colour:
            return Text(words)
        dark, light = (22, 30, 46), ((36, 113, 214) if right else (196, 92, 16))
        strength = min(1.0, share) ** 0.5
        red, green, blue = (round(a + (b - a) * strength) for a, b in zip(dark, light, strict=True))
        return Text(words, style=f"white on rgb({red},{green},{blue})")
