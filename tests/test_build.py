"""From a configuration to live objects: the corpus as training sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.build import build_prompter, training_view
from erc_llm.config import RunConfig, load_config
from erc_llm.corpus import read_corpus, read_sample
from erc_llm.corpus.dialogues import LEFT_OUT
from erc_llm.corpus.splits import leave_out
from erc_llm.recipes.data import open_corpus
from erc_llm.recipes.predict import open_to_predict
from tests.tiny_models import TinyModel
from tests.tiny_runs import write_corpus


def sample_config(tiny: TinyModel, evaluations: int) -> RunConfig:
    overrides = (f"model.base={tiny.folder}", f"training.evaluations={evaluations}", "profile.writer=statistics")
    return load_config("sample", overrides)


@pytest.mark.parametrize("evaluations", [0, 3])
def test_profiles_know_in_use_what_they_knew_in_training(tiny_llama: TinyModel, evaluations: int) -> None:
    """Without selection scores, training holds nothing out, and neither may prediction."""
    config = sample_config(tiny_llama, evaluations)
    trained_on = open_corpus(config.corpus, config.label_set(), cut_selection=evaluations > 0)
    training = build_prompter(config, trained_on.labels, tiny_llama.tokenizer, past=trained_on)
    for split in ("dev", "test"):
        data = open_to_predict(config, None, None, split, Console(quiet=True))
        used = build_prompter(config, data.corpus.labels, tiny_llama.tokenizer, past=data.past)
        for dialogue in data.corpus.split(split):
            assert used.scene(dialogue).profiles == training.scene(dialogue).profiles


def test_what_is_held_out_shows_in_profiles(tiny_llama: TinyModel) -> None:
    """Else the test above would see no difference."""
    corpus = read_sample()
    known = [
        build_prompter(sample_config(tiny_llama, n), corpus.labels, tiny_llama.tokenizer, past=corpus) for n in (0, 3)
    ]
    scenes = [*corpus.split("dev"), *corpus.split("test")]
    assert any(known[0].scene(d).profiles != known[1].scene(d).profiles for d in scenes)


def test_the_view_is_decided_by_the_configuration(tiny_llama: TinyModel) -> None:
    corpus = read_sample()
    assert training_view(corpus, sample_config(tiny_llama, 0)) is corpus
    cut = training_view(corpus, sample_config(tiny_llama, 3))
    assert "selection" in cut.splits
    assert training_view(cut, sample_config(tiny_llama, 3)) is cut


def test_the_rows_of_train_do_not_depend_on_the_profile_writer(tiny_llama: TinyModel, tmp_path: Path) -> None:
    for writer in ("none", "statistics"):
        config = load_config("sample", [f"model.base={tiny_llama.folder}", f"profile.writer={writer}"])
        data = open_to_predict(config, None, None, "train", Console(quiet=True))
        assert data.corpus.split("train") == read_sample().split("train")


def test_a_fold_is_left_out_of_its_own_corpus_and_not_of_one_with_fewer_episodes(tmp_path: Path) -> None:
    fold = {"number": 2, "folds": 5}
    many, few = (read_corpus(write_corpus(tmp_path / name, train=n)) for name, n in (("many", 24), ("few", 4)))
    config = RunConfig.model_validate({"corpus": {"fold": fold}, "training": {"evaluations": 0}})
    cut = training_view(many, config)
    assert len(cut.split("train")) + len(cut.split(LEFT_OUT)) == 24
    assert cut.split(LEFT_OUT) == leave_out(many, 2, 5).split(LEFT_OUT)
    assert training_view(cut, config) is cut
    assert training_view(few, config) is few
