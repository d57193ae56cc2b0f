"""The three files show the same, and words of a table are never markup."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.comparison import compare
from erc_llm.evaluation.comparison_pages import as_html, as_markdown, write_comparison
from erc_llm.evaluation.comparison_report import sections
from erc_llm.evaluation.evidence import Comparison
from erc_llm.evaluation.matching import NamedTable
from erc_llm.evaluation.sections import Cell, ReportTable, grouped
from erc_llm.predictions import Predictions
from tests.evaluation.compared_tables import changed, compared_with_markup, named, table


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared_with_markup()


class Cells(HTMLParser):
    """The text of every table cell with its classes, and which elements there are."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self._open: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "td":
            self._open = dict(attrs).get("class") or ""

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.cells.append((self._open, data))
            self._open = None


def test_sections_stand_in_the_order_of_reading(comparison: Comparison) -> None:
    assert [section.title for section in sections(comparison)] == [
        "Measured",
        "Difference",
        "Difference by episode",
        "Where: tuned against zero <shot>",
        "Answers side by side: tuned against zero <shot>",
        "Calibration",
        "Leakage manifest",
        "Reported elsewhere, not rerun",
        "Notes",
    ]


def test_what_makes_tables_unlike_is_red_and_says_so(comparison: Comparison) -> None:
    text = as_markdown(comparison)
    assert "LEAK" in text
    assert "UNLIKE" in text
    assert "Marked: context, this split seen by choices." in text
    page = Cells()
    page.feed(as_html(comparison))
    red = {text for style, text in page.cells if "bad" in style.split()}
    assert {"full [UNLIKE]", "yes [LEAK]"} <= red


def test_published_rows_are_in_no_table_of_measured_ones(comparison: Comparison) -> None:
    for section in sections(comparison):
        texts = [cell.text for b in section.blocks if isinstance(b, ReportTable) for row in b.rows for cell in row]
        published = any("InstructERC" in text or "41.37" in text for text in texts)
        assert published == (section.title == "Reported elsewhere, not rerun")
        if published:
            assert not [text for text in texts if "tuned" in text]
    before, _, after = as_markdown(comparison).partition("## Reported elsewhere, not rerun")
    assert "CoMPM" not in before
    assert "not stated" in after


def test_words_of_a_table_are_never_markup(comparison: Comparison) -> None:
    html = as_html(comparison)
    page = Cells()
    page.feed(html)
    assert html.count("<script>") == 1, "the page's own"
    assert any("<script>alert(1)</script>" in text for _, text in page.cells), "shown as it was said"
    assert "\x1b" not in html
    markdown = as_markdown(comparison)
    assert "<script" not in markdown
    assert "\n## no" not in markdown
    line = next(row for row in markdown.splitlines() if "alert" in row)
    assert r"\| a\*b\_c \`d\`" in line
    assert len(re.findall(r"(?<!\\)\|", line)) == 6, "five cells"


def test_the_page_loads_nothing_and_holds_its_figures(comparison: Comparison) -> None:
    html = as_html(comparison)
    assert html.count("<svg") == 3
    assert not re.search(r"(src|href)=\"(?!#)", html)
    assert html == as_html(comparison), "the same bytes for the same figures"


def test_files_appear_whole_in_a_folder_that_is_made(comparison: Comparison, tmp_path: Path) -> None:
    paths = write_comparison(comparison, tmp_path / "new" / "folder")
    figures = [f"comparison-{number}.svg" for number in (1, 2, 3)]
    assert [path.name for path in paths] == ["comparison.md", "comparison.html", "comparison.json", *figures]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)
    assert json.loads(paths[2].read_text("utf-8"))["targets"] == comparison.targets
    assert re.findall(r"!\[.+\]\((.+)\)", paths[0].read_text("utf-8")) == figures
    page = paths[1].read_text("utf-8")
    for path in paths[3:]:
        assert ElementTree.fromstring(path.read_bytes()).tag == "{http://www.w3.org/2000/svg}svg"
        assert path.read_text("utf-8") in page, "the same figure"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PredictionsError, match="cannot be written"):
        write_comparison(comparison, tmp_path / "file")


def test_signs_that_markdown_reads_are_shown_as_they_are() -> None:
    given = changed(table(), text=["5 & 6 &lt; 7, $x^2$ and $5"] * len(table()))
    markdown = as_markdown(compare(named(given, table(0.4, "A&B")), draws=100))
    dollar = "<span>$</span>"
    assert f"5 &amp; 6 &amp;lt; 7, {dollar}x^2{dollar} and {dollar}5" in markdown
    assert "against A&amp;B" in markdown


def test_words_that_look_like_a_template_or_an_attribute_are_shown_as_they_are() -> None:
    words = "{{ 7 * 7 }} {% raw %} {# no #} \" onload='x'"
    written = compare(named(changed(table(), text=[words] * len(table())), table(0.4, words)), draws=100)
    html, markdown = as_html(written), as_markdown(written)
    page = Cells()
    page.feed(html)
    assert any(text.endswith(words) for _, text in page.cells)
    assert f"against {words}" in unescape(html[html.index("<h1>") : html.index("</h1>")])
    assert "onload='" not in re.sub("<svg.*?</svg>", "", html, flags=re.DOTALL), "a quote is escaped too"
    assert r"{{ 7 \* 7 }} {% raw %} {\# no \#}" in markdown


def test_figures_of_an_earlier_larger_comparison_go(comparison: Comparison, tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("comparison-old.svg", "other-9.svg")]
    for path in (*kept, tmp_path / "comparison-12.svg"):
        path.write_text("<svg/>")
    written = write_comparison(comparison, tmp_path)
    assert set(tmp_path.iterdir()) == {*written, *kept}


def test_names_that_are_no_text_are_written_all_the_same(tmp_path: Path) -> None:
    tables = [NamedTable("a.parquet", table()), NamedTable("bad\udcff.parquet", table(0.4, "b"), "B\udcff")]
    written = write_comparison(compare(tables, draws=100), tmp_path)
    assert len(written) == 6
    assert json.loads(written[2].read_text("utf-8"))["tables"] == ["a.parquet", "bad?.parquet"]


def test_the_standard_error_of_several_runs_is_told_to_allow_for_few() -> None:
    def said(*tables: Predictions) -> str:
        blocks = sections(compare(named(*tables), draws=100))[1].blocks
        return next(block for block in blocks if isinstance(block, str) and "standard error" in block)

    one, two, other = table(seed=1), table(draw=5, seed=2, run_id="run-2"), table(0.4, "other", draw=7)
    assert "the standard error, of resamples that allow for few runs, is" in said(one, two, other)
    assert "the standard error is" in said(one, other)


def test_groups_stand_below_their_names() -> None:
    sheet = grouped(("", "%"), [("long name", [(Cell("metric"), Cell("1"))])])
    assert [[cell.text for cell in row] for row in sheet.rows] == [["long name", ""], ["  metric", "1"]]
