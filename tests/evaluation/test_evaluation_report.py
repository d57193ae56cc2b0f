"""The page of one table: what is on it, and that names and lines change nothing but themselves."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from erc_llm.evaluation.evaluation_report import sections, title
from erc_llm.evaluation.report import evaluate
from erc_llm.evaluation.sections import CalibrationPlot, Differences, ReportTable, Section
from erc_llm.predictions import Predictions
from tests.evaluation.compared_tables import changed, table
from tests.evaluation.reported_tables import HEBREW, LINES, SYSTEM, hostile, page_of


class Outline(HTMLParser):
    """Every start tag with its attributes, apart from those that depend on a text, and every text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag != "bdi":
            self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def reported(given: Predictions) -> dict[str, Section]:
    return {section.title: section for section in sections(given, evaluate(given, draws=100))}


def tables(section: Section) -> list[ReportTable]:
    return [block for block in section.blocks if isinstance(block, ReportTable)]


@pytest.fixture(scope="module")
def ordinary() -> str:
    return page_of(table())


@pytest.fixture(scope="module")
def spoilt() -> str:
    return page_of(hostile())


def test_sections_stand_in_the_order_of_reading(ordinary: str) -> None:
    titles = [
        "Result",
        "Difference to others",
        "By label",
        "Confusions",
        "By speaker and place",
        "Calibration",
        "Most confident errors",
        "Leakage manifest",
        "Notes",
    ]
    assert re.findall(r'<h2 id="s\d+">(.*?)</h2>', ordinary) == titles
    assert re.findall(r'<li><a href="#s\d+">(.*?)</a>', ordinary) == titles


def test_the_numbers_are_those_of_the_evaluation() -> None:
    given = table()
    evaluation, found = evaluate(given, draws=100), reported(given)
    (result,) = tables(found["Result"])
    assert result.rows[0][1].text == f"{100 * evaluation.headline.weighted_f1.value:.2f}"
    (labels,) = tables(found["By label"])
    assert [row[1].text for row in labels.rows] == [f"{100 * row.f1:.1f}" for row in evaluation.classes]
    (confusions,) = tables(found["Confusions"])
    shown = [[int(cell.text) for cell in row[1:]] for row in confusions.rows]
    assert shown == [list(row[:-1]) for row in evaluation.confusion], "nothing is invalid"
    heats = [[cell.heat or 0 for cell in row[1:]] for row in confusions.rows]
    assert [sum(row) for row in heats] == pytest.approx([1.0] * len(heats))
    assert [row[1 + i].style for i, row in enumerate(confusions.rows)] == ["strong"] * len(heats)
    assert title(evaluation) == "tuned on series, split dev"


def test_invalid_answers_have_a_column_of_their_own() -> None:
    given = changed(table(), invalid=[True, *[False] * (len(table()) - 1)])
    (confusions,) = tables(reported(given)["Confusions"])
    assert confusions.columns[-1] == "invalid"
    assert sum(int(row[-1].text) for row in confusions.rows) == 1


def test_what_lacks_its_columns_is_left_out_with_a_sentence() -> None:
    given = changed(table(), probabilities=None, speakers=None, position=None, text=None)
    found = reported(given)
    assert "Calibration" not in found
    assert "Most confident errors" not in found
    for name in ("probabilities", "speakers", "position"):
        assert any(isinstance(block, str) and f"No column '{name}'" in block for block in found["Notes"].blocks), name
    bare = changed(given, previous_gold_same_speaker=None, history_length=None, first_seen=None, episode=None)
    assert "By speaker and place" not in reported(bare)


def test_a_leak_and_what_is_not_stated_are_marked() -> None:
    given = table(selection="dev", trained_on_sha256=None)
    (sheet,) = tables(reported(given)["Leakage manifest"])
    rows = {row[0].text: row[1] for row in sheet.rows}
    assert rows["this split seen by choices"].text == "yes [LEAK]"
    assert rows["trained on"].text == "NOT STATED"
    assert {rows[name].style for name in ("this split seen by choices", "trained on")} == {"bad"}


def test_errors_are_shown_with_their_scene_and_the_error_is_marked() -> None:
    overview, *scenes = tables(reported(table())["Most confident errors"])
    assert overview.sortable
    assert not any(scene.sortable for scene in scenes), "the order of lines says something"
    for row, scene in zip(overview.rows, scenes, strict=False):
        (marked,) = (line for line in scene.rows if line[0].text.endswith("▸"))
        assert [cell.text for cell in marked[1:5]] == [cell.text for cell in row[1:5]]


def test_drawings_are_there_and_have_names(ordinary: str) -> None:
    found = reported(table())
    drawn = [block for section in found.values() for block in section.blocks if isinstance(block, CalibrationPlot)]
    assert [block.kind for block in drawn] == ["reliability", "risk"]
    assert ordinary.count("<svg") == 3
    names = re.findall(r'role="img" aria-label="(.*?)"', ordinary)
    assert len(names) == 3
    assert all(name.startswith("Plot: ") for name in names)
    assert not [b for s in found.values() for b in s.blocks if isinstance(b, Differences)], "none was asked for"


def test_the_page_loads_nothing_and_runs_only_its_own_script(spoilt: str) -> None:
    assert not re.search(r"(?:src|href|srcset|action)=\"(?!#)", spoilt)
    assert not re.search(r"url\((?!#)|@import", spoilt)
    (script,) = re.findall(r"<script>(.*?)</script>", spoilt, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', spoilt)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'")


def test_names_and_lines_change_nothing_but_themselves(ordinary: str, spoilt: str) -> None:
    """The same elements in the same order; lines are shown as they are, long ones in part."""
    one, other = Outline(ordinary), Outline(spoilt)
    assert one.tags == other.tags
    texts = "\n".join(other.texts)
    for line in LINES[:2]:
        assert line in texts
    assert f"{'w' * 400} … (8,600 more characters)" in texts
    assert "\u202e" not in spoilt
    assert "\x1b" not in spoilt
    assert SYSTEM in "".join(other.texts)
    assert len(spoilt) < 2 * len(ordinary)


def test_right_to_left_words_are_isolated(spoilt: str) -> None:
    heading = re.search(r"<h1>(.*?)</h1>", spoilt)
    assert heading is not None
    assert f"<bdi>{HEBREW}</bdi> (2): 45" in heading[1]
    assert f'<td class="left short" dir="auto">{HEBREW}</td>' in spoilt


def test_no_id_is_given_twice(ordinary: str) -> None:
    """A clip path or a marker may be the same in two drawings."""
    shared = re.compile(r"[mp][0-9a-f]{10}$")
    twice = [name for name, n in Counter(Outline(ordinary).ids).items() if n > 1 and not shared.match(name)]
    assert twice == []


def test_without_text_no_line_is_on_the_page() -> None:
    given = changed(table(), text=[f"secret {i}" for i in range(len(table()))])
    assert "secret" in page_of(given)
    without = page_of(given.without_text())
    assert "secret" not in without
    assert "Most confident errors" in without, "who spoke, and what was answered"


def test_a_table_of_one_line_has_a_page() -> None:
    one = Predictions.from_columns(
        replace(table().info, system="one"),
        {"dialogue_id": ["d"], "utterance_id": ["u"], "gold": ["Mad"], "predicted": ["Sad"]},
    )
    assert "All targets are from one dialogue" in page_of(one)
