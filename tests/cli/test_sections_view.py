"""How the sections of a report read in a terminal and in a file."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from erc_llm.cli.sections_view import print_sections
from erc_llm.evaluation.comparison import compare
from erc_llm.evaluation.comparison_report import sections, title
from erc_llm.evaluation.evidence import Comparison
from erc_llm.evaluation.sections import Cell, Section, grouped
from tests.evaluation.compared_tables import changed, compared_with_markup, named, table


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared_with_markup()


def printed(comparison: Comparison, **options: object) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100, **options)  # type: ignore[arg-type]
    print_sections(title(comparison), sections(comparison), console)
    return stream.getvalue()


def test_what_makes_tables_unlike_is_red_and_says_so(comparison: Comparison) -> None:
    text = printed(comparison)
    assert "LEAK" in text
    assert "UNLIKE" in text
    assert "Marked: context, this split seen by choices." in " ".join(text.split())
    coloured = printed(comparison, force_terminal=True, color_system="standard")
    assert re.search(r"\x1b\[1;31mfull \[UNLIKE\]", coloured)


def test_the_print_is_plain_where_it_is_no_terminal(comparison: Comparison) -> None:
    text = printed(comparison)
    assert text.isascii()
    assert "\x1b" not in text
    estimate = comparison.pairs[0].headline[0].estimate
    row = next(line for line in text.splitlines() if line.startswith("  weighted F1") and "better" in line)
    assert f"{100 * estimate.low:+.2f} to {100 * estimate.high:+.2f}" in row
    flat = " ".join(text.split())
    assert "the smallest true difference in weighted F1 that this test set would show (80 % power, 5 % level" in flat
    assert "Holm's correction" in flat
    assert "McNemar's exact test on utterances: p " in flat
    assert "descriptive, since it ignores" in flat


def test_long_names_break_no_number() -> None:
    long = Section("S", (grouped(("", "%"), [("n" * 60, [(Cell("metric"), Cell("1.23 to 4.56"))])]),))
    stream = io.StringIO()
    print_sections("T", [long], Console(file=stream, width=40))
    assert "1.23 to 4.56" in stream.getvalue()


def test_a_narrow_terminal_crops_nothing(comparison: Comparison) -> None:
    def cells(width: int) -> list[str]:
        stream = io.StringIO()
        print_sections("T", sections(comparison)[:4], Console(file=stream, width=width))
        return stream.getvalue().split()

    assert sorted(cells(60)) == sorted(cells(160))


def test_a_scene_shows_who_is_right(comparison: Comparison) -> None:
    text = printed(comparison)
    assert re.search(r"Scene d\d+, tuned ahead: \d against \d of 6 lines right", text)
    assert "(right)" in text
    without = compare(named(*(changed(t, text=None) for t in (table(), table(0.4, "other")))), draws=100)
    assert "No column 'text': no example scenes" in " ".join(printed(without).split())
