"""What a baseline reads: its own past and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.baselines.inputs import corpus_numbers
from erc_llm.corpus import EMORYNLP, Corpus, Utterance
from tests.baselines.small import baseline_config, changed, read_by, scene, small_corpus
from tests.tiny_models import TinyModel

FULL: dict[str, Any] = {"speaker": {"global_identity": True, "behaviour": True}}
LONG = {"max_tokens": 120}
KINDS: dict[str, dict[str, Any]] = {"encoder": {"kind": "encoder"}, "compm": {"kind": "compm"}, "emonet": FULL}


@pytest.fixture(params=KINDS)
def config(request: pytest.FixtureRequest, tiny_bert: TinyModel, tmp_path: Path) -> BaselineConfig:
    return baseline_config(tiny_bert, tmp_path, **KINDS[request.param])


def _text(model: TinyModel, ids: tuple[int, ...]) -> str:
    return str(model.tokenizer.decode(ids)).replace(" ##", "").replace("< s", "<s").replace(" >", ">")


def _corpus(*scenes: Any, **splits: Any) -> Corpus:
    return Corpus("c", "own", EMORYNLP, {"train": scenes, **splits}, generic=frozenset({"Guy"}))


def test_a_context_is_the_marked_lines_up_to_the_target(tiny_bert: TinyModel, tmp_path: Path) -> None:
    corpus = _corpus(scene("a", (1, 1, 1), ("Mara", "the smoke"), ("Tomas", "the window"), ("Mara", "the bread")))
    read = read_by(baseline_config(tiny_bert, tmp_path, kind="compm"), tiny_bert, corpus)
    assert _text(tiny_bert, read["a", "u0"].context) == "[CLS] <s1> the smoke"
    assert _text(tiny_bert, read["a", "u2"].context) == "[CLS] <s1> the smoke <s2> the window <s1> the bread"
    assert read["a", "u0"].memory == read["a", "u1"].memory == ()
    assert [_text(tiny_bert, ids) for ids in read["a", "u2"].memory] == ["[CLS] the smoke"]


def test_what_is_too_old_for_a_context_is_cut_token_by_token(tiny_bert: TinyModel, tmp_path: Path) -> None:
    corpus = _corpus(scene("a", (1, 1, 1), ("Mara", "the smoke"), ("Tomas", "the window")))
    section = {"encoder": {"base": str(tiny_bert.folder), "max_tokens": 10}}
    whole, cut = (
        read_by(baseline_config(tiny_bert, tmp_path, kind="encoder", **more), tiny_bert, corpus)["a", "u1"].context
        for more in ({}, section)
    )
    assert len(cut) == 10
    assert cut == (whole[0], *whole[-9:])


def test_a_memory_across_dialogues_holds_the_latest_lines_of_earlier_scenes(
    tiny_bert: TinyModel, tmp_path: Path
) -> None:
    corpus = _corpus(
        scene("b", (1, 2, 1), ("Mara", "the bread"), ("Tomas", "the slice"), ("Mara", "the dog"), ("Mara", "the rent")),
        dev=(scene("a", (1, 1, 1), ("Mara", "the smoke"), ("Mara", "the window"), ("Tomas", "the toast")),),
        test=(scene("c", (1, 3, 1), ("Mara", "the fire")),),
    )
    read = read_by(baseline_config(tiny_bert, tmp_path, **FULL, memory={"window": 3}), tiny_bert, corpus)

    def memory(*key: str) -> list[str]:
        return [_text(tiny_bert, ids).removeprefix("[CLS] ") for ids in read[key[0], key[1]].memory]

    assert memory("a", "u0") == []
    assert memory("b", "u0") == ["the smoke", "the window"]
    assert memory("b", "u1") == ["the toast"]
    assert memory("b", "u3") == ["the window", "the bread", "the dog"]
    assert memory("c", "u0") == ["the bread", "the dog", "the rent"]


def test_a_generic_name_is_somebody_else_in_every_episode(tiny_bert: TinyModel, tmp_path: Path) -> None:
    corpus = _corpus(
        scene("a", (1, 1, 1), ("Guy", "the smoke")),
        scene("b", (1, 1, 2), ("Guy", "the window")),
        scene("c", (1, 2, 1), ("Guy", "the bread")),
    )
    read = read_by(baseline_config(tiny_bert, tmp_path, **FULL), tiny_bert, corpus)
    assert [len(read[name, "u0"].memory) for name in "abc"] == [0, 1, 0]
    assert [_text(tiny_bert, read[name, "u0"].context)[6:10] for name in "abc"] == ["<s1>", "<s1>", "<s2>"]


def test_identities_are_numbered_by_dialogue_or_over_the_whole_corpus(tiny_bert: TinyModel, tmp_path: Path) -> None:
    corpus = _corpus(
        scene("a", (1, 1, 1), ("Mara", "the smoke"), ("Tomas", "the window")),
        scene("b", (1, 2, 1), ("Tomas", "the bread"), ("Ines", "the dog")),
    )
    assert corpus_numbers(corpus) == {"Mara": 1, "Tomas": 2, "Ines": 3}
    by_dialogue = read_by(baseline_config(tiny_bert, tmp_path, kind="compm"), tiny_bert, corpus)
    over_all = read_by(baseline_config(tiny_bert, tmp_path, **FULL), tiny_bert, corpus)
    assert _text(tiny_bert, by_dialogue["b", "u1"].context) == "[CLS] <s1> the bread <s2> the dog"
    assert _text(tiny_bert, over_all["b", "u1"].context) == "[CLS] <s2> the bread <s3> the dog"


def test_lines_of_all_and_of_several_belong_to_each(tiny_bert: TinyModel, tmp_path: Path) -> None:
    lines = (
        Utterance("u0", ("#ALL#",), "the smoke", "Mad"),
        Utterance("u1", ("Mara", "Tomas"), "the window", "Mad"),
        Utterance("u2", ("Mara",), " ", None, target=False),
        Utterance("u3", ("Tomas",), "the bread", "Mad"),
    )
    corpus = _corpus(replace(scene("a", (1, 1, 1)), utterances=lines))
    read = read_by(baseline_config(tiny_bert, tmp_path, kind="compm"), tiny_bert, corpus)
    assert _text(tiny_bert, read["a", "u3"].context) == "[CLS] <s1> the smoke <s2> <s3> the window <s3> the bread"
    assert [_text(tiny_bert, ids) for ids in read["a", "u3"].memory] == ["[CLS] the smoke", "[CLS] the window"]
    assert set(read) == {("a", "u0"), ("a", "u1"), ("a", "u3")}


def test_words_can_forge_neither_a_speaker_nor_a_special_token(tiny_bert: TinyModel, tmp_path: Path) -> None:
    forged = "the <s2> [SEP] [CLS]\n<S2> smoke < s2 > \u226es2\u226f \ufe64s2\ufe65 \uff1cs2\uff1e <s\u00ad2> <\u015b2>"
    corpus = _corpus(scene("a", (1, 1, 1), ("Mara", forged), ("Tomas", "the window")))
    read = read_by(baseline_config(tiny_bert, tmp_path, kind="compm", encoder=LONG), tiny_bert, corpus)
    assert _text(tiny_bert, read["a", "u1"].context).count("<") == 2, "one marker before each line"
    assert [_text(tiny_bert, ids).count("<") for ids in read["a", "u1"].memory] == []
    special = set(tiny_bert.tokenizer.all_special_ids) - {tiny_bert.tokenizer.unk_token_id}
    assert special.isdisjoint(read["a", "u1"].context[1:])


# --- leaks


def _times(corpus: Corpus) -> dict[tuple[str, str], tuple[Any, int]]:
    return {(d.id, u.id): (d.time, k) for d in corpus.dialogues() for k, u in enumerate(d.utterances)}


@pytest.mark.parametrize(("split", "number"), [("train", 4), ("train", 9), ("selection", 1), ("dev", 0), ("dev", 2)])
def test_nothing_that_is_said_later_is_read(
    config: BaselineConfig, tiny_bert: TinyModel, split: str, number: int
) -> None:
    """Other words, other speakers, more and fewer lines: not a byte of what is read before them changes."""
    corpus = small_corpus()
    before, times = read_by(config, tiny_bert, corpus), _times(corpus)
    place = corpus.split(split)[number]
    for k in range(len(place.utterances)):
        kept = place.utterances[:k]
        stranger = Utterance("new", ("Nobody Known",), "a line that was not there", "Mad")
        for lines in ((), (stranger,), (stranger, *place.utterances[k:]), place.utterances[k + 1 :]):
            after = read_by(config, tiny_bert, changed(corpus, split, number, *kept, *lines))
            earlier = [key for key, when in times.items() if when < (place.time, k)]
            assert earlier
            assert all(after[key] == before[key] for key in earlier)


@pytest.mark.parametrize("timed", [True, False])
def test_scenes_that_come_later_may_be_added_and_deleted(
    config: BaselineConfig, tiny_bert: TinyModel, timed: bool
) -> None:
    """In the order of time, or of the files where a corpus has no times."""
    corpus = small_corpus()
    if not timed:
        splits = {
            split: tuple(replace(d, id=f"{split}-{d.id}", season=None, episode=None, scene=None) for d in scenes)
            for split, scenes in corpus.splits.items()
        }
        corpus = replace(corpus, splits=splits)
    before, dev = read_by(config, tiny_bert, corpus), corpus.split("dev")
    last = replace(dev[-1], id="last", scene=dev[-1].scene + 1 if timed else None)
    for later in (dev[:-1], (*dev[:-1], last), (*dev, last)):
        after = read_by(config, tiny_bert, replace(corpus, splits={**corpus.splits, "dev": later}))
        kept = [key for key in before if key[0] != dev[-1].id]
        assert kept
        assert all(after[key] == before[key] for key in kept)


def test_what_was_said_earlier_is_read(tiny_bert: TinyModel, tmp_path: Path) -> None:
    """Else the test above would pass for a model that reads nothing."""
    corpus = small_corpus()
    lines = tuple(replace(u, text="a line that was not there") for u in corpus.split("train")[8].utterances)
    other = changed(corpus, "train", 8, *lines)
    for kind, scenes in (("compm", 1), ("emonet", 4)):
        config = baseline_config(tiny_bert, tmp_path, **KINDS[kind])
        before, after = read_by(config, tiny_bert, corpus), read_by(config, tiny_bert, other)
        differing = {key[0] for key in before if before[key] != after[key]}
        assert len(differing) >= scenes
        assert (len(differing) == 1) == (kind == "compm")


@pytest.mark.parametrize("label", ["Mad", None])
def test_no_label_is_read(config: BaselineConfig, tiny_bert: TinyModel, label: str | None) -> None:
    """Of dev or of train, of the own episode or another."""
    corpus = small_corpus()
    splits = {
        split: tuple(replace(d, utterances=tuple(replace(u, label=label) for u in d.utterances)) for d in scenes)
        for split, scenes in corpus.splits.items()
    }
    assert read_by(config, tiny_bert, replace(corpus, splits=splits)) == read_by(config, tiny_bert, corpus)


def test_scenes_of_the_same_time_do_not_see_each_other(tiny_bert: TinyModel, tmp_path: Path) -> None:
    corpus = _corpus(scene("a", (1, 1, 1), ("Mara", "the smoke")), scene("b", (1, 1, 1), ("Mara", "the window")))
    read = read_by(baseline_config(tiny_bert, tmp_path, **FULL), tiny_bert, corpus)
    assert read["a", "u0"].memory == read["b", "u0"].memory == ()
