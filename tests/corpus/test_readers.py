from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from erc_llm.corpus import LabelSet, Utterance, read_corpus, read_sample
from erc_llm.errors import CorpusError
from tests.corpus.small_files import (
    DEV,
    FORMATS,
    TRAIN,
    aligned,
    compm,
    dialogue,
    jsonl,
    original,
    own,
    save,
    utterances,
    write,
)

# The same scenes in four formats


@pytest.mark.parametrize("version", FORMATS)
def test_the_format_is_told_by_content_and_the_split_by_name(version: str, tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path / "tiny", version))
    assert (corpus.version, corpus.name) == (version, "tiny")
    assert list(corpus.splits) == ["train", "dev"]
    assert [u.text for u in utterances(corpus)] == [line.text for line in TRAIN + DEV]
    assert [u.label for u in utterances(corpus)] == [line.label for line in TRAIN + DEV]
    assert all(u.target for u in utterances(corpus))
    assert corpus.warnings == ()


def test_ids_of_original_and_aligned_are_the_same_and_can_be_joined(tmp_path: Path) -> None:
    first = read_corpus(write(tmp_path / "a", "original"))
    second = read_corpus(write(tmp_path / "b", "aligned"))
    assert first.splits == second.splits
    assert first.sha256 == second.sha256
    assert first.split("train")[0].id == "s01_e01_c01"
    assert first.split("train")[0].utterances[0].id == "s01_e01_c01_u001"


def test_speakers_are_lists_and_everyone_is_a_name(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path, "aligned"))
    assert [u.speakers for u in utterances(corpus)] == [tuple(line.speakers) for line in TRAIN + DEV]


def test_compm_dialogues_are_numbered_in_the_order_of_the_file(tmp_path: Path) -> None:
    train = read_corpus(write(tmp_path, "compm")).split("train")
    assert [d.id for d in train] == ["train_0001", "train_0002", "train_0003"]
    assert train[1].utterances[0].id == "train_0002_u001"
    assert train[0].time is None


@pytest.mark.parametrize("version", ["original", "aligned", "own"])
def test_dialogues_stand_in_time_order(version: str, tmp_path: Path) -> None:
    mixed = TRAIN[5:] + TRAIN[3:5] + TRAIN[:3]
    corpus = read_corpus(save(tmp_path / "train.txt", FORMATS[version](mixed)))
    assert [d.time for d in corpus.split("train")] == [(1, 1, 1), (1, 1, 2), (1, 3, 1)]


def test_json_on_a_single_line_is_recognised_too(tmp_path: Path) -> None:
    assert read_corpus(save(tmp_path / "dev.json", original(DEV, indent=None))).version == "original"


def test_csv_rows_are_put_into_the_order_of_their_numbers(tmp_path: Path) -> None:
    corpus = read_corpus(save(tmp_path / "dev.csv", aligned([DEV[0], DEV[2], DEV[1]])))
    assert [u.id[-3:] for u in utterances(corpus)] == ["001", "002", "003"]
    place = f"{tmp_path.name}/dev.csv:4"
    assert corpus.warnings == (f"row moved to the order of Utterance_ID: s01_e02_c01_u002 ({place})",)


def test_csv_may_be_separated_by_semicolons_and_have_further_columns(tmp_path: Path) -> None:
    text = "No;Utterance;Speaker;Emotion;Scene_ID;Utterance_ID;Season;Episode\n9;Hm; really?;['Ada'];sad;1;1;1.0;2\n"
    corpus = read_corpus(save(tmp_path / "dev.csv", text.replace("Hm; really?", '"Hm; really?"')))
    assert utterances(corpus) == [Utterance("s01_e02_c01_u001", ("Ada",), "Hm; really?", "Sad")]


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    for version, render in FORMATS.items():
        plain = read_corpus(save(tmp_path / "dev.txt", render(DEV)))
        (tmp_path / "dev.txt").write_bytes(b"\xef\xbb\xbf" + render(DEV).replace("\n", "\r\n").encode())
        assert read_corpus(tmp_path / "dev.txt").splits == plain.splits, version


# Splits and folders


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("emotion-detection-trn.json", "train"),
        ("EMORY_train.txt", "train"),
        ("valid.jsonl", "dev"),
        ("my.val.csv", "dev"),
        ("emorynlp_test_final.csv", "test"),
        ("tst", "test"),
        ("selection.jsonl", "selection"),
        ("latest_contest.jsonl", "all"),
    ],
)
def test_the_split_a_name_tells(file: str, split: str, tmp_path: Path) -> None:
    assert list(read_corpus(save(tmp_path / file, own(DEV))).splits) == [split]


def test_a_dialogue_that_names_its_split_wins_over_the_file(tmp_path: Path) -> None:
    rows = jsonl(dialogue("a", "x", split="tst"), dialogue("b", "x"), dialogue("c", "x", split="fold7"))
    splits = read_corpus(save(tmp_path / "train.jsonl", rows)).splits
    assert {name: [d.id for d in ds] for name, ds in splits.items()} == {"train": ["b"], "test": ["a"], "fold7": ["c"]}


def test_without_episodes_the_order_of_time_is_that_of_the_file_whatever_the_splits(tmp_path: Path) -> None:
    splits = {"d1": "dev", "d2": "train", "d3": "test", "d4": "train", "d5": "dev"}
    rows = [dialogue(name, "Mind the step.", split=split) for name, split in splits.items()]
    corpus = read_corpus(save(tmp_path / "all.jsonl", jsonl(*rows)))
    assert [d.id for d in corpus.dialogues()] == list(splits)
    assert {d.id: split for split, d in corpus.in_time} == splits
    assert [d.id for d in corpus.split("train")] == ["d2", "d4"]


def test_with_episodes_the_order_of_the_file_tells_nothing(tmp_path: Path) -> None:
    rows = [dialogue(f"d{e}", "Mind the step.", episode=e, split="dev" if e % 2 else "train") for e in (3, 1, 2)]
    corpus = read_corpus(save(tmp_path / "all.jsonl", jsonl(*rows)))
    assert corpus.order == ()
    assert [d.id for d in corpus.dialogues()] == ["d1", "d2", "d3"]


def test_a_name_that_tells_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"states 2 splits \(dev, train\)"):
        read_corpus(save(tmp_path / "train_and_dev.jsonl", own(DEV)))


def test_a_folder_passes_over_what_is_no_split_and_says_so_of_data(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", "own", ".jsonl")
    save(folder / "README.md", "# Mine")
    save(folder / "LICENSE.txt", "Apache")
    save(folder / "more.jsonl", own(DEV))
    save(folder / "test.csv.gz", "x")
    (folder / "old_train").mkdir()
    corpus = read_corpus(folder)
    assert list(corpus.splits) == ["train", "dev"]
    assert len(corpus.warnings) == 2
    assert "more.jsonl" in corpus.warnings[0]
    assert "test.csv.gz" in corpus.warnings[1]


def test_a_folder_with_a_single_file_of_all_splits(tmp_path: Path) -> None:
    rows = jsonl(dialogue("a", "x", split="train"), dialogue("b", "x", split="dev"))
    save(tmp_path / "everything.jsonl", rows)
    assert list(read_corpus(tmp_path).splits) == ["train", "dev"]


def test_several_files_of_one_split_are_read_one_after_the_other(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path / f"train_{number}.txt", compm(DEV))
    assert [d.id for d in read_corpus(tmp_path).split("train")] == ["train_0001", "train_0002"]


def test_a_folder_that_mixes_formats_names_the_files(tmp_path: Path) -> None:
    save(tmp_path / "train.csv", aligned(TRAIN))
    save(tmp_path / "dev.json", original(DEV))
    with pytest.raises(CorpusError, match=r"train\.csv is CSV .*dev\.json is EmoryNLP JSON"):
        read_corpus(tmp_path)


def test_a_folder_of_corpora_names_what_is_in_it(tmp_path: Path) -> None:
    write(tmp_path / "aligned", "aligned")
    save(tmp_path / "README.txt", "x")
    with pytest.raises(CorpusError, match=r"no split files in this folder; .*found README\.txt, aligned/"):
        read_corpus(tmp_path)


def test_the_hashes_of_the_files_are_kept_without_the_machines_paths(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path / "tiny", "own"))
    assert [name for name, _ in corpus.files] == ["tiny/train.txt", "tiny/dev.txt"]
    assert all(len(digest) == 64 for _, digest in corpus.files)


# Labels and names


def test_a_label_set_of_ones_own(tmp_path: Path) -> None:
    labels = LabelSet(("joy", "anger"), {"Joyful": "joy"})
    rows = jsonl({"id": "a", "utterances": [{"speaker": "x", "text": "x", "label": "joyful"}]})
    corpus = read_corpus(save(tmp_path / "train.jsonl", rows), labels=labels)
    assert utterances(corpus)[0].label == "joy"
    assert corpus.labels is labels


@pytest.mark.parametrize(("version", "line"), [("original", 54), ("aligned", 6), ("compm", 6), ("own", 2)])
def test_an_unknown_label_is_named_with_file_and_line(version: str, line: int, tmp_path: Path) -> None:
    lines = [x._replace(label="Wistful") if x.text.startswith("It was") else x for x in TRAIN]
    path = save(tmp_path / "train.txt", FORMATS[version](lines))
    with pytest.raises(CorpusError, match=r"label 'Wistful' of utterance '\w+_u002' is not one of Joyful") as caught:
        read_corpus(path)
    assert (caught.value.path, caught.value.line) == (path, line)
    if version != "own":
        assert "Wistful" in path.read_text().split("\n")[line - 1]


def test_the_line_of_a_json_label_is_right_even_beside_lines_that_quote_json(tmp_path: Path) -> None:
    lines = [DEV[0]._replace(text='{"emotion": "Sad", "utterance_id": 3}'), DEV[1]._replace(label="Wistful")]
    path = save(tmp_path / "dev.json", original(lines))
    with pytest.raises(CorpusError) as caught:
        read_corpus(path)
    assert '"Wistful"' in path.read_text().split("\n")[(caught.value.line or 0) - 1]


def test_aliases_and_generic_names(tmp_path: Path) -> None:
    folder = write(tmp_path, "original")
    corpus = read_corpus(folder, aliases={"Bo Farrow": "Ada Quill", "Zed": "Zoe"}, generic=["Porter"])
    assert utterances(corpus)[2].speakers == ("Ada Quill",)
    assert corpus.generic == {"Porter"}
    assert corpus.warnings == ("alias for a name that does not occur in the corpus: 'Zed'",)


# The package


def test_the_sample_reads_without_anything_odd() -> None:
    sample = read_sample()
    assert sample.name == "sample"
    assert list(sample.splits) == ["train", "dev", "test"]
    assert sum(len(ds) for ds in sample.splits.values()) >= 60
    assert len(utterances(sample)) >= 600
    assert {u.label for u in utterances(sample)} == set(sample.labels.names)
    assert sample.warnings == ()
    assert len({d.episode_id for d in sample.dialogues()}) >= 8


def test_importing_the_corpus_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'pandas', 'numpy', 'sklearn', 'pyarrow', 'rich', 'pydantic'}"
    code = f"import sys, erc_llm.corpus, erc_llm.corpus.summary; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
