from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from erc_llm.corpus import read_corpus
from erc_llm.errors import CorpusError
from tests.corpus.small_files import (
    jsonl,
    save,
    utterances,
)


@pytest.mark.emorynlp
@pytest.mark.parametrize(
    ("version", "train", "dev"),
    [
        ("original", (77, 713, 9934), (11, 99, 1344)),
        ("aligned", (77, 659, 7551), (11, 89, 954)),
        ("compm", (0, 713, 9934), (0, 99, 1344)),
    ],
)
def test_the_counts_of_emorynlp(version: str, train: tuple[int, ...], dev: tuple[int, ...], emorynlp: Path) -> None:
    start = time.perf_counter()
    corpus = read_corpus(emorynlp / version)
    assert time.perf_counter() - start < 2
    assert corpus.version == version
    for split, expected in (("train", train), ("dev", dev)):
        ds = corpus.split(split)
        episodes = {d.episode_id for d in ds} - {None}
        assert (len(episodes), len(ds), sum(len(d.utterances) for d in ds)) == expected
    assert corpus.warnings == ()


@pytest.mark.emorynlp
def test_aligned_is_a_subset_of_original_with_the_same_ids_texts_and_labels(emorynlp: Path) -> None:
    whole = {u.id: u for u in utterances(read_corpus(emorynlp / "original"))}
    part = utterances(read_corpus(emorynlp / "aligned"))
    assert len(part) == 7551 + 954
    assert all(whole[u.id] == u for u in part)


@pytest.mark.emorynlp
def test_compm_has_the_lines_of_original_in_its_order(emorynlp: Path) -> None:
    first, second = read_corpus(emorynlp / "original"), read_corpus(emorynlp / "compm")
    assert [(u.text, u.label) for u in utterances(first)] == [(u.text, u.label) for u in utterances(second)]


@pytest.mark.emorynlp
def test_healing_restores_the_lines_that_were_really_said_before(emorynlp: Path) -> None:
    plain = read_corpus(emorynlp / "aligned")
    healed = read_corpus(emorynlp / "aligned", heal_from=emorynlp / "original")
    after_a_gap = sum(
        u.target and i > 0 and not d.utterances[i - 1].target
        for d in healed.split("dev")
        for i, u in enumerate(d.utterances)
    )
    assert after_a_gap / 954 == pytest.approx(0.15, abs=0.005)
    assert [u for u in utterances(healed) if u.target] == utterances(plain)
    assert healed.warnings == ("gap-healed: 1,950 missing lines were added as context only (train 1,702, dev 248)",)
    source = {d.id: d for d in read_corpus(emorynlp / "original").dialogues()}
    for d in healed.dialogues():
        assert [u.id for u in d.utterances] == [u.id for u in source[d.id].utterances]


@pytest.mark.emorynlp
def test_an_unknown_label_in_the_real_json_is_found_on_its_line(emorynlp: Path, tmp_path: Path) -> None:
    path = tmp_path / "emotion-detection-trn.json"
    shutil.copyfile(emorynlp / "original" / path.name, path)
    lines = path.read_text().split("\n")
    victim = [i for i, line in enumerate(lines) if '"emotion"' in line][7000]
    lines[victim] = '"emotion": "Wistful"'
    path.write_text("\n".join(lines))
    with pytest.raises(CorpusError) as caught:
        read_corpus(path)
    assert caught.value.line == victim + 1


@pytest.mark.emorynlp
def test_reading_is_the_same_from_a_copy_in_our_own_format(emorynlp: Path, tmp_path: Path) -> None:
    corpus = read_corpus(emorynlp / "original" / "emotion-detection-dev.json")
    rows = [
        {"id": d.id, "season": d.season, "episode": d.episode, "scene": d.scene,
         "utterances": [{"id": u.id, "speaker": u.speakers, "text": u.text, "label": u.label} for u in d.utterances]}
        for d in corpus.split("dev")
    ]  # fmt: skip
    copy = read_corpus(save(tmp_path / "dev.jsonl", jsonl(*rows)))
    assert copy.sha256 == corpus.sha256
    assert replace(copy, name="", version="", files=()) == replace(corpus, name="", version="", files=())
