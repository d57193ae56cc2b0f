"""Drawing targets by class: how often each class comes, from which seed, and what it leaves of a conversation: all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from erc_llm.config import RunConfig, SamplingConfig
from erc_llm.corpus import Dialogue, Utterance
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.errors import CorpusError
from erc_llm.prompting.prompter import Prompter, PromptOptions, shuffled_labels
from erc_llm.prompting.templates import load_prompt
from erc_llm.recipes.data import label_distribution, labelled_targets
from erc_llm.recipes.train import target_sampler
from erc_llm.trees.forest import rows_of
from erc_llm.trees.tree import TokenTree
from erc_llm.tuning.order import StepOrder, order_steps
from erc_llm.tuning.sampling import Asked, Sampler, Targets, class_weights, draw
from erc_llm.tuning.scene_trees import scene_sizes, training_trees
from tests.prompting.scenes import decode
from tests.tiny_models import chatml_tokenizer
from tests.tiny_runs import dialogue

SCHEMES = ("inverse_frequency", "square_root", "effective_number")
COUNTS = np.array([2184, 1071, 3034, 952, 784, 671, 1285])  # as skewed as EmoryNLP's train, about 10,000 targets
TOKENIZER = chatml_tokenizer()
SCENES = [dialogue(number, 1 + number % 6) for number in range(40)]  # some of one line, which may not be drawn


def _targets(counts: Sequence[int] | np.ndarray[Any, Any], per_scene: int = 12) -> Targets:
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    number = np.arange(len(label))
    return Targets(number // per_scene, number % per_scene, label, -(-len(label) // per_scene), len(counts))


def _sampler(scheme: Any = "inverse_frequency", seed: int = 13, resampled: bool = True) -> Sampler:
    targets = _targets(COUNTS)
    return Sampler(targets, class_weights(targets.counts, scheme, 0.999), resampled, seed)


def _drawn(sampler: Sampler, epoch: int) -> np.ndarray[Any, Any]:
    """(labels,) draws of each label in an epoch, counted from what the epoch asks."""
    label_of = dict(
        zip(zip(sampler.targets.scene, sampler.targets.position, strict=True), sampler.targets.label, strict=True)
    )
    counts = np.zeros(sampler.targets.labels)
    for scene, asked in enumerate(sampler.asked(epoch)):
        for position, weight in asked.items():
            counts[label_of[scene, position]] += weight
    return counts


# Weights and what they come to.


def test_weights_are_those_of_the_papers_by_hand() -> None:
    counts = np.array([1, 4, 0, 100])
    expected = {
        "inverse_frequency": [1, 1 / 4, 0, 1 / 100],
        "square_root": [1, 1 / 2, 0, 1 / 10],
        "effective_number": [1, 0.1 / (1 - 0.9**4), 0, 0.1 / (1 - 0.9**100)],
        "none": [1, 1, 0, 1],
    }
    for scheme, raw in expected.items():
        weights = class_weights(counts, scheme, 0.9)  # type: ignore[arg-type]
        assert weights == pytest.approx(np.array(raw) * 105 / (counts @ np.array(raw))), scheme


@given(counts=st.lists(st.integers(0, 5000), min_size=2, max_size=9).filter(any), beta=st.floats(1e-9, 1 - 1e-9))
def test_weights_have_mean_one_and_never_favour_the_frequent(counts: list[int], beta: float) -> None:
    n = np.array(counts)
    for scheme in ("none", *SCHEMES):
        weights = class_weights(n, scheme, beta)  # type: ignore[arg-type]
        assert n @ weights == pytest.approx(n.sum())
        order = np.argsort(n[n > 0])
        assert (np.diff(weights[n > 0][order]) <= 1e-6 * weights.max()).all()
        assert (weights[n == 0] == 0).all()


def test_beta_leads_from_no_balance_to_inverse_frequency() -> None:
    assert class_weights(COUNTS, "effective_number", 1e-12) == pytest.approx(np.ones(7))
    inverse = class_weights(COUNTS, "inverse_frequency", 0.5)
    assert class_weights(COUNTS, "effective_number", 1 - 1e-12) == pytest.approx(inverse)


def test_the_prior_is_flat_under_inverse_frequency_and_that_of_train_without_balance() -> None:
    assert _sampler("inverse_frequency").prior == pytest.approx([1 / 7] * 7)
    assert _sampler("none").prior == pytest.approx(COUNTS / COUNTS.sum())
    root = np.sqrt(COUNTS)
    assert _sampler("square_root").prior == pytest.approx(root / root.sum())
    assert _sampler("effective_number", resampled=False).prior == _sampler("effective_number").prior


# Draws.


@pytest.mark.parametrize("scheme", SCHEMES)
def test_classes_come_as_often_as_the_scheme_says(scheme: str) -> None:
    """In every epoch, to less than a draw; over many epochs, on average."""
    sampler = _sampler(scheme)
    expected = np.array(sampler.prior) * len(sampler.targets)
    counts = np.array([_drawn(sampler, epoch) for epoch in range(20)])
    assert (counts.sum(axis=1) == COUNTS.sum()).all()
    assert (np.abs(counts - expected) < 1).all()
    assert counts.mean(axis=0) == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(20))
    assert chisquare(counts[0], COUNTS).pvalue < 1e-9, "the test tells schemes apart"


def test_classes_of_equal_size_come_as_often_each() -> None:
    """Small corpora have some; their equal weights must not mix them up."""
    targets = _targets([300, 60, 60, 60])
    sampler = Sampler(targets, class_weights(targets.counts, "square_root", 0.999), True, 13)
    expected = np.array(sampler.prior) * len(targets)
    assert all((np.abs(_drawn(sampler, epoch) - expected) < 1).all() for epoch in range(20))


def test_targets_of_a_class_are_drawn_alike() -> None:
    sampler = _sampler("square_root")
    weights = sampler.weights[sampler.targets.label]
    counts = sum(draw(weights, sampler.targets.label, 13, epoch) for epoch in range(200))
    for label in range(7):
        assert chisquare(counts[sampler.targets.label == label]).pvalue > 0.001


@given(seed=st.integers(0, 2**63), epoch=st.integers(0, 1000), weights=st.lists(st.floats(0.01, 100), min_size=1))
def test_as_many_draws_as_targets(seed: int, epoch: int, weights: list[float]) -> None:
    counts = draw(np.array(weights), np.zeros(len(weights)), seed, epoch)
    assert counts.shape == (len(weights),)
    assert counts.sum() == len(weights)
    wide = np.array(weights) * len(weights) / sum(weights)
    assert (np.floor(wide - 1e-9) <= counts).all()
    assert (counts <= np.ceil(wide + 1e-9)).all()


def test_what_can_not_be_drawn_is_not() -> None:
    counts = sum(draw(np.array([0.0, 1.0, 0.0, 2.0, 0.0]), np.zeros(5), 3, epoch) for epoch in range(100))
    assert (counts[[0, 2, 4]] == 0).all()


def test_the_same_seed_and_epoch_draw_the_same_and_others_do_not() -> None:
    same, again = (_sampler(seed=13).asked(2) for _ in range(2))
    assert same == again
    assert [same != other for other in (_sampler(seed=14).asked(2), _sampler(seed=13).asked(3))] == [True, True]


def test_draws_are_pinned() -> None:
    """Another stream of numbers would silently change what a seed means."""
    weights = np.array([1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 5.0, 1.0])
    assert draw(weights, np.zeros(8), 13, 1).tolist() == [0, 1, 2, 0, 0, 1, 3, 1]


def test_without_drawing_every_target_is_asked_once_with_the_weight_of_its_class() -> None:
    plain, weighted = _sampler("none", resampled=False), _sampler("square_root", resampled=False)
    assert {w for asked in plain.asked(0) for w in asked.values()} == {1.0}
    where = zip(plain.targets.scene.tolist(), plain.targets.position.tolist(), strict=True)
    assert [(s, k) for s, asked in enumerate(plain.asked(0)) for k in asked] == list(where)
    assert _drawn(weighted, 0) == pytest.approx(COUNTS * weighted.weights)
    assert weighted.asked(0) == weighted.asked(1)


def test_expected_multiplicity_is_the_weight_of_the_loss() -> None:
    """The ground of equal expected gradients: drawn and weighted, a target counts alike on average."""
    counts, label = np.array([3, 1, 8]), np.repeat([0, 1, 2], [3, 1, 8])
    weights = class_weights(counts, "inverse_frequency", 0.5)[label]
    mean = np.mean([draw(weights, label, 5, epoch) for epoch in range(20_000)], axis=0)
    assert mean == pytest.approx(weights, abs=4 * np.sqrt(weights.max() / 20_000))


# Conversations.


def _prompter(**options: Any) -> Prompter:
    return Prompter(TOKENIZER, load_prompt("instruct"), EMORYNLP, PromptOptions(**options))


def _asked(sampling: dict[str, Any], scenes: Sequence[Dialogue] = SCENES, epochs: int = 3) -> list[Asked]:
    sampler = target_sampler(SamplingConfig.model_validate(sampling), scenes, EMORYNLP, 13)
    return [sampler.asked(epoch) for epoch in range(epochs)]


def _lines(tree: TokenTree) -> list[str]:
    return [decode(TOKENIZER, tree.token_ids[s.start : s.stop]) for s in tree.spans if s.kind == "line"]


PROMPTS = [{"context": "past"}, {"context": "full"}, {"context": "past", "trunk_budget": 64}]


@pytest.mark.parametrize("options", PROMPTS, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_conversations_stay_as_they_are_and_only_questions_vary(scheme: str, options: dict[str, Any]) -> None:
    asked, config, prompter = _asked({"scheme": scheme}), RunConfig(), _prompter(**options)
    whole = training_trees(config, SCENES, prompter, None)
    drawn = training_trees(config, SCENES, prompter, None, asked)
    skipped = 0
    for epoch in range(3):
        for number, wanted in enumerate(asked[epoch]):
            before = {q.target: (tree, q) for tree in whole(number, epoch) for q in tree.questions}
            trees = drawn(number, epoch)
            assert {q.target: q.weight for tree in trees for q in tree.questions} == wanted
            assert bool(trees) == bool(wanted), "a scene without a drawn target has no tree"
            skipped += not wanted
            for tree in trees:
                for question in tree.questions:
                    original, one = before[question.target]
                    assert tree.token_ids[: tree.trunk].tolist() == original.token_ids[: original.trunk].tolist()
                    path, expected = tree.root_path(question.stop - 1), original.root_path(one.stop - 1)
                    assert tree.token_ids[path].tolist() == original.token_ids[expected].tolist()
    assert skipped, "no scene was skipped, so the test shows less than it says"


def test_every_line_of_the_corpus_stands_in_the_trunk_word_for_word() -> None:
    drawn = training_trees(RunConfig(), SCENES, _prompter(names="full"), None, _asked({"scheme": "square_root"}))
    for number, scene in enumerate(SCENES):
        for tree in drawn(number, 1):
            assert _lines(tree) == [f"{u.speakers[0]}: {u.text}\n" for u in scene.utterances]


def _schedule(sizes: list[list[int]], parts: int = 1, epochs: float = 3) -> StepOrder:
    return order_steps(sizes, epochs=epochs, tokens_per_step=900, parts=parts, seed=13)


@pytest.mark.parametrize("options", PROMPTS, ids=str)
def test_sizes_are_those_of_the_trees_of_each_epoch(options: dict[str, Any]) -> None:
    asked, prompter = _asked({"scheme": "inverse_frequency"}), _prompter(**options)
    sizes = scene_sizes(training_trees(RunConfig(), SCENES, prompter, None), asked)
    drawn = training_trees(RunConfig(), SCENES, prompter, None, asked)
    for epoch in range(3):
        assert sizes[epoch] == [sum(map(rows_of, drawn(scene, epoch))) for scene in range(len(SCENES))]
    assert sizes[0] != sizes[1]


def test_steps_stay_full_and_hold_every_draw_of_their_epoch() -> None:
    asked = _asked({"scheme": "inverse_frequency"})
    sizes = scene_sizes(training_trees(RunConfig(), SCENES, _prompter(), None), asked)
    steps = _schedule(sizes).steps
    used = [(step[0].epoch, sum(sizes[b.epoch][s] for b in step for s in b.scenes)) for step in steps]
    assert all(tokens <= 900 for _, tokens in used)
    assert all(a + b > 900 for (e, a), (f, b) in pairwise(used) if e == f)
    for epoch in range(3):
        scenes = Counter(s for step in steps for b in step if b.epoch == epoch for s in b.scenes)
        assert scenes == Counter(s for s, wanted in enumerate(asked[epoch]) if wanted)


def test_processes_draw_the_same_targets() -> None:
    """And the same steps, up to a remainder smaller than the number of processes."""
    asked = _asked({"scheme": "inverse_frequency"})
    trees_of = training_trees(RunConfig(), SCENES, _prompter(), None, asked)
    sizes = scene_sizes(training_trees(RunConfig(), SCENES, _prompter(), None), asked)
    drawn, steps = [], []
    for processes in (1, 2, 4):
        dealt = _schedule(sizes, processes).batches()
        shares = [dealt[rank::processes] for rank in range(processes)]
        drawn.append(
            Counter(
                (batch.epoch, scene, question.target, question.weight)
                for share in shares
                for batch in share
                for scene in batch.scenes
                for tree in trees_of(scene, batch.epoch)
                for question in tree.questions
            )
        )
        steps.append([{s for b in step for s in b.scenes} for step in _schedule(sizes, processes).steps])
    assert drawn[0] == drawn[1] == drawn[2]
    assert set(drawn[0].values()) == {1}, "no target is dealt twice"
    assert sum(weight for *_, weight in drawn[0]) == 3 * sum(len(s.utterances) for s in SCENES)
    assert steps[0][:3] == steps[1][:3] == steps[2][:3]


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=30), epochs=st.floats(0.1, 3), seed=st.integers(0, 5))
def test_equal_sizes_in_all_epochs_are_the_schedule_of_one(sizes: list[int], epochs: float, seed: int) -> None:
    rows = [sizes] * int(np.ceil(epochs))
    one, each = (order_steps(s, epochs=epochs, tokens_per_step=500, parts=1, seed=seed) for s in (sizes, rows))
    assert one == each


def test_an_epoch_leaves_out_what_has_no_size_in_it() -> None:
    steps = order_steps([[10, 0, 10], [0, 10, 0]], epochs=2, tokens_per_step=64, parts=1, seed=1).steps
    assert [(b.epoch, sorted(b.scenes)) for step in steps for b in step] == [(0, [0, 2]), (1, [1])]


def test_labels_are_listed_in_another_order_in_each_scene_and_epoch_where_that_is_asked_for() -> None:
    prompter = _prompter()
    fixed, shuffled = (
        training_trees(RunConfig(prompt={"shuffle_labels": shuffle}), SCENES, prompter, None)  # type: ignore[arg-type]
        for shuffle in (False, True)
    )
    assert _ids(fixed(0, 0)) == _ids(fixed(0, 1))
    for scene, epoch in ((0, 0), (0, 1), (1, 0)):
        order = shuffled_labels(prompter.labels, RunConfig().seed, epoch, SCENES[scene].id)
        expected = prompter.trees(SCENES[scene], "gold", label_order=order)
        assert _ids(shuffled(scene, epoch)) == _ids(expected) != _ids(fixed(scene, epoch))
    assert _ids(shuffled(0, 0)) != _ids(shuffled(0, 1))


def _ids(trees: Sequence[TokenTree]) -> list[list[int]]:
    return [tree.token_ids.tolist() for tree in trees]


@pytest.mark.parametrize("options", PROMPTS, ids=str)
def test_no_scheme_is_the_schedule_and_the_trees_of_before(options: dict[str, Any]) -> None:
    """Before: one size a scene, and trees without weights."""
    asked, prompter = _asked({}), _prompter(**options)
    before = training_trees(RunConfig(), SCENES, prompter, None)
    sizes = [sum(map(rows_of, before(scene, 0))) for scene in range(len(SCENES))]
    now = scene_sizes(before, asked)
    assert now == [sizes] * 3
    assert _schedule(now) == order_steps(sizes, epochs=3, tokens_per_step=900, parts=1, seed=13)
    trees_of = training_trees(RunConfig(), SCENES, prompter, None, asked)
    for scene in range(len(SCENES)):
        for one, other in zip(before(scene, 2), trees_of(scene, 2), strict=True):
            assert one.token_ids.tolist() == other.token_ids.tolist()
            assert one.parent.tolist() == other.parent.tolist()
            assert (one.trunk, one.questions, one.spans) == (other.trunk, other.questions, other.spans)


def test_lines_without_label_or_question_are_context_only() -> None:
    lines = (
        Utterance("a", ("Mara",), "One.", "Sad"),
        Utterance("b", ("Tomas",), "Two.", None),
        Utterance("c", ("Mara",), "Three.", "Mad", target=False),
        Utterance("d", ("Mara",), "Four.", "Mad"),
    )
    targets = labelled_targets([Dialogue("x", ()), Dialogue("y", lines)], EMORYNLP)
    assert (targets.scene.tolist(), targets.position.tolist()) == ([1, 1], [0, 3])
    assert targets.label.tolist() == [EMORYNLP.index("Sad"), EMORYNLP.index("Mad")]


def test_the_prior_without_balance_is_exactly_the_shares_of_train() -> None:
    assert target_sampler(SamplingConfig(), SCENES, EMORYNLP, 13).prior == label_distribution(SCENES, EMORYNLP)


# A class that train lacks.

MORE = LabelSet((*EMORYNLP.names, "Awestruck", "Bored"))


@pytest.mark.parametrize("field", ["scheme", "loss_weights"])
def test_an_absent_class_is_refused_by_name(field: str) -> None:
    config = SamplingConfig.model_validate({field: "square_root"})
    with pytest.raises(CorpusError, match=rf"sampling\.{field}=square_root: .* Awestruck, Bored; .*allow_absent"):
        target_sampler(config, SCENES, MORE, 13)


def test_an_absent_class_may_be_allowed_and_then_has_no_prior() -> None:
    config = SamplingConfig(scheme="inverse_frequency", allow_absent=True)
    prior = target_sampler(config, SCENES, MORE, 13).prior
    assert prior == pytest.approx([1 / 7] * 7 + [0, 0])


def test_without_balancing_an_absent_class_is_no_matter() -> None:
    assert target_sampler(SamplingConfig(), SCENES, MORE, 13).prior == label_distribution(SCENES, MORE)
