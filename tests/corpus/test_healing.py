from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.corpus import read_corpus
from erc_llm.errors import CorpusError
from tests.corpus.small_files import (
    DEV,
    SPLITS,
    TRAIN,
    aligned,
    original,
    save,
    utterances,
    write,
)


def healing_folders(tmp_path: Path, *missing: int) -> tuple[Path, Path]:
    whole = write(tmp_path / "original", "original")
    gaps = tmp_path / "aligned"
    gaps.mkdir()
    for split, lines in SPLITS.items():
        kept = [x for i, x in enumerate(lines) if split == "dev" or i not in missing]
        save(gaps / f"{split}.csv", aligned(kept))
    return gaps, whole


def test_missing_lines_return_as_context_in_their_places(tmp_path: Path) -> None:
    gaps, whole = healing_folders(tmp_path, 0, 2, 3)
    healed = read_corpus(gaps, heal_from=whole)
    assert healed.healed
    assert healed.version == "aligned"
    assert [u.text for u in utterances(healed)] == [x.text for x in TRAIN + DEV]
    assert [i for i, u in enumerate(utterances(healed)) if not u.target] == [0, 2, 3]
    assert [u.label for u in utterances(healed) if not u.target] == [None] * 3
    assert healed.split("train")[0].utterances[2].speakers == ("Ada Quill", "Bo Farrow")
    assert "gap-healed: 3 missing lines were added as context only (train 3, dev 0)" in healed.warnings
    assert [name for name, _ in healed.files] == [
        "aligned/train.csv", "aligned/dev.csv", "original/train.txt", "original/dev.txt",
    ]  # fmt: skip


def test_healing_changes_no_target(tmp_path: Path) -> None:
    gaps, whole = healing_folders(tmp_path, 1, 5)
    plain, healed = read_corpus(gaps), read_corpus(gaps, heal_from=whole)
    assert [u for u in utterances(healed) if u.target] == utterances(plain)
    assert [d.id for d in healed.dialogues()] == [d.id for d in plain.dialogues()]


def test_a_scene_that_aligned_lacks_altogether_stays_away(tmp_path: Path) -> None:
    gaps, whole = healing_folders(tmp_path, 3, 4)
    assert [d.id for d in read_corpus(gaps, heal_from=whole).split("train")] == ["s01_e01_c01", "s01_e03_c01"]


def test_healing_tells_where_the_versions_disagree(tmp_path: Path) -> None:
    gaps, whole = healing_folders(tmp_path, 0)
    other = [TRAIN[0], TRAIN[1]._replace(text="Then we wear the carpets."), *TRAIN[3:5]]
    save(whole / "train.txt", original(other))
    healed = read_corpus(gaps, heal_from=whole)
    first = healed.split("train")[0]
    assert [u.text for u in first.utterances] == [x.text for x in TRAIN[:3]]
    assert "text differs between aligned (kept) and original: s01_e01_c01_u002" in healed.warnings
    assert "utterance of aligned that is missing from original, kept: s01_e01_c01_u003" in healed.warnings
    assert "scene not healed: it is missing from original: s01_e03_c01" in healed.warnings


def test_only_aligned_can_be_healed_and_only_from_its_original(tmp_path: Path) -> None:
    gaps, whole = healing_folders(tmp_path)
    with pytest.raises(CorpusError, match="found original and original"):
        read_corpus(whole, heal_from=whole)
    with pytest.raises(CorpusError, match="found aligned and aligned"):
        read_corpus(gaps, heal_from=gaps)
    elsewhere = save(tmp_path / "other.json", original([x._replace(season=9) for x in DEV]))
    with pytest.raises(CorpusError, match="'aligned' and 'other' share no scene"):
        read_corpus(gaps, heal_from=elsewhere)
    with pytest.raises(CorpusError, match="no such file"):
        read_corpus(gaps, heal_from=tmp_path / "nothing")
