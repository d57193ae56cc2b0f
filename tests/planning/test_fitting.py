"""Whether a plan fits, the largest budgets that do, and the nearest settings that do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from erc_llm.config import load_config
from erc_llm.planning.bases import find_base
from erc_llm.planning.cards import GIB
from erc_llm.planning.fitting import fit_of, largest_tokens
from erc_llm.planning.forests import largest_scoring_forest, largest_training_forest
from erc_llm.planning.plan import Scenes, Setup, make_plan, peaks_of
from erc_llm.planning.tree_sizes import SceneSize
from erc_llm.tuning.order import order_steps


def _scene(rows: int) -> SceneSize:
    mask = rows // 3 * rows
    return SceneSize(10, rows, 20, mask, rows * 5, rows * rows // 3, rows * rows)


SCENES = Scenes([_scene(100 + 7 * (k % 60)) for k in range(120)], [_scene(200 + k) for k in range(40)])


def _setup(*overrides: str, name: str = "llama2-7b-qlora") -> Setup:
    config = load_config(name, overrides)
    return Setup.of(config, find_base(config.model.base).architecture)


def test_a_plan_that_fits_has_no_changes() -> None:
    setup = _setup()
    fit = fit_of(setup, peaks_of(setup, SCENES), SCENES, 24 * GIB)
    assert fit.fits
    assert fit.changes == ()
    assert fit.usable == pytest.approx(24 * GIB * 0.9, abs=1)


def test_the_largest_forest_is_at_the_edge() -> None:
    setup = _setup()
    peaks = peaks_of(setup, SCENES)
    fit = fit_of(setup, peaks, SCENES, 12 * GIB)
    like = peaks.forests.training
    assert setup.training_peak(like.scaled(fit.training_tokens)).total <= fit.usable
    assert setup.training_peak(like.scaled(fit.training_tokens + 1)).total > fit.usable
    assert largest_tokens(lambda load: load.tokens, like, 1000) == 1000
    assert largest_tokens(lambda load: 2000, like, 1000) == 0


@pytest.mark.parametrize(
    ("overrides", "memory", "field"),
    [
        (("training.tokens_per_step=32768", "training.accumulation=1"), 10, "training.accumulation"),
        (
            ("training.gradient_checkpointing=false", "training.tokens_per_step=512"),
            7,
            "training.gradient_checkpointing",
        ),
        (("scoring.tokens_per_forest=65536", "training.tokens_per_step=512"), 6, "scoring.tokens_per_forest"),
        (("model.quantisation=none",), 12, "model.quantisation"),
    ],
)
def test_the_nearest_setting_that_fits_does(overrides: tuple[str, ...], memory: int, field: str) -> None:
    setup = _setup(*overrides)
    fit = fit_of(setup, peaks_of(setup, SCENES), SCENES, memory * GIB)
    assert not fit.fits
    assert field in [change.field for change in fit.changes]
    changed = _setup(*overrides, *map(str, fit.changes))
    assert fit_of(changed, peaks_of(changed, SCENES), SCENES, memory * GIB).fits


def test_where_nothing_fits_nothing_is_promised() -> None:
    setup = _setup()
    fit = fit_of(setup, peaks_of(setup, SCENES), SCENES, 3 * GIB)
    assert (fit.fits, fit.changes, fit.changed, fit.training_tokens) == (False, (), None, 0)


def test_the_largest_forest_of_training_is_that_of_the_steps() -> None:
    sizes = [scene.rows for scene in SCENES.training]
    order = order_steps(sizes, epochs=2, tokens_per_step=2048, parts=2, seed=7)
    setup = replace(_setup("training.tokens_per_step=2048", "training.accumulation=2"), seed=7)
    found = setup.training_order(SCENES.training, 2)
    assert found.steps == order.steps
    largest = largest_training_forest(SCENES.training, found)
    assert largest.tokens == max(sum(sizes[s] for s in batch.scenes) for batch in order.batches())


def test_processes_have_equally_many_forests() -> None:
    """Of five scenes two processes get two forests each, as training distributes them, and not two and a half."""
    setup = replace(_setup("training.accumulation=4"), processes=2)
    order = setup.training_order(SCENES.training[:5], 1)
    assert {len(step) for step in order.steps} == {4}


def test_processes_share_a_step() -> None:
    """Two processes of a launcher compute the forests that one does with twice the accumulation."""
    one, two = _setup("training.accumulation=2"), replace(_setup("training.accumulation=1"), processes=2)
    assert peaks_of(two, SCENES).training == peaks_of(one, SCENES).training
    assert peaks_of(two, SCENES).training.total < peaks_of(replace(two, processes=1), SCENES).training.total


def test_a_forest_of_scoring_never_exceeds_its_budget() -> None:
    assert largest_scoring_forest(SCENES.scoring, 1000).tokens <= 1000
    cut = largest_scoring_forest([_scene(900)], 300)
    assert cut.tokens == 300
    assert cut.logit_rows == 7


def test_precision_and_selection_matter() -> None:
    fp32 = _setup("model.precision=fp32", "model.quantisation=none")
    bf16 = peaks_of(_setup("model.quantisation=none"), SCENES)
    assert peaks_of(fp32, SCENES).training.total > 1.8 * bf16.training.total
    assert peaks_of(_setup("training.evaluations=0"), SCENES).selection is None


def test_an_epoch_counts_tokens_and_operations() -> None:
    setup = _setup()
    plan = make_plan(setup, SCENES)
    tokens = sum(scene.rows for scene in SCENES.training)
    assert plan.epoch.tree_tokens == tokens
    assert plan.epoch.prompt_tokens == 5 * tokens
    # three passes over frozen weights (forward, again, backward), 2 operations for each weight and token
    assert plan.epoch.tree_flops == pytest.approx(6 * setup.architecture.linear_weights * tokens, rel=0.05)
    once = make_plan(replace(setup, checkpointing=False), SCENES)
    assert once.epoch.tree_flops == pytest.approx(plan.epoch.tree_flops * 2 / 3, rel=0.05)
    assert plan.download == pytest.approx(13.48e9, rel=0.01)


def test_two_passes_and_a_mean_of_the_weights_are_planned() -> None:
    """R-Drop reads a forest twice before the backward pass; the mean is the adapter in fp32 once more."""
    plain = make_plan(_setup("lora.dropout=0.1", "training.objective=closed_set"), SCENES)
    twice = make_plan(_setup("lora.dropout=0.1", "training.objective=closed_set", "training.r_drop=0.5"), SCENES)
    assert twice.epoch.tree_tokens == 2 * plain.epoch.tree_tokens
    assert twice.epoch.tree_flops == 2 * plain.epoch.tree_flops
    assert twice.epoch.prompt_flops == 2 * plain.epoch.prompt_flops
    assert twice.epoch.steps == plain.epoch.steps
    masks = "masks of trees"
    one, two = (plan.peaks.training.components for plan in (plain, twice))
    assert two[masks] == one[masks], "both passes share them"
    assert plain.peaks.training.activations < twice.peaks.training.activations < 2 * plain.peaks.training.activations
    assert twice.peaks.prediction == plain.peaks.prediction
    setup = _setup()
    plain, averaged = make_plan(setup, SCENES), make_plan(_setup("training.average_last=0.25"), SCENES)
    mean = 4 * setup.adapter.parameters
    assert averaged.peaks.training.total == plain.peaks.training.total + mean
    assert averaged.peaks.prediction == plain.peaks.prediction
    assert averaged.disk == plain.disk + 3 * mean
