from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.corpus import read_corpus
from tests.corpus.small_files import (
    DEV,
    FORMATS,
    TRAIN,
    aligned,
    dialogue,
    jsonl,
    save,
    utterances,
)


def test_an_empty_utterance_is_context_only(tmp_path: Path) -> None:
    lines = [DEV[0], DEV[1]._replace(text=" \u200b\t"), DEV[2]]
    corpus = read_corpus(save(tmp_path / "dev.csv", aligned(lines)))
    assert corpus.split("dev")[0].targets == (0, 2)
    assert utterances(corpus)[1].label is None
    assert corpus.warnings[0].startswith("empty utterance, kept as context and without its label: 's01_e02_c01_u002'")


def test_ids_met_twice_are_made_unique(tmp_path: Path) -> None:
    row = dialogue("a", "x", "y")
    for line in row["utterances"]:  # type: ignore[attr-defined]
        line["id"] = "u"
    corpus = read_corpus(save(tmp_path / "train.jsonl", jsonl(row, row)))
    assert [d.id for d in corpus.dialogues()] == ["a", "a_2"]
    assert [u.id for u in utterances(corpus)] == ["u", "u_2", "u", "u_2"]
    assert "duplicate utterance id, renamed: 'u' to 'u_2'" in corpus.warnings[0]
    assert "duplicate dialogue id, renamed: 'a' to 'a_2'" in corpus.warnings[1]


def test_an_episode_in_two_splits_is_odd(tmp_path: Path) -> None:
    save(tmp_path / "train.csv", aligned(TRAIN))
    save(tmp_path / "dev.csv", aligned([x._replace(episode=3, scene=7) for x in DEV]))
    assert read_corpus(tmp_path).warnings == ("episode in more than one split: s01_e03 in train and dev",)


def test_two_scenes_in_one_place_in_time_are_odd(tmp_path: Path) -> None:
    rows = jsonl(dialogue("a", "x", episode=1, scene=1), dialogue("b", "x", episode=1, scene=1))
    assert read_corpus(save(tmp_path / "x.jsonl", rows)).warnings == (
        "two dialogues with the same season, episode and scene: 'a' and 'b'",
    )


def test_dialogues_of_which_only_some_have_episodes_keep_their_order(tmp_path: Path) -> None:
    rows = jsonl(dialogue("a", "x", episode=3), dialogue("b", "x"), dialogue("c", "x", episode=1))
    corpus = read_corpus(save(tmp_path / "x.jsonl", rows))
    assert [d.id for d in corpus.split("all")] == ["a", "b", "c"]
    assert "the order of the file is kept" in corpus.warnings[0]


def test_a_season_without_an_episode_is_odd(tmp_path: Path) -> None:
    corpus = read_corpus(save(tmp_path / "x.jsonl", jsonl(dialogue("a", "x", season=3))))
    assert "season and scene are ignored without an episode" in corpus.warnings[0]


@pytest.mark.parametrize("version", FORMATS)
def test_a_scene_of_one_utterance_and_one_of_ten_thousand_words(version: str, tmp_path: Path) -> None:
    long = DEV[0]._replace(text=" ".join(["incomprehensibilities"] * 10_000))
    corpus = read_corpus(save(tmp_path / "dev.txt", FORMATS[version]([long])))
    assert utterances(corpus)[0].text == long.text
    assert corpus.warnings[0].startswith("utterance of more than 1,000 words: 10,000 in")


def test_a_dialogue_without_utterances_is_left_out(tmp_path: Path) -> None:
    corpus = read_corpus(save(tmp_path / "x.jsonl", jsonl(dialogue("a"), dialogue("b", "x"))))
    assert [d.id for d in corpus.dialogues()] == ["b"]
    assert corpus.warnings[0].startswith("dialogue without utterances, left out: 'a'")


def test_many_of_a_kind_are_one_sentence(tmp_path: Path) -> None:
    rows = jsonl(*(dialogue(f"d{n}", "") for n in range(50)), dialogue("e", "x"))
    warnings = read_corpus(save(tmp_path / "x.jsonl", rows)).warnings
    assert len(warnings) == 1
    assert warnings[0].endswith("and 47 more")
