"""Shows a plan: a table of memory by component with bars, tokens, time by card, and whether it fits.

Input: a `PlannedRun`. Output: text on a rich console, or a dictionary for JSON.
Does not depend on: how a plan is computed.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from erc_llm.planning.cards import GIB
from erc_llm.planning.disk_space import size_text
from erc_llm.planning.memory import Peak
from erc_llm.planning.plan import MARGIN
from erc_llm.recipes.plan import CardTime, PlannedRun

_BAR = 40  # characters of the largest component
# The cards whose time is shown if none was asked for; JSON has all of them.
_SHOWN = ("T4", "RTX 3060 12GB", "RTX 4060 Ti 16GB", "RTX 3090", "RTX 4090", "A100 80GB", "H100 80GB")


def print_plan(planned: PlannedRun, console: Console) -> None:
    """Print the plan, its notes and the verdict."""
    plan, base = planned.plan, planned.base
    setup = plan.setup
    architecture = setup.architecture
    console.print(
        f"{base.name}: {architecture.parameters:,} parameters, {setup.adapter.parameters:,} trainable "
        f"(LoRA, rank {setup.adapter.rank}); shape from the {base.origin}",
        highlight=False,
    )
    console.print("Computed, not measured: no weights were loaded.", style="dim")
    print_peak(planned, plan.peaks.training, console)
    print_other_peaks(planned, console)
    print_epoch(planned, console)
    print_times(planned, console)
    here = "is on this machine" if base.downloaded else f"to download {size_text(plan.download)}"
    console.print(f"Disk: base model {here}; run directory at most {size_text(plan.disk)}", highlight=False)
    for note in planned.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    print_verdict(planned, console)


def print_peak(planned: PlannedRun, peak: Peak, console: Console) -> None:
    """The components of the training peak, each with a bar."""
    load = planned.plan.peaks.forests.training
    title = f"Memory at the peak of training, in {peak.when}: a forest of {load.tokens:,} tokens"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("component")
    table.add_column("GiB", justify="right")
    table.add_column("")
    largest = max(peak.components.values())
    for name, size in peak.components.items():
        table.add_row(name, f"{size / GIB:.2f}", "█" * round(_BAR * size / largest))
    table.add_row("total", f"{peak.total / GIB:.2f}", "", style="bold")
    console.print(table, highlight=False)


def print_other_peaks(planned: PlannedRun, console: Console) -> None:
    """The peaks of scoring, in a line each."""
    peaks = planned.plan.peaks
    tokens = peaks.forests.scoring.tokens
    for name, peak in peaks.all.items():
        if name != "training":
            console.print(f"Peak of {name}, {tokens:,} tokens a forest: {gib(peak.total)}", highlight=False)


def print_epoch(planned: PlannedRun, console: Console) -> None:
    """Tokens of an epoch, as trees and as prompts."""
    epoch, setup = planned.plan.epoch, planned.plan.setup
    ratio = epoch.prompt_tokens / max(epoch.tree_tokens, 1)
    console.print(
        f"An epoch of {planned.corpus}: {epoch.scenes:,} scenes, {epoch.targets:,} utterances, {epoch.steps:,} steps "
        f"of {setup.tokens_per_step:,} tokens; {epoch.tree_tokens:,} tokens as token trees, {epoch.prompt_tokens:,} "
        f"as one prompt per utterance ({ratio:.1f} times as many)",
        highlight=False,
    )
    console.print(f"Tokens are {planned.counter.description}.", style="dim")


def print_times(planned: PlannedRun, console: Console) -> None:
    """Time of an epoch by card."""
    table = Table(title="Time of an epoch, computed", title_justify="left", box=None, pad_edge=False)
    for column in ("card", "GiB", "utilisation", "token trees", "prompts", "fits"):
        table.add_column(column, justify="left" if column == "card" else "right")
    asked = planned.card.name if planned.card else None
    for time in planned.times:
        if time.card.name in _SHOWN or time.card.name == asked:
            card = time.card
            row = (f"{card.memory / GIB:.1f}", f"{time.utilisation:.2f}", duration(time.tree_seconds))
            style = "bold" if card.name == asked else None
            table.add_row(card.name, *row, duration(time.prompt_seconds), "yes" if time.fits else "no", style=style)
    console.print(table, highlight=False)


def print_verdict(planned: PlannedRun, console: Console) -> None:
    """Whether it fits, and what would."""
    fit, setup = planned.fit, planned.plan.setup
    if fit is None:
        console.print("Give --gpu or --memory to see whether it fits.", style="dim")
        return
    name = planned.card.name if planned.card else gib(fit.memory)
    most = planned.plan.peaks.largest
    rest = f"{gib(most)} of {gib(fit.usable)} ({gib(fit.memory)} less a margin of {MARGIN:.0%})"
    if fit.fits:
        console.print(f"It fits {name}: {rest}.", style="green", highlight=False)
    else:
        console.print(f"It does not fit {name}: {rest}.", style="red", highlight=False)
    console.print(
        f"Largest forests that fit: {fit.training_tokens:,} tokens in training (training.tokens_per_step up to "
        f"{fit.training_tokens * setup.accumulation:,} with training.accumulation={setup.accumulation}), "
        f"{fit.scoring_tokens:,} in scoring.",
        highlight=False,
    )
    if fit.changed is not None:
        changes = " ".join(map(str, fit.changes))
        peak = fit.changed.largest
        console.print(f"The nearest setting that fits: {changes} ({gib(peak)})", highlight=False, soft_wrap=True)
    elif not fit.fits:
        console.print("No setting of this base model was found that fits; use a smaller one.", highlight=False)


def as_dict(planned: PlannedRun) -> dict[str, Any]:
    """The plan as JSON; sizes in bytes, times in seconds."""
    plan, base, fit = planned.plan, planned.base, planned.fit
    setup, epoch, forests = plan.setup, plan.epoch, plan.peaks.forests
    return {
        "base": {"name": base.name, "hub_id": base.hub_id, "shape_from": base.origin},
        "parameters": setup.architecture.parameters,
        "trainable_parameters": setup.adapter.parameters,
        "measured": False,
        "peaks": {
            name: {"bytes": peak.total, "when": peak.when, "components": dict(peak.components)}
            for name, peak in plan.peaks.all.items()
        },
        "forests": {
            "training": {"tokens": forests.training.tokens, "logit_rows": forests.training.logit_rows},
            "scoring": {"tokens": forests.scoring.tokens, "logit_rows": forests.scoring.logit_rows},
        },
        "epoch": {
            "corpus": planned.corpus,
            "corpus_found": planned.corpus_found,
            "characters_per_token": planned.counter.estimated,
            "scenes": epoch.scenes,
            "targets": epoch.targets,
            "steps": epoch.steps,
            "tree_tokens": epoch.tree_tokens,
            "prompt_tokens": epoch.prompt_tokens,
            "tree_flops": epoch.tree_flops,
            "prompt_flops": epoch.prompt_flops,
        },
        "download_bytes": 0 if base.downloaded else plan.download,
        "disk_bytes": plan.disk,
        "cards": [_card(time) for time in planned.times],
        "fit": None
        if fit is None
        else {
            "card": planned.card.name if planned.card else None,
            "memory_bytes": fit.memory,
            "usable_bytes": fit.usable,
            "fits": fit.fits,
            "largest_training_forest": fit.training_tokens,
            "largest_scoring_forest": fit.scoring_tokens,
            "nearest": [str(change) for change in fit.changes],
        },
        "notes": list(planned.notes),
    }


def _card(time: CardTime) -> dict[str, Any]:
    return {
        "name": time.card.name,
        "memory_bytes": time.card.memory,
        "tflops": time.card.tflops,
        "utilisation": time.utilisation,
        "tree_seconds": time.tree_seconds,
        "prompt_seconds": time.prompt_seconds,
        "fits": time.fits,
    }


def gib(size: float) -> str:
    """A size in GiB, the unit of graphics cards."""
    return f"{size / GIB:.1f} GiB"


def duration(seconds: float) -> str:
    """A time with two digits or so: `40 s`, `3.2 min`, `14 min`, `2.1 h`."""
    for limit, unit, size in ((60, "s", 1), (3600, "min", 60)):
        if seconds < limit:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 10 or size == 1 else f"{value:.1f} {unit}"
    return f"{seconds / 3600:.1f} h"
