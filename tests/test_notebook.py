"""What notebooks show of the records that people print: small tables, in which no text of the data is markup."""

from __future__ import annotations

import html.parser
from dataclasses import replace
from pathlib import Path

import pytest

from erc_llm.corpus import Utterance
from erc_llm.evaluation.comparison import compare
from erc_llm.evaluation.report import evaluate
from erc_llm.notebook import SHOWN_ROWS, Share, html_table
from erc_llm.predictor import LabelledLines, LabelledUtterance, load
from tests.evaluation import compared_tables, evaluated_tables
from tests.tiny_models import TinyModel
from tests.tiny_runs import dialogue, tiny_config, write_corpus

FORGED = '</td><script>alert("x")</script><img src="https://evil.example/x.png">'


class _Tags(html.parser.HTMLParser):
    """The tags of a text and its words; refuses a text whose tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= {"style", "dir"}
        assert "url(" not in str(attrs)
        self.tags.add(tag)
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def shown(text: str) -> list[str]:
    """The words of a display, which is checked to be nothing but a table."""
    found = _Tags(text)
    assert found.tags <= {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "small"}
    return found.words


def line(text: str, joyful: float = 0.75) -> LabelledUtterance:
    probabilities = {"Joyful": joyful, "Sad": 0.97 - joyful, "Mad": 0.03}
    return LabelledUtterance(Utterance("1", ("Ann", FORGED), text), "Joyful", probabilities, {}, 1.0)


def test_text_of_the_data_is_never_markup() -> None:
    assert FORGED in shown(html_table(FORGED, (FORGED,), [(FORGED,)], FORGED))
    assert FORGED in shown(line(FORGED)._repr_html_())


def test_a_long_table_and_a_long_text_are_cut_with_their_numbers() -> None:
    words = shown(html_table("t", ("n",), [(f"row {i}",) for i in range(1030)]))
    assert f"row {SHOWN_ROWS - 1}" in words
    assert f"row {SHOWN_ROWS}" not in words
    assert words[-1] == f"… and {1030 - SHOWN_ROWS:,} more rows"
    assert shown(html_table("t", ("n",), [("x" * 5_000,)]))[-1] == "x" * 200 + "…"


def test_a_share_is_a_percentage_above_a_bar_of_its_length() -> None:
    table = html_table("t", ("n",), [(Share(0.5),), (Share(1.2),)])
    assert "50%" in shown(table)
    assert "width:3.00em" in table
    assert "width:6.00em" in table, "a bar is never longer than the cell"


def test_labelled_lines_are_a_list_and_a_table() -> None:
    lines = LabelledLines([line("You came back!"), line("Why now?", 0.5)])
    assert lines == [line("You came back!"), line("Why now?", 0.5)]
    words = shown(lines._repr_html_())
    assert {"You came back!", "Why now?", "75%", "50%", "Sad 22%", "Sad 47%"} <= set(words)
    assert not any("Mad" in word for word in words), "3 % is not worth a word"


def test_labelled_lines_become_a_frame() -> None:
    frame = LabelledLines([line("You came back!"), line("Why now?", 0.5)]).to_pandas()
    assert frame["text"].tolist() == ["You came back!", "Why now?"]
    assert frame["probability of Joyful"].tolist() == [0.75, 0.5]


def test_a_predictor_shows_what_is_loaded_and_labels_a_dialogue_as_a_table(
    tiny_llama: TinyModel, tmp_path: Path
) -> None:
    predictor = load(tiny_config(tiny_llama, write_corpus(tmp_path / "corpus"), tmp_path))
    words = shown(predictor._repr_html_())
    assert {"none: the base model alone", "past", "the most probable label"} <= set(words)
    found = predictor.predict(dialogue(0, 3))
    assert isinstance(found, LabelledLines)
    assert [each.utterance.text in shown(found._repr_html_()) for each in found] == [True] * 3


def test_a_table_of_predictions_shows_what_it_has() -> None:
    table = evaluated_tables.table()
    words = shown(table._repr_html_())
    assert f"… and {len(table) - SHOWN_ROWS} more rows" in words
    assert {"Gold", "Predicted", "Probability"} <= set(words)
    bare = replace(table, gold=None, probabilities=None, log_likelihoods=None, label_mass=None)
    assert not {"Gold", "Probability"} & set(shown(bare._repr_html_()))


def test_an_evaluation_shows_its_metrics_with_intervals() -> None:
    found = evaluate(evaluated_tables.table(), draws=200)
    words = shown(found._repr_html_())
    accuracy = found.headline.accuracy
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert f"{100 * accuracy.value:.2f}" in words
    assert f"{100 * accuracy.low:.2f} to {100 * accuracy.high:.2f}" in words
    assert set(evaluated_tables.LABELS) <= set(words)


@pytest.mark.parametrize("right", [0.4, 0.6])
def test_a_comparison_shows_differences_with_their_verdicts(right: float) -> None:
    tables = compared_tables.named(compared_tables.table(), compared_tables.table(right, "other", draw=7))
    found = compare(tables, draws=200)
    words = shown(found._repr_html_())
    for contrast in found.pairs[0].headline:
        assert f"{100 * contrast.estimate.value:+.2f}" in words
        assert contrast.verdict in words
