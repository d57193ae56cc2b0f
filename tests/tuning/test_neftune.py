"""NEFTune: noise on the embeddings in training, none in scoring, nothing of it in what is saved."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from erc_llm.decoding.scenes import score_scenes
from erc_llm.models.adapters import save_adapter
from erc_llm.trees.forest import pack
from erc_llm.tuning.trainer import fit
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus
from tests.tuning.fits import (
    SCENES,
    first_step,
    fit_settings,
    fit_tiny,
    gold_trees,
    largest_difference,
    three_steps,
    tiny_adapter,
    tiny_prompter,
)
from tests.tuning.killed_runs import Kill, train_apart

ALPHA = 5.0


def _embeddings(model: Any) -> Any:
    return model.get_base_model().get_input_embeddings()


@dataclass
class Noise(TrainerCallback):
    """Keeps the noise of every forward pass in training, and the scores of two scenes after every step."""

    prompter: Any
    noise: list[torch.Tensor] = field(default_factory=list)
    scores: list[Any] = field(default_factory=list)
    without: list[Any] = field(default_factory=list)

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        def keep(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            if module.training:
                self.noise.append((output - module.weight[inputs[0]]).detach())

        self.handle = _embeddings(model).register_forward_hook(keep)

    def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
        assert model.training
        self.scores.append(self._scored(model))
        hooks = _embeddings(model)._forward_hooks
        kept = dict(hooks)
        hooks.clear()
        self.without.append(self._scored(model))
        hooks.update(kept)
        assert model.training

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.handle.remove()

    def _scored(self, model: Any) -> list[Any]:
        scored = score_scenes(model, self.prompter, SCENES[:2], "gold_all")
        return [score.log_likelihoods.tolist() for scene in scored for score in scene]


def test_noise_is_there_in_training_and_not_in_scoring(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """Uniform up to alpha / sqrt(tokens * width), with all tokens of the forest, which has several scenes."""
    watcher = Noise(tiny_prompter(tiny_llama))
    fit_tiny(tiny_llama, tmp_path, callbacks=[watcher], neftune=ALPHA)
    assert len(watcher.noise) == 3
    forest = pack(first_step(tiny_llama))
    assert len(forest.layouts) == 4
    _, rows, width = watcher.noise[0].shape
    assert rows == forest.rows
    bound = ALPHA / (rows * width) ** 0.5
    assert 0.99 * bound < float(watcher.noise[0].abs().max()) <= bound * (1 + 1e-4)
    assert float(watcher.noise[0].std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert watcher.scores == watcher.without


def test_it_leaves_nothing_in_the_model_or_in_the_adapter(tiny_llama: TinyModel, tmp_path: Path) -> None:
    saved = []
    for alpha in (0.0, ALPHA):
        model, prompter = tiny_adapter(tiny_llama), tiny_prompter(tiny_llama)
        trees = [gold_trees(prompter, scene, None) for scene in range(len(SCENES))]
        settings, folder = fit_settings(neftune=alpha), tmp_path / str(alpha)
        fit(model, tiny_llama.tokenizer, three_steps(), lambda i, _, t=trees: t[i], settings, folder, [])  # type: ignore[misc]
        assert not _embeddings(model)._forward_hooks
        assert not hasattr(_embeddings(model), "neftune_noise_alpha")
        save_adapter(model, folder / "adapter", "base")
        saved.append({path.name: path for path in (folder / "adapter").iterdir()})
    plain, noisy = saved
    assert plain.keys() == noisy.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert plain["adapter_config.json"].read_bytes() == noisy["adapter_config.json"].read_bytes()
    weights = [files["adapter_model.safetensors"] for files in saved]
    assert weights[0].stat().st_size == weights[1].stat().st_size
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_it_is_drawn_from_the_seed(tiny_llama: TinyModel, tmp_path: Path) -> None:
    one, same, other = (
        fit_tiny(tiny_llama, tmp_path / str(i), neftune=ALPHA, seed=seed).adapter for i, seed in enumerate((3, 3, 4))
    )
    assert largest_difference(one, same) == 0
    assert largest_difference(one, other) > 0


def test_gradients_reach_the_adapter_under_checkpointing_too(tiny_llama: TinyModel, tmp_path: Path) -> None:
    plain = fit_tiny(tiny_llama, tmp_path / "plain", neftune=ALPHA)
    saving = fit_tiny(tiny_llama, tmp_path / "saving", neftune=ALPHA, gradient_checkpointing=True)
    assert largest_difference(saving.watcher.gradients[0], plain.watcher.gradients[0]) < 1e-4


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_adapter(tiny_llama: TinyModel, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", train=12)

    def config(name: str, minutes: float) -> str:
        training = {"tokens_per_step": 400, "evaluations": 2, "neftune": ALPHA, "checkpoint_minutes": minutes}
        return tiny_config(tiny_llama, corpus, tmp_path / name, training=training).as_yaml()

    assert train_apart(config("whole", 1e6)) == 0
    assert train_apart(config("killed", 0), kill=Kill("forward", 4)) == -signal.SIGKILL
    assert train_apart(config("killed", 0), resume=True) == 0
    one, other = (tmp_path / name / "tiny/adapter/adapter_model.safetensors" for name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()
