"""Configurations: every mistake at once, overrides, packaged files, and the hash that resuming relies on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.ablation import read_arms
from erc_llm import config_files as config_module
from erc_llm.baselines.baseline_config import load_baseline
from erc_llm.config import RunConfig, load_config
from erc_llm.config_files import resolve_valid
from erc_llm.errors import ConfigError


def _save(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _complaint(source: str | Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value)


def test_three_mistakes_are_reported_together_with_their_fields(tmp_path: Path) -> None:
    path = _save(tmp_path, "lora: {rank: -4}\ntraining: {epochs: many}\nprompt: {context: future}\n")
    message = _complaint(path)
    lines = message.splitlines()
    assert lines[0] == f"{path}: 3 mistakes"
    assert len(lines) == 4
    for field, found in (("lora.rank", "-4"), ("training.epochs", "'many'"), ("prompt.context", "'future'")):
        [line] = [line for line in lines if line.strip().startswith(f"{field}:")]
        assert found in line


def test_mistakes_of_file_and_overrides_come_together(tmp_path: Path) -> None:
    message = _complaint(_save(tmp_path, "seed: -1\n"), "lora.rank=0", "oops", "seed.x=1")
    assert all(part in message for part in ("seed", "lora.rank", "'oops'", "'seed.x=1'")), message
    assert "(from the override lora.rank=0)" in message
    assert "key=value" in message


def test_an_unknown_key_is_an_error_that_names_its_neighbours(tmp_path: Path) -> None:
    message = _complaint(_save(tmp_path, "lora: {r: 16}\nlearning_rate: 1.0e-4\n"))
    assert "lora.r: no such field" in message
    assert "rank" in message
    assert "learning_rate: no such field" in message
    assert "training" in message


def test_an_unknown_key_inside_an_optional_section_names_its_neighbours(tmp_path: Path) -> None:
    message = _complaint(_save(tmp_path, "corpus: {labels: {names: [a, b], colour: red}}\n"))
    assert "corpus.labels.colour: no such field" in message
    assert "spellings" in message


def test_overrides_replace_fields_and_are_read_as_yaml(tmp_path: Path) -> None:
    path = _save(tmp_path, "lora: {rank: 8}\n")
    config = load_config(
        path,
        [
            "lora.rank=32",
            "training.learning_rate=2e-4",
            "training.patience=null",
            "training.report_to=[tensorboard]",
            "corpus.labels.names=[calm, cross]",
            "prompt.shuffle_labels=true",
            "corpus.path=a=b",
        ],
    )
    assert config.lora.rank == 32
    assert config.training.learning_rate == 2e-4
    assert config.training.patience is None
    assert config.training.report_to == ("tensorboard",)
    assert config.corpus.labels is not None
    assert config.corpus.labels.names == ("calm", "cross")
    assert config.prompt.shuffle_labels is True
    assert config.corpus.path == "a=b"


@pytest.mark.parametrize("override", ["lora.rank", "=5", "lora.rank=[", ""])
def test_an_override_that_is_none_is_named(tmp_path: Path, override: str) -> None:
    assert f"'{override}'" in _complaint(_save(tmp_path, ""), override)


@pytest.mark.parametrize("written", ["6e-4", "6E-04", "0.0006", "6.0e-4", "6.e-4"])
def test_a_rate_is_read_as_a_number_however_it_is_written(tmp_path: Path, written: str) -> None:
    path = _save(tmp_path, f"training: {{learning_rate: {written}}}\n")
    assert load_config(path).training.learning_rate == pytest.approx(6e-4)
    assert load_config(path, [f"training.learning_rate={written}"]).training.learning_rate == pytest.approx(6e-4)


def test_a_text_that_looks_like_a_number_stays_a_text(tmp_path: Path) -> None:
    assert load_config(_save(tmp_path, 'name: "7e2"\n')).name == "7e2"


def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    path = _save(tmp_path, "seed: 1\nlora: {rank: 8\ntraining: {}\n")
    message = _complaint(path)
    assert message.startswith(f"{path}:3: ")
    assert "YAML" in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "42\n"])
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = _save(tmp_path, text)
    assert _complaint(path).startswith(f"{path}: expected fields")


def test_an_empty_file_is_the_default_configuration(tmp_path: Path) -> None:
    assert load_config(_save(tmp_path, "# nothing yet\n")) == RunConfig()


def test_invalid_utf8_names_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    assert _complaint(path).startswith(f"{path}: not UTF-8 at byte 9")


def test_a_date_that_is_none_is_a_mistake_like_others(tmp_path: Path) -> None:
    assert "2024-13-45" in _complaint(_save(tmp_path, "name: 2024-13-45\n"))


def test_a_date_that_is_none_is_a_mistake_in_an_override(tmp_path: Path) -> None:
    assert "2024-13-45" in _complaint(_save(tmp_path, ""), "name=2024-13-45")


def test_a_missing_file_lists_those_that_come_with_the_package() -> None:
    message = _complaint("no-such-config")
    assert "no-such-config" in message
    assert "sample" in message
    assert "smollm2-135m" in message


def test_a_packaged_configuration_is_found_by_name_and_by_its_usual_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("sample") == load_config("configs/sample.yaml")
    assert load_config("sample").name == "sample"


def test_every_packaged_configuration_is_valid() -> None:
    names = [path.stem for path in config_module.configs_dir().glob("*.yaml")]
    assert {"sample", "smollm2-135m", "emonet", "emonet-mpnet", "emonet-roberta-large"} <= set(names)
    for name in names:
        load = load_baseline if name.startswith("emonet") else load_config
        assert load(name).name == name


def test_a_packaged_name_may_hold_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smollm2-1.7b.yaml").write_text("name: big\n", encoding="utf-8")
    monkeypatch.setattr(config_module, "configs_dir", lambda: tmp_path)
    assert load_config("smollm2-1.7b").name == "big"


def test_a_missing_file_with_another_suffix_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no such" in _complaint("sample.json")


# They bound memory or time; precision is compared by what it came to.
KNOBS = {
    "training.accumulation": 4,
    "training.gradient_checkpointing": True,
    "scoring.tokens_per_forest": 512,
    "model.device": "cpu",
    "model.precision": "fp32",
}


@pytest.mark.parametrize("field", KNOBS)
def test_what_bounds_memory_or_time_is_in_neither_hash(field: str) -> None:
    """After out-of-memory a run goes on with another value, and seeds trained with it are of one system."""
    base, section, name = RunConfig(), *field.split(".")
    other = RunConfig.model_validate({section: {name: KNOBS[field]}})
    assert other != base
    assert (other.sha256, other.recipe_sha256) == (base.sha256, base.recipe_sha256)


def test_the_hash_ignores_where_things_are_and_nothing_else_that_trains() -> None:
    """What lies at a path has a hash of its own in the manifest."""
    base = RunConfig()
    for same in (
        {"name": "other", "output": "elsewhere"},
        {"corpus": {"path": "elsewhere", "heal_from": "there"}},
        {"model": {"base": "elsewhere"}},
    ):
        assert RunConfig.model_validate(same).sha256 == base.sha256, same
    for change in (
        {"seed": 14},
        {"lora": {"rank": 8}},
        {"prompt": {"context": "full"}},
        {"training": {"learning_rate": 5e-4}},
        {"corpus": {"selection_seed": 14}},
        {"sampling": {"scheme": "square_root"}},
        {"sampling": {"loss_weights": "square_root", "normalised": False}},
        {"training": {"objective": "closed_set"}},
        {"scoring": {"decode": "generate"}},
        {"scoring": {"label_orders": 2}},
        {"scoring": {"decode": "generate", "answer": "reason_then_label"}},
        {"scoring": {"reason_tokens": 8}},
        {"scoring": {"answer_tokens": 8}},
        {"model": {"quantisation": "nf4"}},
        {"training": {"evaluations": 1}},
    ):
        assert RunConfig.model_validate(change).sha256 != base.sha256, change


def test_a_recipe_is_the_configuration_without_its_seed() -> None:
    base = RunConfig()
    assert RunConfig(seed=99).recipe_sha256 == base.recipe_sha256 != base.sha256
    changed = RunConfig.model_validate({"training": {"epochs": 5}})
    assert changed.recipe_sha256 != base.recipe_sha256
    chosen_elsewhere = RunConfig.model_validate({"corpus": {"selection_seed": 99}})
    assert chosen_elsewhere.recipe_sha256 != base.recipe_sha256


def test_the_resolved_yaml_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    config = load_config(
        _save(tmp_path, "corpus: {labels: {names: [häppy, Σad], neutral: Σad}, aliases: {Al: Alan}}\n"),
        ["training.learning_rate=1e-5", "lora.target_modules=[q_proj, v_proj]", "training.report_to=[tensorboard]"],
    )
    again = load_config(_save(tmp_path, config.as_yaml()))
    assert again == config
    assert again.sha256 == config.sha256


def test_an_override_reaches_into_a_section_that_is_null(tmp_path: Path) -> None:
    path = _save(tmp_path, RunConfig().as_yaml())
    config = load_config(path, ["corpus.labels.names=[calm, cross]"])
    assert config.label_set().names == ("calm", "cross")


def test_an_own_label_set_is_taken_over(tmp_path: Path) -> None:
    path = _save(tmp_path, "corpus: {labels: {names: [calm, cross], neutral: calm, spellings: {angry: cross}}}\n")
    labels = load_config(path).label_set()
    assert labels.names == ("calm", "cross")
    assert labels.neutral == "calm"
    assert labels.match("Angry") == "cross"


def test_mistakes_in_a_label_set_are_reported_with_the_others(tmp_path: Path) -> None:
    path = _save(tmp_path, "corpus: {labels: {names: [a, b], neutral: c}}\nlora: {rank: 0}\n")
    message = _complaint(path)
    assert "lora.rank" in message
    assert "corpus.labels" in message
    assert "2 mistakes" in message


def test_balancing_twice_is_a_mistake_like_others(tmp_path: Path) -> None:
    path = _save(tmp_path, "sampling: {scheme: square_root, loss_weights: inverse_frequency}\nlora: {rank: 0}\n")
    message = _complaint(path)
    assert "2 mistakes" in message
    assert "sampling: " in message
    assert "balance twice" in message


@pytest.mark.parametrize("override", ["scheme=oversample", "loss_weights=true", "beta=0", "beta=1", "draws=5"])
def test_sampling_takes_what_it_knows(override: str, tmp_path: Path) -> None:
    assert f"sampling.{override.partition('=')[0]}" in _complaint(_save(tmp_path, ""), f"sampling.{override}")


def test_nothing_is_balanced_unless_it_is_asked_for(tmp_path: Path) -> None:
    sampling = load_config(_save(tmp_path, "")).sampling
    assert (sampling.scheme, sampling.loss_weights, sampling.allow_absent) == ("none", "none", False)


@pytest.mark.parametrize("field", ["training.epochs", "training.learning_rate"])
def test_infinity_is_no_setting(tmp_path: Path, field: str) -> None:
    assert field in _complaint(_save(tmp_path, ""), f"{field}=.inf")


def test_a_field_of_two_types_is_one_mistake(tmp_path: Path) -> None:
    message = _complaint(_save(tmp_path, "lora: {target_modules: 5}\n"))
    assert "1 mistake\n" in message
    assert "lora.target_modules:" in message


@pytest.mark.parametrize("value", ["lm_head", "'.*'", "'model.*|lm_head'", "[q_proj, lm_head]", "[model.lm_head]"])
def test_the_output_layer_gets_no_update(value: str, tmp_path: Path) -> None:
    message = _complaint(_save(tmp_path, f"lora: {{target_modules: {value}}}\n"))
    assert "lora.target_modules:" in message
    assert "lm_head, the output layer" in message


@pytest.mark.parametrize("value", ["all-linear", "'.*_proj'", "[q_proj, lm_headless]"])
def test_other_layers_may_get_one(value: str, tmp_path: Path) -> None:
    assert load_config(_save(tmp_path, f"lora: {{target_modules: {value}}}\n")).lora.rank == 16


def test_a_pattern_of_layers_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    message = _complaint(_save(tmp_path, "lora: {target_modules: '*_proj'}\n"))
    assert "lora.target_modules: '*_proj' is not a regular expression" in message.replace("Value error, ", "")


def test_a_logger_that_does_not_exist_is_a_mistake(tmp_path: Path) -> None:
    assert "training.report_to" in _complaint(_save(tmp_path, ""), "training.report_to=[papyrus]")


def test_every_field_has_its_sentence() -> None:
    def without(section: type) -> list[str]:
        missing = []
        for name, field in section.model_fields.items():  # type: ignore[attr-defined]
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                missing += without(inner)
            elif not field.description:
                missing.append(f"{section.__name__}.{name}")
        return missing

    assert without(RunConfig) == []


RESULTS = Path(__file__).parents[1] / "docs" / "results"
RUNS_OF_BEFORE = sorted(RESULTS.rglob("config.yaml"))
ARMS = read_arms(RESULTS.parents[1] / "benchmarks" / "ingredients.yaml").arms
OF_CLOSED_SET = {name for name, fields in ARMS.items() if "training.objective=closed_set" in fields}
OF_BASELINES = sorted((RESULTS / "baselines").rglob("config.yaml"))


@pytest.mark.parametrize("path", OF_BASELINES, ids=str)
def test_baselines_of_before_are_still_read(path: Path) -> None:
    config, stated = load_baseline(path), yaml.safe_load(path.read_text("utf-8"))
    assert (config.kind, config.training.learning_rate) == (stated["kind"], stated["training"]["learning_rate"])


@pytest.mark.parametrize("path", sorted({*RUNS_OF_BEFORE} - {*OF_BASELINES}), ids=str)
def test_runs_of_before_are_still_read_and_answer_as_they_did(path: Path) -> None:
    """With what the file states, and where it is older than a field, with what was the only way then."""
    config, stated = load_config(path), yaml.safe_load(path.read_text("utf-8"))
    assert config.training.objective == stated["training"].get("objective", "label")
    run = path.parents[1] if config.corpus.fold else path.parent  # a fold lies in the folder of its cross-fitting
    named = "closed_set" in run.name or run.name.removesuffix("-folds") in OF_CLOSED_SET
    assert (config.training.objective == "closed_set") == named
    scoring = stated.get("scoring", {})
    ways = {"decode": "score", "answer": "label", "label_orders": 1}
    assert {name: getattr(config.scoring, name) for name in ways} == ways
    assert {name: scoring.get(name, way) for name, way in ways.items()} == ways


@pytest.mark.parametrize("decode", ["score", "free"])
def test_reasons_need_constrained_generation(tmp_path: Path, decode: str) -> None:
    message = _complaint(_save(tmp_path, f"scoring: {{answer: reason_then_label, decode: {decode}}}\n"))
    assert "scoring" in message
    assert f"answer=reason_then_label needs decode=generate, found decode={decode}" in message


@pytest.mark.parametrize("decode", ["generate", "free"])
def test_written_answers_are_not_averaged(tmp_path: Path, decode: str) -> None:
    message = _complaint(_save(tmp_path, f"scoring: {{label_orders: 4, decode: {decode}}}\n"))
    assert f"label_orders=4 averages scores; decode={decode}" in message


def test_the_valid_part_of_a_configuration_with_mistakes() -> None:
    """What `validate` goes on with: wrong fields have their defaults, and a section that is wrong as a whole too."""
    content = {
        "lora": {"rank": 0, "alpha": 7, "target_modules": 3},
        "seed": "x",
        "colour": "red",
        "corpus": {"labels": {"neutral": "Calm"}, "selection_seed": 5},
        "scoring": {"answer": "reason_then_label"},
        "training": None,
    }
    config, mistakes = resolve_valid(RunConfig, content, ["name=kept", "lora.alpha", "prompt.context=later"])
    assert config is not None
    assert (config.name, config.seed, config.training) == ("kept", 13, RunConfig().training)
    assert (config.lora.rank, config.lora.alpha, config.lora.target_modules) == (16, 7, "all-linear")
    assert (config.corpus.labels, config.corpus.selection_seed) == (None, 5)
    assert (config.scoring, config.prompt) == (RunConfig().scoring, RunConfig().prompt)
    fields = {mistake.partition(":")[0] for mistake in mistakes}
    assert fields == {
        "override 'lora.alpha'", "lora.rank", "lora.target_modules", "seed", "colour", "corpus.labels.names", "scoring",
        "training", "prompt.context",
    }  # fmt: skip
    assert content["seed"] == "x"  # the caller's content is as it was
