"""Constrained generation says labels and nothing else, and says what the scores say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList

from erc_llm.corpus.labels import EMORYNLP
from erc_llm.decoding.constrained import LabelProcessor, LabelTrie, Mode, generate_labels, reason_then_label
from erc_llm.errors import ModelError, PromptError
from tests.decoding.test_scoring import ODD, PREFIXES, brute_force
from tests.decoding.walks import (
    MODES,
    end_of,
    greedy_walk,
    prompter_of,
    random_prompts,
    trie_of,
    walk_probabilities,
)
from tests.prompting.scenes import scene
from tests.tiny_models import TinyModel


@pytest.fixture(params=[EMORYNLP, PREFIXES, ODD], ids=["seven", "prefixes", "odd"])
def trie(request: pytest.FixtureRequest, tiny: TinyModel) -> LabelTrie:
    return trie_of(tiny, request.param)


def generated(
    tiny: TinyModel, trie: LabelTrie, prompts: Sequence[Sequence[int]], model: Any = None, **options: Any
) -> Any:
    """`generate` itself with the processor, as somebody else would call it."""
    width = max(map(len, prompts))
    ids = torch.tensor([[end_of(tiny)] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    settings: dict[str, Any] = {"max_new_tokens": trie.depth, "do_sample": False, "pad_token_id": end_of(tiny)}
    output = (model or tiny.model).generate(
        input_ids=ids,
        attention_mask=mask,
        logits_processor=LogitsProcessorList([LabelProcessor(trie, width, end_of(tiny))]),
        eos_token_id=end_of(tiny),
        return_dict_in_generate=True,
        output_scores=True,
        **settings | options,
    )
    return output, output.sequences[:, width:]


# The trie.


def test_it_reads_whole_answers_and_ignores_what_follows() -> None:
    trie = LabelTrie([[5, 6, 2], [5, 2], [7, 2]])
    rows = torch.tensor([[5, 6, 2, 9], [5, 2, 6, 2], [7, 2, 2, 2], [5, 6, 6, 2], [9, 5, 2, 0], [5, 6, 90_000, 2]])
    assert trie.read(rows).tolist() == [0, 1, 2, -1, -1, -1]
    assert trie.read(rows[:, :1]).tolist() == [-1] * 6
    assert trie.read(rows[:, :0]).tolist() == [-1] * 6
    assert (trie.labels, trie.depth) == (3, 3)


@pytest.mark.parametrize("answers", [[], [[]], [[5, 2], []]])
def test_a_label_without_an_answer_is_refused(answers: list[list[int]]) -> None:
    with pytest.raises(PromptError, match="at least one token"):
        LabelTrie(answers)


def test_two_labels_with_one_answer_are_refused() -> None:
    with pytest.raises(PromptError, match=r"same answer \[5, 2\]"):
        LabelTrie([[5, 2], [6, 2], [5, 2]])


def test_an_answer_without_an_end_of_its_own_is_refused() -> None:
    with pytest.raises(PromptError, match=r"\[5\] begins the answer \[5, 6\].*end tokens"):
        LabelTrie([[5, 7], [5, 6], [5]])


def test_an_end_token_inside_an_answer_is_refused(tiny_llama: TinyModel) -> None:
    end = end_of(tiny_llama)
    with pytest.raises(PromptError, match=f"continues after {end}"):
        generate_labels(tiny_llama.model, tiny_llama.tokenizer, [[5]], LabelTrie([[8, end, 9], [7, end]]))


ANSWERS = st.lists(st.lists(st.integers(0, 5), max_size=4).map(lambda a: (*a, 9)), min_size=1, max_size=9, unique=True)


@given(answers=ANSWERS, rows=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1), data=st.data())
def test_scores_are_kept_exactly_where_an_answer_goes_on(
    answers: list[tuple[int, ...]], rows: list[list[int]], data: Any
) -> None:
    starts = [list(data.draw(st.sampled_from(answers))[:3]) for _ in range(3)]
    rows += [(start + [0] * 3)[:3] for start in starts]
    trie = LabelTrie(answers)
    for steps in range(4):
        scores = torch.randn(len(rows), 12)
        ids = torch.tensor([[7, 7, *row[:steps]] for row in rows])
        found = LabelProcessor(trie, 2, 9)(ids, scores)
        for row, before, after in zip(rows, scores, found, strict=True):
            done = tuple(row[:steps])
            whole = any(done[: len(a)] == a for a in answers)
            allowed = {a[steps] for a in answers if len(a) > steps and a[:steps] == done}
            expected = [float(before[t]) if t in allowed else -np.inf for t in range(12)]
            if whole:
                expected[9] = 0.0
            assert after.tolist() == expected


def test_the_scores_it_is_given_stay_as_they_are() -> None:
    scores = torch.randn(2, 12)
    before = scores.clone()
    LabelProcessor(LabelTrie([[5, 2], [6, 2]]), 1, 2)(torch.tensor([[1], [1]]), scores)
    assert torch.equal(scores, before), "generate may still hand out the raw logits"


# Only labels.


@pytest.mark.parametrize("mode", MODES)
def test_every_random_prompt_gets_a_label(tiny: TinyModel, trie: LabelTrie, mode: Mode) -> None:
    prompts = random_prompts(tiny, 40)
    torch.manual_seed(0)
    labels = generate_labels(tiny.model, tiny.tokenizer, prompts, trie, mode=mode)
    assert len(labels) == 40
    assert set(labels) <= set(range(trie.labels))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 3}, {"do_sample": True, "top_k": 0}])
def test_generate_emits_an_answer_its_end_and_nothing_else(
    tiny: TinyModel, trie: LabelTrie, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    _, new = generated(tiny, trie, random_prompts(tiny, 20), **options)
    for row, label in zip(new.tolist(), trie.read(new).tolist(), strict=True):
        answer = trie.answers[label]
        assert label >= 0
        assert tuple(row[: len(answer)]) == answer
        assert set(row[len(answer) :]) <= {end_of(tiny)}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_ten_thousand_random_prompts(tiny_llama: TinyModel, mode: Mode) -> None:
    trie = trie_of(tiny_llama, PREFIXES)
    prompts = random_prompts(tiny_llama, 10_000, seed=1)
    torch.manual_seed(0)
    labels = Counter(
        generate_labels(tiny_llama.model, tiny_llama.tokenizer, prompts, trie, mode=mode, tokens_per_batch=60_000)
    )
    assert sum(labels.values()) == 10_000
    assert set(labels) <= set(range(trie.labels))
    # The likeliest label of a model that knows nothing is a short one; token by token it says Sad and Sadness alike.
    assert len(labels) == (2 if mode == "beam" else 4), labels


@settings(max_examples=25, deadline=None)
@given(data=st.data(), mode=st.sampled_from(MODES))
def test_any_labels_behind_any_prompts(tiny_llama: TinyModel, data: Any, mode: Mode) -> None:
    size = len(tiny_llama.tokenizer)
    token = st.integers(0, size - 1)
    inner = token.filter(lambda t: t != end_of(tiny_llama))
    ends = data.draw(st.lists(inner, max_size=1))
    answers = data.draw(st.lists(st.lists(inner, max_size=3), min_size=1, max_size=8, unique_by=tuple))
    answers = [[*answer, *ends, end_of(tiny_llama)] for answer in answers]
    prompts = data.draw(st.lists(st.lists(token, min_size=1, max_size=9), min_size=1, max_size=5))
    assume(len({tuple(a) for a in answers}) == len(answers))
    labels = generate_labels(tiny_llama.model, tiny_llama.tokenizer, prompts, LabelTrie(answers), mode=mode)
    assert all(0 <= label < len(answers) for label in labels)


# What it says.


def test_greedy_equals_a_walk_of_plain_forwards(tiny: TinyModel, trie: LabelTrie) -> None:
    prompts = random_prompts(tiny, 12, seed=2)
    found = generate_labels(tiny.model, tiny.tokenizer, prompts, trie)
    assert found == [greedy_walk(tiny.model, p, trie.answers) for p in prompts]
    assert len(set(found)) > 1


@pytest.mark.parametrize("mode", ["greedy", "beam"])
def test_a_batch_equals_one_by_one(tiny: TinyModel, trie: LabelTrie, mode: Mode) -> None:
    prompts = random_prompts(tiny, 6, seed=3)
    progress: list[int] = []
    together = generate_labels(tiny.model, tiny.tokenizer, prompts, trie, mode=mode, on_progress=progress.append)
    assert together == [generate_labels(tiny.model, tiny.tokenizer, [p], trie, mode=mode)[0] for p in prompts]
    assert progress == [6]
    small = generate_labels(
        tiny.model, tiny.tokenizer, prompts, trie, mode=mode, tokens_per_batch=1, on_progress=progress.append
    )
    assert together == small
    assert progress[1:] == list(range(1, 7))


def test_an_exhaustive_beam_ranks_as_the_scores_do(tiny: TinyModel, trie: LabelTrie) -> None:
    prompts = random_prompts(tiny, 8, seed=4)
    beams = {"num_beams": trie.labels, "num_return_sequences": trie.labels, "length_penalty": 0.0}
    output, new = generated(tiny, trie, prompts, early_stopping=False, **beams)
    ranked = trie.read(new).view(len(prompts), -1).tolist()
    scores = output.sequences_scores.view(len(prompts), -1).tolist()
    best = generate_labels(tiny.model, tiny.tokenizer, prompts, trie, mode="beam")
    for i, prompt in enumerate(prompts):
        expected = np.array([brute_force(tiny.model, prompt, list(a)) for a in trie.answers])
        assert ranked[i] == np.argsort(-expected).tolist()
        assert np.abs(np.array(scores[i]) - expected[ranked[i]]).max() <= 1e-4
        assert best[i] == expected.argmax()


def test_beams_are_reordered_on_the_way(tiny_llama: TinyModel) -> None:
    # The likelier first token leads to the unlikelier label, so the second beam overtakes the first.
    prompts = random_prompts(tiny_llama, 60, seed=5)
    trie = trie_of(tiny_llama)
    greedy = generate_labels(tiny_llama.model, tiny_llama.tokenizer, prompts, trie)
    beam = generate_labels(tiny_llama.model, tiny_llama.tokenizer, prompts, trie, mode="beam")
    assert greedy != beam


def test_fewer_beams_than_labels_still_say_labels_with_their_log_likelihoods(tiny: TinyModel, trie: LabelTrie) -> None:
    prompts = random_prompts(tiny, 8, seed=6)
    output, new = generated(tiny, trie, prompts, num_beams=2, length_penalty=0.0, early_stopping=False)
    for prompt, label, score in zip(prompts, trie.read(new).tolist(), output.sequences_scores.tolist(), strict=True):
        assert score == pytest.approx(brute_force(tiny.model, prompt, list(trie.answers[label])), abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_samples_follow_the_constrained_distribution(tiny: TinyModel, temperature: float) -> None:
    from scipy.stats import chisquare

    class Cooler(torch.nn.Module):
        def forward(self, **inputs: Any) -> Any:
            output = tiny.model(**inputs)
            output.logits = output.logits / temperature
            return output

    trie, prompt, draws = trie_of(tiny, PREFIXES), random_prompts(tiny, 1, seed=7)[0], 4000
    torch.manual_seed(0)
    labels = generate_labels(
        tiny.model, tiny.tokenizer, [prompt] * draws, trie, mode="sample", temperature=temperature,
        tokens_per_batch=40_000,
    )  # fmt: skip
    expected = walk_probabilities(Cooler(), prompt, trie.answers)
    assert expected.sum() == pytest.approx(1)
    counts = np.bincount(labels, minlength=trie.labels)
    enough = expected * draws >= 5
    assert enough.sum() >= 2
    observed = np.array([*counts[enough], counts[~enough].sum()])
    wanted = np.array([*expected[enough], expected[~enough].sum()]) * draws
    kept = wanted > 0
    assert observed[~kept].sum() == 0
    assert chisquare(observed[kept], wanted[kept] / wanted[kept].sum() * draws).pvalue > 1e-3


def test_the_same_seed_draws_the_same(tiny_llama: TinyModel) -> None:
    prompts = random_prompts(tiny_llama, 100, seed=8)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(
            generate_labels(tiny_llama.model, tiny_llama.tokenizer, prompts, trie_of(tiny_llama), mode="sample")
        )
    assert drawn[0] == drawn[1] != drawn[2]


def test_prompts_of_a_scene_say_what_its_scores_say(tiny: TinyModel) -> None:
    # The same model with the tree's attention, as predict loads it.
    from transformers import AutoModelForCausalLM

    from erc_llm.decoding.scoring import score_trees
    from erc_llm.trees.attention import ATTENTION

    model = AutoModelForCausalLM.from_pretrained(tiny.folder, attn_implementation=ATTENTION).eval()
    prompter = prompter_of(tiny)
    dialogue = scene(("Mara", "Who left the window open?"), ("Tomas", "I did."), ("Mara", "It is freezing in here."))
    prompts = [
        tree.token_ids[tree.root_path(question.last)].tolist()
        for tree in prompter.trees(dialogue, "none")
        for question in tree.questions
    ]
    scores = [s for tree in score_trees(model, prompter.trees(dialogue, "all")) for s in tree]
    found = generate_labels(model, tiny.tokenizer, prompts, LabelTrie(prompter.answer_ids), mode="beam")
    assert found == [int(s.log_likelihoods.argmax()) for s in scores]


# Bad input.


def test_a_model_that_says_nothing_is_refused(tiny_llama: TinyModel) -> None:
    model = tiny_llama.fresh_model()
    for weights in model.parameters():
        weights.data.fill_(float("nan"))
    for mode in MODES:
        with pytest.raises(ModelError, match="no label a probability"):
            generate_labels(model, tiny_llama.tokenizer, [[5, 6]], trie_of(tiny_llama), mode=mode)


def test_an_empty_prompt_is_refused_and_no_prompts_are_fine(tiny_llama: TinyModel) -> None:
    trie = trie_of(tiny_llama)
    with pytest.raises(PromptError, match="prompt 1 is empty"):
        generate_labels(tiny_llama.model, tiny_llama.tokenizer, [[5], []], trie)
    assert generate_labels(tiny_llama.model, tiny_llama.tokenizer, [], trie) == []
    assert reason_then_label(tiny_llama.model, tiny_llama.tokenizer, [], trie, [5], max_new_tokens=3) == []


def test_training_mode_comes_back(tiny_llama: TinyModel) -> None:
    model = tiny_llama.fresh_model().train()
    generate_labels(model, tiny_llama.tokenizer, [[5, 6]], trie_of(tiny_llama))
    assert model.training
