"""How an evaluation, and differences between tables, read in a terminal and in a file."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from erc_llm.cli.evaluation_view import print_differences, print_evaluation
from erc_llm.evaluation.references import Difference, constant_reference, difference
from erc_llm.evaluation.report import Evaluation, evaluate
from tests.evaluation import compared_tables
from tests.evaluation.evaluated_tables import INFO, table


def printed(evaluation: Evaluation, **options: Any) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=options.pop("encoding", "utf-8"))
    print_evaluation(evaluation, Console(file=stream, **({"width": 80} | options)))
    stream.seek(0)
    return stream.read()


def printed_differences(*differences: Difference) -> str:
    stream = io.StringIO()
    print_differences(differences, Console(file=stream, width=80))
    return stream.getvalue()


def test_the_page_says_what_it_is_about() -> None:
    about = " ".join(printed(evaluate(table(info=replace(INFO, healed=True)), draws=50)).split())
    assert "240 targets in 30 dialogues of series" in about
    assert "corpus version aligned, gap-healed, split dev, context past" in about
    for title in ("Weighted F1", "Macro F1", "Accuracy", "95 % interval", "Precision", "Support", "gold (row)"):
        assert title in about


def test_a_file_gets_plain_ascii_in_80_columns() -> None:
    text = printed(evaluate(table(), draws=50))
    assert text.isascii()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_terminal_gets_colour_shading_and_bars_in_80_columns() -> None:
    found = evaluate(table(), draws=50)
    text = printed(found, force_terminal=True, color_system="truecolor")
    assert "█" in text
    assert "48;2;" in text  # a background colour
    plain = printed(found, force_terminal=True, color_system=None, no_color=True)
    assert max(map(len, plain.splitlines())) <= 80


def test_a_terminal_without_unicode_can_show_the_page() -> None:
    info = replace(INFO, corpus_name="Sérïe", labels=("Fröhlich", "Neutral"))
    text = printed(evaluate(table(info=info), draws=50), encoding="ascii", force_terminal=True)
    assert "Fr?hlich" in text


def test_names_from_a_file_are_never_markup_or_terminal_codes() -> None:
    info = replace(INFO, system="[red]x[/red]", corpus_name="a\x1b[2Jb", labels=("[bold]", "Neutral"))
    text = printed(evaluate(table(info=info), draws=50))
    assert "[red]x[/red]" in text
    assert "[bold]" in text
    assert "\x1b" not in text


def test_many_labels_get_a_list_of_mistakes_instead_of_a_matrix() -> None:
    labels = tuple(f"emotion number {i}" for i in range(28))
    text = printed(evaluate(table(info=replace(INFO, labels=labels)), draws=50))
    assert "Commonest mistakes" in text
    assert max(map(len, text.splitlines())) <= 80


def test_invalid_answers_get_a_column_of_their_own() -> None:
    text = printed(evaluate(table(invalid=[i < 24 for i in range(240)]), draws=50))
    assert "invalid" in text.split("gold (row)")[1].splitlines()[1]
    assert "invalid" not in printed(evaluate(table(), draws=50)).split("gold (row)")[1].splitlines()[1]


def test_one_dialogue_has_no_interval() -> None:
    row = next(line for line in printed(evaluate(table(dialogues=1, size=40))).splitlines() if "Weighted F1" in line)
    assert "none" in row


def test_sentences_stand_for_what_a_table_lacks() -> None:
    found = evaluate(table(probabilities=None, label_mass=None, invalid=None), draws=50)
    text = " ".join(printed(found).split())
    assert "NLL" not in text
    assert len(found.missing) == 3
    assert all(sentence in text for sentence in found.missing)


def test_the_number_of_targets_with_probabilities_is_stated() -> None:
    some = [[0.4, *[0.1] * 6]] * 100 + [None] * 140
    text = printed(evaluate(table(probabilities=some), draws=50))
    assert "of 100 targets with probabilities" in " ".join(text.split())


def test_differences_name_the_systems_the_interval_and_the_verdict() -> None:
    tuned = compared_tables.table(0.6)
    neutral = difference(tuned, constant_reference(tuned, "Neutral"), draws=200)
    text = printed_differences(neutral, difference(tuned, compared_tables.table(0.6, system="twin", draw=8), draws=200))
    assert "tuned against others on the same 240 targets in 40 dialogues" in " ".join(text.split())
    row = next(line for line in text.splitlines() if line.startswith("all-Neutral"))
    assert f"{100 * neutral.estimate.low:+.2f} to {100 * neutral.estimate.high:+.2f}" in row
    assert row.rstrip().endswith("better")
    assert "not shown" in text
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80
    assert printed_differences() == ""


def test_one_dialogue_gives_a_difference_without_an_interval() -> None:
    one, two = (compared_tables.table(right, dialogues=1, draw=draw) for right, draw in ((0.9, 101), (0.0, 3)))
    text = printed_differences(difference(one, two))
    row = next(line for line in text.splitlines() if line.rstrip().endswith("not shown"))
    assert "none" in row


def test_another_corpus_hash_is_noted() -> None:
    a = compared_tables.table()
    b = replace(a, info=replace(compared_tables.INFO, corpus_sha256="cd" * 32))
    assert "different corpora" in printed_differences(difference(a, b, draws=50))


def test_agreement_is_printed_with_its_kappa() -> None:
    a, b = compared_tables.table(0.6), compared_tables.table(0.5, system="generated", draw=9)
    found = difference(a, b, draws=50)
    assert found.flips > 0
    text = printed_differences(found)
    assert f"Against generated: {found.flips} of 240 answers differ" in text
    assert f"Cohen's kappa {found.kappa:.3f}" in " ".join(text.split())


def test_two_constants_agree_without_a_kappa() -> None:
    neutral = constant_reference(compared_tables.table(), "Neutral")
    assert "100.00 % agree)" in printed_differences(difference(neutral, neutral, draws=50))
