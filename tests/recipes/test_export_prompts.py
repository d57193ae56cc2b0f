"""`erc-llm export-prompts`: the text is that of our own prompts, and TRL trains on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import load_from_disk

from erc_llm.build import build_prompter
from erc_llm.corpus import read_corpus
from erc_llm.recipes.data import with_selection
from tests.command_line import Command, refused
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config


def configured(model: TinyModel, corpus: Path, folder: Path, template: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(tiny_config(model, corpus, folder, prompt={"template": template}).as_yaml(), encoding="utf-8")
    return path


@pytest.mark.parametrize("template", ["plain", "instruct"])
def test_prompts_and_completions_are_those_of_our_trees(
    template: str, tiny_llama: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    path = configured(tiny_llama, corpus, tmp_path, template)
    done = erc("export-prompts", corpus, "--out", tmp_path / "prompts", "--config", path)
    assert done.code == 0, done.err
    rows = load_from_disk(str(tmp_path / "prompts"))["train"]
    config = tiny_config(tiny_llama, corpus, tmp_path, prompt={"template": template})
    read = with_selection(read_corpus(corpus), config.corpus)  # what training learns from
    targets = [(d.id, d.utterances[k].id) for d in read.split("train") for k in d.targets]
    assert [(row["dialogue_id"], row["utterance_id"]) for row in rows] == targets
    assert f"{len(targets)} prompts of train" in done.out
    prompter = build_prompter(config, config.label_set(), tiny_llama.tokenizer)
    scene = read.split("train")[0]
    (tree,) = prompter.trees(scene, "gold")
    for question, row in zip(tree.questions, rows, strict=False):
        whole = tiny_llama.tokenizer.decode(tree.token_ids[tree.root_path(question.answers[0][-1])])
        if template == "plain":
            assert row["prompt"] + row["completion"] == whole
        else:
            text = tiny_llama.tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
            assert text.rstrip() == whole.rstrip()


def test_what_cannot_be_written_is_refused(tiny_llama: TinyModel, corpus: Path, tmp_path: Path, erc: Command) -> None:
    path = configured(tiny_llama, corpus, tmp_path, "plain")
    refused(erc("export-prompts", corpus, "--out", tmp_path, "--config", path), "exists already")
    refused(
        erc("export-prompts", corpus, "--out", tmp_path / "x", "--config", path, "--split", "test"), "no split 'test'"
    )
    stated = ("--config", path, "state.source=predicted")
    refused(erc("export-prompts", corpus, "--out", tmp_path / "x", *stated), "state.source=none")
    assert not (tmp_path / "x").exists()


def test_the_split_that_chooses_the_step_is_a_split_of_its_own(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    path = configured(tiny_llama, corpus, tmp_path, "plain")
    options = ("--config", path)
    assert erc("export-prompts", corpus, "--out", tmp_path / "s", "--split", "selection", *options).code == 0
    assert erc("export-prompts", corpus, "--out", tmp_path / "t", *options).code == 0
    whole = ("training.evaluations=0",)
    assert erc("export-prompts", corpus, "--out", tmp_path / "w", *options, *whole).code == 0
    sizes = {n: len(load_from_disk(str(tmp_path / n))["selection" if n == "s" else "train"]) for n in "stw"}
    assert sizes["s"] > 0
    assert sizes["s"] + sizes["t"] == sizes["w"]


@pytest.mark.slow
@pytest.mark.parametrize("template", ["plain", "instruct"])
def test_trl_trains_a_step_on_it(
    template: str, tiny_llama: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    from trl import SFTConfig, SFTTrainer

    path = configured(tiny_llama, corpus, tmp_path, template)
    assert erc("export-prompts", corpus, "--out", tmp_path / "prompts", "--config", path).code == 0
    options = SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    rows = load_from_disk(str(tmp_path / "prompts"))["train"]
    trainer = SFTTrainer(tiny_llama.fresh_model(), options, train_dataset=rows, processing_class=tiny_llama.tokenizer)
    tokenizer = tiny_llama.tokenizer
    for row, seen in zip(rows, trainer.train_dataset, strict=True):
        halves: dict[int, list[int]] = {0: [], 1: []}
        for token, label in zip(seen["input_ids"], seen["labels"], strict=True):
            halves[int(label != -100)].append(token)
        prompt, answer = (tokenizer.decode(halves[k]) for k in (0, 1))
        if template == "plain":
            assert prompt == row["prompt"]
            assert answer.startswith(row["completion"])
        else:
            assert prompt == tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
            assert row["completion"][0]["content"].strip() in answer
    assert trainer.train().training_loss > 0
