"""From a corpus to a run and to predictions: what lies in the run directory, who may resume, who can load it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from erc_llm.adapters import attach_lora, save_adapter
from erc_llm.config import RunConfig
from erc_llm.corpus import read_corpus
from erc_llm.errors import ConfigError, CorpusError, ModelError, RunError
from erc_llm.evaluation.report import evaluate
from erc_llm.pipeline import open_corpus, predict, train_shares
from erc_llm.predictions import Correction, Predictions, correct, read_predictions, write_predictions
from erc_llm.predictor import load
from erc_llm.prompting.examples import Prompter
from erc_llm.runs import Run, append_line, read_lines, read_run, write_manifest
from erc_llm.training import train, training_scenes
from erc_llm.tuning.selection import evaluation_steps, score_figures
from tests.tiny_models import TinyModel, random_llama, save_tiny
from tests.tiny_runs import as_json, dialogue, tiny_config, write_corpus

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("pipeline") / "corpus")


@pytest.fixture(scope="module")
def finished(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of a few steps; read it, do not change it."""
    return train(tiny_config(tiny_llama, corpus, tmp_path_factory.mktemp("runs")), console=QUIET)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Path:
    """A copy of the finished run, to spoil."""
    return Path(shutil.copytree(finished.folder, tmp_path / finished.folder.name))


def _same(finished: Run, output: Path, **sections: Any) -> RunConfig:
    """The finished run's configuration with other values, written beside the copy in `output`."""
    content = finished.config.model_dump() | {"output": str(output)}
    for name, values in sections.items():
        content[name] = content[name] | values if isinstance(values, dict) else values
    return RunConfig.model_validate(content)


def _rows(table: Predictions) -> list[dict[str, Any]]:
    columns = table.columns()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_a_run_directory_explains_itself(finished: Run, tiny_llama: TinyModel, corpus: Path) -> None:
    folder, manifest = finished.folder, finished.manifest
    assert {p.name for p in folder.iterdir()} == {
        "adapter",
        "config.yaml",
        "manifest.json",
        "selection.jsonl",
        "prompt.jinja",
        "training.jsonl",
    }
    assert {p.name for p in finished.adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert read_run(folder).config == finished.config
    data = open_corpus(finished.config.corpus, finished.config.label_set())
    assert manifest.status == "finished"
    assert manifest.config_sha256 == finished.config.sha256
    assert manifest.run_id == f"tiny-{finished.config.sha256[:8]}"
    assert manifest.corpus_sha256 == data.sha256
    assert (manifest.corpus_name, manifest.corpus_version, manifest.healed) == ("corpus", "own", False)
    assert (manifest.seed, manifest.context) == (13, "past")
    assert len(manifest.template_sha256) == len(manifest.base_model_sha256) == 64
    assert manifest.versions["torch"] == torch.__version__
    labels = [u.label for d in data.split("train") for u in d.utterances]
    assert manifest.train_shares == pytest.approx([labels.count(name) / len(labels) for name in manifest.labels])


def test_the_logs_tell_the_training(finished: Run) -> None:
    steps = [record["step"] for record in read_lines(finished.folder / "training.jsonl")]
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > 3
    last = read_lines(finished.folder / "training.jsonl")[-1]
    assert last["epoch"] == pytest.approx(1)
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second"} <= last.keys()
    scores = read_lines(finished.folder / "selection.jsonl")
    assert [record["step"] for record in scores] == sorted(evaluation_steps(steps[-1], 2))
    assert all({"weighted_f1", "macro_f1", "accuracy", "nll", "best", "seconds"} <= r.keys() for r in scores)


def test_a_run_names_no_folder_of_this_machine_but_those_it_was_given(finished: Run) -> None:
    manifest = (finished.folder / "manifest.json").read_text(encoding="utf-8")
    assert str(Path.cwd()) not in manifest
    assert str(Path.home()) not in manifest or str(Path.home()) == "/"


def test_the_selection_split_is_never_trained_on(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path)
    data = open_corpus(config.corpus, config.label_set())
    held_out = {d.id for d in data.split("selection")}
    assert held_out
    trained: set[str] = set()
    scored: set[str] = set()
    original = Prompter.trees

    def spy(self: Any, scene: Any, answers: Any, **options: Any) -> Any:
        (trained if answers == "gold" else scored).add(scene.id)
        return original(self, scene, answers, **options)

    monkeypatch.setattr(Prompter, "trees", spy)
    train(config, console=QUIET)
    assert trained == {d.id for d in data.split("train")}
    assert not trained & held_out
    assert scored == held_out | {"probe"}  # two invented lines, on which every model is checked first


def test_training_is_reproducible(finished: Run, tmp_path: Path) -> None:
    again = train(_same(finished, tmp_path), console=QUIET)
    other = train(_same(finished, tmp_path, name="other", seed=14), console=QUIET)
    one, two, three = (load_file(r.adapter / "adapter_model.safetensors") for r in (finished, again, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)


def test_an_existing_run_is_not_overwritten(finished: Run, run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=r"this run exists \(finished\).*--resume"):
        train(_same(finished, run.parent), console=QUIET)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_folder_that_is_no_run_is_left_alone(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("two years of work", encoding="utf-8")
    for resume in (False, True):
        with pytest.raises(RunError, match="not a run"):
            train(_same(finished, tmp_path), resume=resume, console=QUIET)
    assert [p.name for p in (tmp_path / "tiny").iterdir()] == ["thesis.txt"]


def test_resuming_with_another_configuration_names_what_changed(finished: Run, run: Path) -> None:
    other = _same(finished, run.parent, lora={"rank": 2}, training={"epochs": 2}, seed=14)
    with pytest.raises(RunError, match="cannot resume") as caught:
        train(other, resume=True, console=QUIET)
    changed = str(caught.value).partition("changed: ")[2].split(", ")
    assert sorted(changed) == ["lora.rank", "seed", "training.epochs"]


def test_resuming_a_finished_run_changes_nothing(finished: Run, run: Path) -> None:
    before = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert train(_same(finished, run.parent), resume=True, console=QUIET).manifest.status == "finished"
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize("changed", ["corpus", "model"])
def test_resuming_on_other_data_or_another_model_is_refused(
    changed: str, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """The files changed under the same names: going on would mix two trainings in one adapter."""
    data = write_corpus(tmp_path / "corpus")
    model = Path(shutil.copytree(tiny_llama.folder, tmp_path / "model"))
    config = tiny_config(model, data, tmp_path)
    started = train(config, console=QUIET)
    write_manifest(started.folder, replace(started.manifest, status="training"))
    if changed == "corpus":
        write_corpus(tmp_path / "corpus", train=12)
    else:
        save_tiny(model, tiny_llama.tokenizer, random_llama(tiny_llama.tokenizer, seed=9))
    with pytest.raises(RunError, match=changed):
        train(config, resume=True, console=QUIET)


def test_plain_peft_loads_the_adapter_with_the_same_logits(finished: Run, tiny_llama: TinyModel) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama.folder, dtype=torch.float32)
    base_before = plain(torch.tensor([[5, 6, 7]])).logits
    adapted = PeftModel.from_pretrained(plain, str(finished.adapter)).eval()
    ours = load(finished.folder)
    ids = tiny_llama.tokenizer("Mara Voss: The kettle has gone again.", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = adapted(ids).logits
        assert torch.allclose(ours.loaded.model(ids).logits, expected, atol=1e-5)
        assert not torch.allclose(adapted(torch.tensor([[5, 6, 7]])).logits, base_before, atol=1e-3)
    content = json.loads((finished.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert content["base_model_name_or_path"] == str(tiny_llama.folder)
    assert (content["r"], content["lora_alpha"]) == (4, 8)


def test_the_kept_adapter_is_the_one_that_scored_best(finished: Run) -> None:
    """Scoring the kept adapter on the selection split again gives the best score of the log."""
    predictor = load(finished.folder)
    data = open_corpus(finished.config.corpus, finished.config.label_set())
    figures = score_figures(predictor.loaded.model, predictor.prompter, data.split("selection"), 4096)
    best = max(read_lines(finished.folder / "selection.jsonl"), key=lambda record: float(record["weighted_f1"]))
    assert figures["weighted_f1"] == pytest.approx(best["weighted_f1"])
    assert figures["nll"] == pytest.approx(best["nll"], abs=1e-3)


def test_the_adapter_is_kept_by_scores_as_predict_corrects_them(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """Under balanced classes the log of selection scores equals the table that `predict` makes by default."""
    corpus = write_corpus(tmp_path / "corpus", train=12)
    sections: dict[str, Any] = {"sampling": {"scheme": "inverse_frequency"}, "training": {"evaluations": 1}}
    run = train(tiny_config(tiny_llama, corpus, tmp_path, **sections), console=QUIET)
    data = open_corpus(run.config.corpus, run.config.label_set())
    table = predict(load(run.folder), data, "selection")
    assert table.info.prior is not None
    (record,) = read_lines(run.folder / "selection.jsonl")
    figures = evaluate(table, draws=10)
    assert record["nll"] == pytest.approx(figures.negative_log_likelihood, abs=1e-3)
    raw = correct(table, Correction())
    assert record["nll"] != pytest.approx(evaluate(raw, draws=10).negative_log_likelihood, abs=1e-2)


def test_steps_that_overrun_their_budget_for_lack_of_scenes_are_told(
    tiny_llama: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus", train=12)
    cramped: dict[str, Any] = {"tokens_per_step": 64, "accumulation": 3, "evaluations": 0}
    train(tiny_config(tiny_llama, corpus, tmp_path, training=cramped), console=Console(width=400))
    assert (
        "have more than training.tokens_per_step=64 tokens, as each needs at least 3 scenes" in capsys.readouterr().out
    )


def test_predictions_are_written_with_where_they_come_from(finished: Run, tmp_path: Path) -> None:
    predictor = load(finished.adapter)
    data = open_corpus(finished.config.corpus, finished.config.label_set(), cut_selection=False)
    seen: list[int] = []
    table = predict(predictor, data, "dev", on_progress=seen.append)
    targets = [(d.id, u.id, u.label) for d in data.split("dev") for u in d.utterances]
    rows = _rows(table)
    assert [(r["dialogue_id"], r["utterance_id"], r["gold"]) for r in rows] == targets
    assert seen[-1] == len(data.split("dev"))
    for row in rows:
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-6)
        assert row["predicted"] == table.info.labels[max(range(7), key=row["probabilities"].__getitem__)]
        assert 0 <= row["label_mass"] <= 1
    info, manifest = table.info, finished.manifest
    assert (info.run_id, info.split, info.context, info.seed) == (manifest.run_id, "dev", "past", 13)
    assert info.corpus_sha256 == data.sha256
    assert info.config_sha256 == manifest.config_sha256
    assert info.recipe_sha256 == finished.config.recipe_sha256
    assert info.selection == "selection", "training scores the selection split and keeps the best"
    assert info.template_sha256 == manifest.template_sha256
    assert info.base_model_sha256 == manifest.base_model_sha256
    assert info.train_shares == pytest.approx(manifest.train_shares)
    assert info.training_prior == manifest.training_prior == manifest.train_shares
    write_predictions(table, tmp_path / "dev.parquet")
    assert read_predictions(tmp_path / "dev.parquet").info == info


def test_the_predictions_of_unlabelled_lines_have_no_gold(finished: Run, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", labels=False)
    table = predict(load(finished.folder), read_corpus(folder), "dev")
    assert len(table) > 0
    assert table.gold is None


def test_scores_do_not_depend_on_the_token_budget(finished: Run) -> None:
    """A scene that alone exceeds the budget is read on its trunk's cache; 1e-3 nats, as sums go in another order."""
    data = read_corpus(finished.config.corpus.path)
    wide = load(finished.folder)
    narrow = load(finished.folder)
    narrow.config = _same(finished, Path("unused"), scoring={"tokens_per_forest": 64})
    for one, other in zip(wide.scores(data.split("dev")), narrow.scores(data.split("dev")), strict=True):
        assert [s.target for s in one] == [s.target for s in other]
        for a, b in zip(one, other, strict=True):
            assert a.log_likelihoods == pytest.approx(b.log_likelihoods, abs=1e-3)


def test_a_configuration_alone_predicts_zero_shot(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    predictor = load(tiny_config(tiny_llama, corpus, tmp_path))
    assert predictor.run is None
    data = open_corpus(predictor.config.corpus, predictor.labels)
    table = predict(predictor, data, "dev")
    assert table.info.run_id is None
    assert table.info.training_prior is None
    assert "zero-shot" in table.info.system
    assert table.info.train_shares == pytest.approx(train_shares(data.split("train"), predictor.labels))
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_shape_does_not_fit(run: Path, tiny_llama: TinyModel) -> None:
    shutil.rmtree(run / "adapter")
    wider = random_llama(tiny_llama.tokenizer, hidden=128)
    save_adapter(attach_lora(wider, rank=4, alpha=8, dropout=0.0, seed=1), run / "adapter")
    with pytest.raises(ModelError, match=r"lora_A.*256.*128"):
        load(run)


def test_another_base_model_under_the_same_name_is_refused(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_llama.folder, tmp_path / "model"))
    run = train(tiny_config(model, corpus, tmp_path, training={"evaluations": 0}), console=QUIET)
    assert run.manifest.base_model_sha256[:12]
    save_tiny(model, tiny_llama.tokenizer, random_llama(tiny_llama.tokenizer, seed=9))
    with pytest.raises(ModelError, match="base model") as caught:
        load(run.folder)
    assert run.manifest.base_model_sha256[:12] in str(caught.value)
    shutil.rmtree(model)
    with pytest.raises(ModelError, match="no such folder"):
        load(run.folder)


def test_a_base_model_that_is_not_there_leaves_no_run(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        train(tiny_config(tmp_path / "no-model", corpus, tmp_path / "runs"), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_layers_that_do_not_exist_leave_no_run(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path / "runs", lora={"target_modules": ["no_such_layer"]})
    with pytest.raises(ModelError, match="no_such_layer"):
        train(config, console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_an_unfinished_run_is_not_loaded_unawares(run: Path) -> None:
    write_manifest(run, replace(read_run(run).manifest, status="training"))
    with pytest.raises(RunError, match="--resume"):
        load(run)


def test_a_run_without_its_adapter_says_so(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    with pytest.raises(ModelError, match="adapter_config"):
        load(run)


def test_without_evaluations_the_last_adapter_is_kept(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    run = train(tiny_config(tiny_llama, corpus, tmp_path, training={"evaluations": 0}), console=QUIET)
    assert not (run.folder / "selection.jsonl").exists()
    assert (run.adapter / "adapter_model.safetensors").is_file()


def test_without_evaluations_one_episode_is_enough(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", train=2)
    train(tiny_config(tiny_llama, folder, tmp_path / "runs", training={"evaluations": 0}), console=QUIET)


def test_more_accumulation_than_scenes_still_ends_with_an_adapter(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", train=4)
    training = {"accumulation": 4, "epochs": 3, "evaluations": 1}
    run = train(tiny_config(tiny_llama, folder, tmp_path / "runs", training=training), console=QUIET)
    assert (run.adapter / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("options", [{"shuffle_labels": True}, {"context": "full"}, {"trunk_budget": 64}])
def test_every_kind_of_prompt_trains_and_predicts(
    options: dict[str, Any], tiny_llama: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    run = train(tiny_config(tiny_llama, corpus, tmp_path, prompt=options), console=QUIET)
    data = read_corpus(corpus)
    predictor = load(run.folder)
    table = predict(predictor, data, "dev")
    assert len(table) == sum(len(d.targets) for d in data.split("dev"))
    if "context" in options:
        with pytest.raises(ConfigError, match=r"prompt\.context"):
            predictor.live()


def test_a_base_model_without_a_chat_template_takes_the_plain_prompt(
    tiny_llama2_base: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    run = train(tiny_config(tiny_llama2_base, corpus, tmp_path, prompt={"template": "plain"}), console=QUIET)
    assert len(predict(load(run.folder), read_corpus(corpus), "dev")) > 0


def test_tensorboard_events_outlive_the_training(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    training = {"report_to": ["tensorboard"], "evaluations": 0}
    run = train(tiny_config(tiny_llama, corpus, tmp_path, training=training), console=QUIET)
    assert list(run.folder.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("total", "evaluations", "expected"),
    [(9, 3, {3, 6, 9}), (10, 1, {10}), (10, 0, set()), (2, 5, {1, 2}), (1, 3, {1}), (7, 2, {4, 7})],
)
def test_evaluations_are_evenly_spaced_and_end_with_the_last_step(
    total: int, evaluations: int, expected: set[int]
) -> None:
    assert evaluation_steps(total, evaluations) == expected


@pytest.mark.parametrize("total", range(1, 30))
def test_the_last_step_is_always_scored(total: int) -> None:
    for evaluations in range(1, 8):
        steps = evaluation_steps(total, evaluations)
        assert max(steps) == total
        assert min(steps) >= 1
        assert len(steps) == min(total, evaluations) or total < 2 * evaluations


def test_a_train_split_without_labels_is_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", labels=False)
    with pytest.raises(CorpusError, match="no labelled utterance in train"):
        train(tiny_config(tiny_llama, folder, tmp_path / "runs"), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_a_corpus_without_train_is_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    (folder / "train.jsonl").unlink()
    with pytest.raises(CorpusError, match="no split 'train'"):
        train(tiny_config(tiny_llama, folder, tmp_path / "runs"), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_a_selection_split_without_labels_is_refused_before_training(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    rows = [json.dumps(as_json(dialogue(0, 3, season=3), labels=False))]
    (folder / "selection.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="selection"):
        train(tiny_config(tiny_llama, folder, tmp_path / "runs"), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_the_sample_with_other_labels_is_a_clear_error(tiny_llama: TinyModel, tmp_path: Path) -> None:
    config = tiny_config(tiny_llama, Path("sample"), tmp_path / "runs")
    config = RunConfig.model_validate(config.model_dump() | {"corpus": {"labels": {"names": ["calm", "cross"]}}})
    with pytest.raises(ConfigError):
        train(config, console=QUIET)


def test_a_few_scenes_are_drawn_by_seed_and_kept_in_order(corpus: Path) -> None:
    data = read_corpus(corpus)
    drawn = [tuple(d.id for d in training_scenes(data, 4, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    order = [d.id for d in data.split("train")]
    assert sorted(drawn[0], key=order.index) == list(drawn[0])
    assert len(training_scenes(data, None, 1)) == len(training_scenes(data, 99, 1)) == len(order)


BALANCED = {
    "drawn": {"scheme": "inverse_frequency"},
    "weighted": {"loss_weights": "inverse_frequency"},
    "unnormalised": {"loss_weights": "inverse_frequency", "normalised": False},
}


@pytest.fixture(scope="module")
def balanced(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The finished run's configuration, with classes balanced."""
    folder = tmp_path_factory.mktemp("balanced")
    return {
        name: train(_same(finished, folder, name=name, sampling={**sampling, "allow_absent": True}), console=QUIET)
        for name, sampling in BALANCED.items()
    }


def test_every_way_to_balance_is_another_training(finished: Run, balanced: dict[str, Run]) -> None:
    runs = [finished, *balanced.values()]
    weights = [load_file(run.adapter / "adapter_model.safetensors") for run in runs]
    for one, other in combinations(weights, 2):
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_run_and_its_predictions_know_the_prior_that_training_saw(
    finished: Run, balanced: dict[str, Run], corpus: Path
) -> None:
    shares = finished.manifest.train_shares
    flat = [bool(share) / sum(map(bool, shares)) for share in shares]
    assert max(shares) > 1.2 * max(flat)
    for run in balanced.values():
        assert run.manifest.train_shares == shares
        assert run.manifest.training_prior == pytest.approx(flat)
    table = predict(load(balanced["drawn"].folder), read_corpus(corpus), "dev")
    assert table.info.training_prior == pytest.approx(flat)


def test_a_balanced_training_is_reproducible(finished: Run, balanced: dict[str, Run], tmp_path: Path) -> None:
    for name, run in balanced.items():
        again = train(_same(finished, tmp_path, **run.config.model_dump(include={"name", "sampling"})), console=QUIET)
        one, two = (load_file(r.adapter / "adapter_model.safetensors") for r in (run, again))
        assert all(torch.equal(one[k], two[k]) for k in one), name


def test_an_absent_class_is_refused_before_there_is_a_run(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", train=2)
    training, sampling = {"evaluations": 0}, {"scheme": "inverse_frequency"}
    with pytest.raises(CorpusError, match=r"sampling\.scheme=inverse_frequency: .* labelled .*allow_absent"):
        train(tiny_config(tiny_llama, folder, tmp_path / "runs", training=training, sampling=sampling), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_own_labels_reach_the_predictions(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for season, split in ((1, "train"), (2, "dev")):
        rows = [as_json(dialogue(i, 3, season)) for i in range(6)]
        for row in rows:
            for k, line in enumerate(row["utterances"]):
                line["label"] = ("calm", "CROSS", "angry")[k]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    labels = {"names": ["calm", "cross"], "neutral": "calm", "spellings": {"angry": "cross"}}
    run = train(tiny_config(tiny_llama, folder, tmp_path, corpus={"labels": labels}), console=QUIET)
    assert run.manifest.labels == ("calm", "cross")
    assert run.manifest.train_shares == pytest.approx((1 / 3, 2 / 3))
    predictor = load(run.folder)
    data = read_corpus(folder, labels=predictor.labels)
    table = predict(predictor, data, "dev")
    assert set(table.predicted) <= {"calm", "cross"}
    assert table.info.labels == ("calm", "cross")


def test_an_interrupted_log_is_taken_up_where_the_checkpoint_stands(finished: Run, run: Path) -> None:
    """No checkpoint: the training starts anew and its logs do too."""
    write_manifest(run, replace(finished.manifest, status="training"))
    append_line(run / "training.jsonl", {"step": 99, "loss": 1.0})
    again = train(_same(finished, run.parent), resume=True, console=QUIET)
    expected = [record["step"] for record in read_lines(finished.folder / "training.jsonl")]
    assert [record["step"] for record in read_lines(again.folder / "training.jsonl")] == expected
