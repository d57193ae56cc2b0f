"""A baseline's configuration: all mistakes are reported at once, earlier files still load, hashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.baselines.baseline_config import BaselineConfig, Switches, load_baseline
from erc_llm.baselines.emonet import ABLATION
from erc_llm.errors import ConfigError


def _mistakes(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_baseline(path, overrides)
    return str(caught.value)


def test_all_mistakes_are_told_with_their_fields(tmp_path: Path) -> None:
    text = "kind: transformer\nencoder: {max_tokens: 3, layers: 2}\nmemory: {half_life: 0, dropout: 1}\n"
    found = _mistakes(tmp_path, text, "training.batch_size=0", "speaker.weighted_loss=balanced", "nonsense")
    assert "8 mistakes" in found
    for field in ("kind:", "encoder.max_tokens:", "memory.half_life:", "memory.dropout:", "training.batch_size:"):
        assert f"\n  {field}" in found
    assert "speaker.weighted_loss: Input should be 'none', 'unnormalised' or 'normalised', found 'balanced'" in found
    assert "override 'nonsense': expected key=value" in found
    unknown = _mistakes(tmp_path, "encoder: {layers: 2}\n")
    assert (
        "encoder.layers: no such field; expected one of base, max_tokens, attention_dropout, precision, device"
        in unknown
    )
    assert "lora: no such field" in _mistakes(tmp_path, "lora: {rank: 4}\n")


@pytest.mark.parametrize("value", [".nan", ".inf", "-1", "two"])
@pytest.mark.parametrize("field", ["training.learning_rate", "memory.half_life", "training.max_grad_norm"])
def test_numbers_are_finite_and_in_range(tmp_path: Path, field: str, value: str) -> None:
    assert f"{field}:" in _mistakes(tmp_path, "", f"{field}={value}")


@pytest.mark.parametrize("off", ["speaker: {behaviour: false}", "kind: compm", "kind: encoder"])
def test_a_half_life_needs_the_module_it_is_of(tmp_path: Path, off: str) -> None:
    found = _mistakes(tmp_path, f"memory: {{decay: half_life}}\n{off}\n")
    assert "set kind=emonet and speaker.behaviour=true" in found


def test_switches_are_emonets() -> None:
    assert BaselineConfig().switches == Switches(True, True, "normalised")
    assert BaselineConfig(kind="compm").switches == BaselineConfig(kind="encoder").switches == Switches()


@pytest.mark.parametrize(
    ("overrides", "source", "half_life"),
    [
        (["kind=encoder"], "none", None),
        (["kind=compm"], "memory within the dialogue", None),
        (["speaker.behaviour=false"], "memory within the dialogue", None),
        ([], "memory across dialogues", None),
        (["memory.decay=half_life", "memory.half_life=3"], "memory across dialogues", 3.0),
    ],
)
def test_what_is_known_of_a_speaker(overrides: list[str], source: str, half_life: float | None) -> None:
    config = load_baseline("emonet", overrides)
    assert (config.memory_source, config.half_life) == (source, half_life)


def test_the_hash_is_of_what_can_change_a_result() -> None:
    config = load_baseline("emonet")
    same = ("name=other", "output=elsewhere", "corpus.path=x", "training.log_every=3", "training.checkpoint_minutes=1")
    assert load_baseline("emonet", same).sha256 == config.sha256
    for knob in ("training.gradient_checkpointing=true", "encoder.device=cpu", "encoder.precision=fp32"):
        changed = load_baseline("emonet", [knob])
        assert changed != config
        assert (changed.sha256, changed.recipe_sha256) == (config.sha256, config.recipe_sha256), knob
    for change in ("seed=14", "memory.window=8", "encoder.max_tokens=64", "speaker.global_identity=false"):
        assert load_baseline("emonet", [change]).sha256 != config.sha256


_RUNS = Path(__file__).parents[2] / "docs" / "results" / "baselines" / "emonet-original-ablation" / "seed-13"


@pytest.mark.parametrize("value", ["none", "unnormalised", "normalised"])
def test_a_file_with_the_earlier_name_of_the_weighted_loss_is_the_same_recipe(tmp_path: Path, value: str) -> None:
    earlier, now = tmp_path / "earlier.yaml", tmp_path / "now.yaml"
    earlier.write_text(f"speaker: {{behaviour: false, loss_weights: {value}}}\n", encoding="utf-8")
    now.write_text(f"speaker: {{behaviour: false, weighted_loss: {value}}}\n", encoding="utf-8")
    old, new = load_baseline(earlier), load_baseline(now)
    assert old.switches == Switches(True, False, value)  # type: ignore[arg-type]
    assert old == new
    assert old.result_fields() == new.result_fields()
    assert (old.sha256, old.recipe_sha256) == (new.sha256, new.recipe_sha256)
    assert load_baseline("emonet", ["speaker.behaviour=false", f"speaker.loss_weights={value}"]).speaker == new.speaker


@pytest.mark.parametrize("row", ["compm", "global-identity", "behaviour", "unnormalised", "normalised"])
def test_a_stored_run_with_the_earlier_name_has_the_hash_of_the_new_one(tmp_path: Path, row: str) -> None:
    stored = _RUNS / row / "config.yaml"
    assert "  loss_weights: " in stored.read_text(encoding="utf-8")
    config = load_baseline(stored)
    rewritten = tmp_path / "config.yaml"
    rewritten.write_text(config.as_yaml(), encoding="utf-8")
    assert "  weighted_loss: " in rewritten.read_text(encoding="utf-8")
    assert "loss_weights" not in rewritten.read_text(encoding="utf-8")
    assert load_baseline(rewritten).sha256 == config.sha256
    assert config.switches == next(r.switches for r in ABLATION if r.name == row)


def test_both_names_of_the_weighted_loss_are_one_too_many(tmp_path: Path) -> None:
    found = _mistakes(tmp_path, "speaker: {weighted_loss: none}\n", "speaker.loss_weights=none")
    assert "loss_weights is the earlier name of weighted_loss, and both are set; remove loss_weights" in found
    assert "speaker.weighted_loss: Input" in _mistakes(tmp_path, "speaker: {loss_weights: balanced}\n")


def test_every_field_has_its_sentence() -> None:
    def fields(section: type[BaselineConfig]) -> None:
        for name, field in section.model_fields.items():
            kind = field.annotation
            if hasattr(kind, "model_fields"):
                fields(kind)  # type: ignore[arg-type]
            else:
                assert field.description, f"{section.__name__}.{name}"
                assert field.description.endswith(".")

    fields(BaselineConfig)


def test_the_large_configuration_is_the_published_setting() -> None:
    config = load_baseline("emonet-roberta-large")
    training = config.training
    assert (config.encoder.base, training.learning_rate, training.epochs, training.batch_size) == (
        "roberta-large",
        1e-6,
        10,
        1,
    )
    assert (config.memory.encoding, config.memory.pooling) == ("end_to_end", "first")
