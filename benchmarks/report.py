"""Benchmark reports: tables in the terminal, and the same rows as Markdown.

Input: the sections that were measured. Output: rich tables, or Markdown.
Does not depend on: how the sections are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Ratio, Result

_SHOWN_FLIPS = 10


@dataclass(frozen=True, slots=True)
class ReportTable:
    """One table: a title, column names, rows of texts, and sentences below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tables(report: Result) -> list[ReportTable]:
    """The tables of all sections that were measured."""
    makers = {
        "training": _training,
        "scoring": _scoring,
        "generation": _generation,
        "profiles": _profiles,
        "calibration": _calibration,
        "baselines": _baselines,
        "comparison": _comparison,
        "matmul": _matmul,
    }
    found = [make(report[name]) for name, make in makers.items() if name in report]
    if report.get("shares"):
        found.append(_shares(report["shares"], report["matmul"]["dtype"]))
    for use, operators in report.get("profile", {}).items():
        rows = tuple((o["operator"], f"{o['share']:.1%}", str(o["calls"])) for o in operators)
        found.append(ReportTable(f"Where {use} time goes", ("operator", "own time", "calls"), rows))
    return found


def print_tables(report: Result, console: Console) -> None:
    """Print all tables of a report, and the conditions of the measurement."""
    for table in tables(report):
        print_table(table, console)
    console.print(_conditions(report), style="dim")


def print_table(table: ReportTable, console: Console) -> None:
    """Print one table with its notes."""
    drawn = Table(title=table.title, title_justify="left", title_style="bold")
    for i, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if i == 0 else "right")
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)
    for note in table.notes:
        console.print(f"  {note}", markup=False, highlight=False)


def as_markdown(report: Result) -> str:
    """The same tables as Markdown."""
    parts = []
    for table in tables(report):
        align = ["---", *["---:"] * (len(table.columns) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (table.columns, align, *table.rows)]
        parts.append(f"**{table.title}**\n\n" + "\n".join(lines) + "".join(f"\n\n{note}" for note in table.notes))
    return "\n\n".join(parts) + f"\n\n{_conditions(report)}\n"


def _training(section: Result) -> ReportTable:
    setup, sides, peers = section["setup"], section["sides"], section["peers"]
    rows = []
    for name, side in sides.items():
        peer = peers.get(name)
        compared = ("", "", "")
        if peer:
            time = str(Ratio(tuple(peer["time_ratio_rounds"])))
            compared = (time, f"{peer['token_ratio']:.2f}", f"{peer['quotient']:.2f}")
        rows.append((name, *_speed(side), *compared, _memory(side)))
    return ReportTable(
        f"Training, {setup['utterances']} labelled utterances of {setup['scenes']} scenes, {setup['dtype']}",
        ("", "utterances/s", "tokens/s", "time ratio", "token ratio", "quotient", "peak MB"),
        tuple(rows),
        (
            f"Ratios are the peer's over the token tree's; {setup['tokens_per_step']} tokens a forward on both sides, "
            f"which is {setup['trl_rows_per_step']} rows for TRL. Tokens are those the model reads, padding included.",
        ),
    )


def _scoring(section: Result) -> ReportTable:
    setup, agreement = section["setup"], section["agreement"]
    rows = []
    for name, side in section["sides"].items():
        same = agreement.get(name, {}).get("same")
        rows.append((name, *_speed(side), _ratio(section, name), "" if same is None else f"{same:.1%}", _memory(side)))
    best = "best of both generate"
    rows.append((best, "", "", _ratio(section, best), "", ""))
    sizes = ", ".join(f"{size} for {name}" for name, size in setup["batch_sizes"].items())
    notes = [
        f"Batch sizes, the fastest of a quick try: {sizes}; {setup['tokens_per_forest']} tokens a forest.",
        f"Free generation gave no label in {agreement['generate']['no_label']:.1%}. Our log-likelihoods and those of "
        f"the requests differ by at most {agreement['largest_difference']:.2g} nats.",
    ]
    for name, found in agreement.items():
        if isinstance(found, dict) and "flips" in found:
            notes += _flips(name, found["flips"])
    return ReportTable(
        f"Scoring, {setup['utterances']} utterances of {setup['scenes']} scenes, {setup['dtype']}",
        ("", "utterances/s", "tokens/s", "tree is faster", "same label", "peak MB"),
        tuple(rows),
        tuple(notes),
    )


def _flips(peer: str, flips: Sequence[Result]) -> list[str]:
    if not flips:
        return []
    lines = [f"{len(flips)} other labels by {peer}; log-likelihoods of (our label, its label)."]
    if peer.endswith("constrained"):
        lines.append("It takes the likelier token where two labels part; we compare the labels whole.")
    if peer.startswith("llama.cpp"):
        lines.append("Its grammar also admits a label in other tokens, ` joy` and `ful`, which ours does not score.")
    for flip in flips[:_SHOWN_FLIPS]:
        if flip["theirs"] is None:
            lines.append(f"utterance {flip['utterance']}: {flip['ours']}, it gave no label")
            continue
        whole, token = flip["sequence"], flip["token"]
        line = f"utterance {flip['utterance']}: {flip['ours']}, {flip['theirs']}: whole {whole[0]:.3f}, {whole[1]:.3f}"
        lines.append(f"{line}; the token where they part {token[0]:.3f}, {token[1]:.3f}")
    if len(flips) > _SHOWN_FLIPS:
        lines.append(f"and {len(flips) - _SHOWN_FLIPS} more, in the JSON file")
    return lines


def _matmul(section: Result) -> ReportTable:
    rows = []
    for use, count in section["rows"].items():
        speeds = [f"{section['gflops'][dtype]['reached'][use]:.0f}" for dtype in section["gflops"]]
        rows.append((f"all layers, {count} rows ({use})", *speeds))
    first, second = section["gflops"].values()
    rows += [(shape, f"{speed:.0f}", f"{second['shapes'][shape]:.0f}") for shape, speed in first["shapes"].items()]
    return ReportTable(
        "Matrix multiplication at the model's shapes, GFLOP/s (rows x inputs x outputs)",
        ("", *section["gflops"]),
        tuple(rows),
        (f"The model is multiplied in {section['dtype']}: {section['dtype_reason']}.",),
    )


def _shares(shares: Result, dtype: str) -> ReportTable:
    rows = tuple(
        (
            use,
            f"{s['tokens_per_second']:.0f}",
            f"{s['gflops']:.0f}",
            f"{s['share']:.0%}",
            f"{s['share_of_bfloat16']:.0%}",
        )
        for use, s in shares.items()
    )
    return ReportTable(
        "Share of the machine's multiply speed",
        ("", "tokens/s", "GFLOP/s", f"of {dtype}", "of bfloat16"),
        rows,
        (
            "Counted: 4 floating point operations per non-embedding parameter and token in training, 2 in scoring; "
            "not counted: the language-model head, attention, the adapter.",
        ),
    )


def _profiles(section: Result) -> ReportTable:
    rows = tuple(
        (
            writer,
            f"{times}x",
            f"{found['profiles']}",
            f"{found['seconds']:.1f}",
            str(Ratio(tuple(found["growth_rounds"]))),
            f"{found['embedding_seconds']:.1f}" if found["embedding_seconds"] else "",
            f"{found['peak_mb']:.0f}",
        )
        for writer, lengths in section.items()
        for times, found in lengths.items()
    )
    columns = ("writer", "corpus", "profiles", "seconds", "times the seconds of 1x", "encoder, seconds", "MB more")
    return ReportTable("Speaker profiles of a whole corpus, and of the corpus told over and over", columns, rows)


def _calibration(section: Result) -> ReportTable:
    names = {
        "arrays": "prior, calibration and decision of bare scores",
        "table": "the same of a whole table, checks included",
        "fit": "fit with cross-validation",
    }
    rows = tuple(
        (
            names.get(part, part),
            f"{found['predictions']:,}",
            f"{found['seconds']:.2f} ({min(found['seconds_rounds']):.2f} to {max(found['seconds_rounds']):.2f})",
            f"{found['peak_mb']:.0f}",
        )
        for part, found in section.items()
    )
    return ReportTable("Correcting and calibrating drawn predictions", ("", "predictions", "seconds", "MB more"), rows)


def _baselines(section: Result) -> ReportTable:
    setup = section["setup"]
    rows = tuple(
        (
            name,
            f"{side['utterances']}",
            f"{side['utterances_per_second']:.2f}",
            f"{Ratio(tuple(side['slower_rounds']))}x" if i else "",
            f"{side['peak_mb']:.0f}",
        )
        for i, (name, side) in enumerate(section["sides"].items())
    )
    return ReportTable(
        f"Training baselines on {setup['model']}, {setup['scenes']} scenes, {setup['dtype']}",
        ("", "utterances", "utterances/s", "the first is faster", "peak MB"),
        rows,
        (
            f"Contexts of at most {setup['tokens']} tokens; EmoNet remembers {setup['window']} utterances.",
            "CoMPM's way, on a draw of the targets: batches of one, the memory embedded anew for each, both encoders "
            "trained.",
        ),
    )


def _comparison(section: Result) -> ReportTable:
    rows = tuple(
        (
            f"two tables of {size} utterances",
            f"{found['seconds']:.2f} ({min(found['seconds_rounds']):.2f} to {max(found['seconds_rounds']):.2f})",
            _limit(found, 0),
            f"{found['cpu_seconds']:.2f}",
            f"{found['peak_mb']:.0f}",
            _limit(found, 1),
        )
        for size, found in section["sizes"].items()
    )
    title = f"`erc-llm compare --out`, {section['draws']:,} bootstrap draws and as many swaps"
    return ReportTable(title, ("", "seconds", "at most", "CPU seconds", "peak MB", "at most"), rows)


def _limit(found: Result, place: int) -> str:
    """The upper limit of a measurement; reports written before limits were recorded have none."""
    limit = found.get("limits", (None, None))[place]
    return "" if limit is None else f"{limit:,.0f}"


def _generation(section: Result) -> ReportTable:
    step, draw = section["step"], section["draw"]
    rows = (
        ("a decoding step, free", f"{1000 * step['free']:.1f}", ""),
        ("a decoding step that only labels may take", f"{1000 * step['constrained']:.1f}", f"{step['ratio']:.3f}x"),
        ("an epoch of training", f"{1000 * draw['epoch']:.0f}", ""),
        ("drawing the targets of an epoch", f"{1000 * draw['seconds']:.1f}", f"{draw['share']:.4%}"),
    )
    rounds = Ratio(tuple(step["ratio_rounds"]))
    return ReportTable(
        "Constraints and draws",
        ("", "ms", "of the line above"),
        rows,
        (
            f"Steps: medians of {len(rounds.values)} interleaved pairs ({min(rounds.values):.3f}x to "
            f"{max(rounds.values):.3f}x), {step['steps']} steps each; the {step['batch']} shortest prompts, "
            f"of at most {step['width']} tokens.",
            f"Draws: {draw['targets']} targets by {draw['scheme']}; the epoch's {draw['tokens']} tokens at the speed "
            f"measured on {draw['measured_tokens']} of them.",
        ),
    )


def _speed(side: Result) -> tuple[str, str]:
    return f"{side['utterances_per_second']:.2f}", f"{side['tokens_per_second']:.0f}"


def _memory(side: Result) -> str:
    return f"{side['peak_mb']:.0f} (loaded: {side['before_mb']:.0f})"


def _ratio(section: Result, name: str) -> str:
    found = section["ratios"].get(name)
    return f"{Ratio(tuple(found['rounds']))}x" if found else ""


def _conditions(report: Result) -> str:
    matmul, settings = report["matmul"], report["settings"]
    machine = matmul["machine"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rounds = report["rounds"]
    return (
        f"{matmul['model']} on {where}; {versions}; corpus {settings['corpus_name']}; "
        f"{rounds} alternating round{'s' if rounds > 1 else ''}, medians (and range)."
    )
