from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.corpus import Utterance, read_corpus
from erc_llm.errors import CorpusError
from tests.corpus.small_files import (
    dialogue,
    jsonl,
    save,
    utterances,
)


def test_everything_but_id_speaker_and_text_can_be_left_out(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "utterances": [{"speaker": "Ada", "text": "Hm."}, {"speaker": ["Bo"], "text": "Hm?", "label": None}],
    }
    corpus = read_corpus(save(tmp_path / "talk.jsonl", "\n" + jsonl(row)))
    assert utterances(corpus) == [Utterance("7_u001", ("Ada",), "Hm."), Utterance("7_u002", ("Bo",), "Hm?")]
    assert corpus.split("all")[0].time is None


def test_scenes_without_numbers_are_numbered_within_their_episode(tmp_path: Path) -> None:
    rows = [dialogue("a", "x", episode=2), dialogue("b", "x", episode=1), dialogue("c", "x", episode=2)]
    train = read_corpus(save(tmp_path / "train.jsonl", jsonl(*rows))).split("train")
    assert [(d.id, d.time) for d in train] == [("b", (0, 1, 1)), ("a", (0, 2, 1)), ("c", (0, 2, 2))]
    with pytest.raises(CorpusError, match="episode s00_e02: some dialogues have a scene number"):
        read_corpus(save(tmp_path / "train.jsonl", jsonl(*rows, dialogue("d", "x", episode=2, scene=9))))


def test_fields_nobody_reads_are_pointed_out(tmp_path: Path) -> None:
    row = {"id": "a", "mood": 1, "utterances": [{"speaker": "Ada", "text": "Hm.", "lable": "Sad"}]}
    warnings = read_corpus(save(tmp_path / "train.jsonl", jsonl(row))).warnings
    assert ["'lable' is not one of id, speaker, text, label" in o for o in warnings] == [False, True]
    assert "'mood' is not one of" in warnings[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"utterances": []}, "the dialogue has no 'id'; it has 'utterances'"),
        ({"id": "a"}, "the dialogue has no 'utterances'"),
        ({"id": "a", "utterances": None}, "'utterances' is null; expected a value"),
        ({"id": "a", "utterances": "x"}, "'utterances' is 'x'; expected a list"),
        ({"id": "a", "utterances": ["x"]}, r"utterances\[0\] is 'x'; expected a JSON object"),
        ({"id": "a", "utterances": [{"text": "x"}]}, r"utterances\[0\] has no 'speaker'; it has 'text'"),
        ({"id": "a", "utterances": [{"text": "x", "speaker": 3}]}, "'speaker' is 3; expected a name or a list"),
        ({"id": "a", "utterances": [{"text": "x", "speaker": []}]}, "has no speaker"),
        ({"id": "a", "utterances": [{"text": "x", "speaker": " "}]}, "has no speaker"),
        ({"id": "a", "utterances": [{"text": 1, "speaker": "x"}]}, "'text' is 1; expected a string"),
        ({"id": "a", "utterances": [{"text": "x", "speaker": "x", "label": 3}]}, "label is 3; expected a string"),
        ({"id": "a", "season": "one", "utterances": []}, "'season' is 'one'; expected a whole number"),
        ({"id": "a", "episode": True, "utterances": []}, "'episode' is True; expected a whole number"),
        ({"id": "a", "split": "no split", "utterances": []}, "split is 'no split'"),
        ({"id": "a", "utterances": [{"text": "\ud83d", "speaker": "x"}]}, "half of a surrogate pair"),
        (["a"], "unknown file format"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(row: object, message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "train.jsonl", jsonl(row))
    with pytest.raises(CorpusError, match=message) as caught:
        read_corpus(path)
    assert caught.value.exit_code == 2
    assert caught.value.line == (1 if isinstance(row, dict) else None)
