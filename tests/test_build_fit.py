"""Models that do not fit the longest prompts are refused before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.build import build_model, check_fit, longest_path
from erc_llm.corpus.dialogues import EVERYONE, Dialogue, Utterance
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.decoding.scoring import score_trees
from erc_llm.errors import ConfigError
from erc_llm.models.loading import LoadedModel
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.templates import PromptTemplate, load_prompt
from erc_llm.trees.tree import TokenTree
from tests.prompting.scenes import dialogue_of
from tests.tiny_models import chatml_tokenizer, save_tiny
from tests.tiny_runs import tiny_config

CROWD = ("The Cigarette Smoking Guy", "Ticket Counter Attendant", "Janice Litman Goralnik", "Casting Director No. 1")
REPEATING = "{% block system %}Choose: {{ labels | join(', ') }}.{% endblock %}" + (
    "{% block profile %}{{ name }}: {{ text }}\n{% endblock %}{% block line %}{{ name }}: {{ text }}\n{% endblock %}"
    "{% block question %}{{ state }} {{ name }} says {{ text }} and feels{% endblock %}"
    "{% block answer %}{{ label }}{% endblock %}"
)


def profiles(dialogue: Dialogue) -> Mapping[str, Sequence[str]]:
    """For everybody sentences of which many do not fit a budget."""
    speakers = {s for u in dialogue.utterances for s in u.speakers if s != EVERYONE}
    return {s: ("Talks.", *("Has been worried about the rent.",) * 30) for s in speakers}


def prompter_of(profile: bool, source: str | None = None, **options: Any) -> Prompter:
    template = load_prompt("instruct") if source is None else PromptTemplate("mine", source)
    return Prompter(chatml_tokenizer(), template, EMORYNLP, PromptOptions(**options), profiles if profile else None)


def depth(tree: TokenTree) -> int:
    """Tokens of a tree's longest root path."""
    return max(len(tree.root_path(node)) for node in range(len(tree)))


@st.composite
def crowded(draw: st.DrawFn) -> Dialogue:
    """A scene in which up to four speak together, some of them much."""
    who = st.lists(st.sampled_from(CROWD), min_size=1, max_size=4, unique=True).map(tuple)
    words = st.integers(0, 120).map(lambda n: " ".join(["the toast is burning,"] * n))
    said = draw(st.lists(st.tuples(who, words), min_size=1, max_size=6))
    return dialogue_of([Utterance("u", speakers, text) for speakers, text in said])


@settings(max_examples=25, deadline=None)
@given(
    dialogue=crowded(),
    profile=st.booleans(),
    repeats=st.booleans(),
    context=st.sampled_from(["past", "full"]),
    placement=st.sampled_from(["trunk", "question"]),
    budgets=st.tuples(st.sampled_from([64, 200]), st.sampled_from([8, 60, 120])),
)
def test_no_tree_is_deeper_than_the_longest_path(
    dialogue: Dialogue, profile: bool, repeats: bool, context: Any, placement: Any, budgets: tuple[int, int]
) -> None:
    prompter = prompter_of(
        profile,
        REPEATING if repeats else None,
        context=context,
        placement=placement,
        trunk_budget=budgets[0],
        profile_budget=budgets[1],
    )
    state = ["Peaceful"] * len(dialogue.utterances)
    for told in (None, state):
        bound = sum(longest_path(prompter, state=told is not None).values())
        for tree in prompter.trees(dialogue, "all", state=told):
            assert depth(tree) <= bound


def learned_positions(folder: Path, positions: int) -> LoadedModel:
    """A model with a table of positions, which fails behind its end; rotary ones go on without a word."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = chatml_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": positions, "vocab_size": len(tokenizer)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**sizes, **ends, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0))
    save_tiny(folder, tokenizer, model)
    return build_model(tiny_config(folder, folder, folder))


PLACED = {"placement": "question", "profile_budget": 120, "trunk_budget": 64}


def test_profiles_and_state_in_questions_are_counted(tmp_path: Path) -> None:
    prompter = prompter_of(True, **PLACED)
    bare = sum(longest_path(prompter_of(False, **PLACED), state=False).values())
    loaded = learned_positions(tmp_path, bare)
    check_fit(prompter_of(False, **PLACED), loaded, state=False)
    text = " ".join(["the toast is burning,"] * 40)
    tree = prompter.trees(dialogue_of([Utterance("u", (name,), text) for name in CROWD]), "all")[-1]
    assert depth(tree) > bare
    with pytest.raises(IndexError):
        score_trees(loaded.model, [tree])
    with pytest.raises(ConfigError, match=r"profiles 480.*; lower profile\.budget, set profile\.placement=trunk$"):
        check_fit(prompter, loaded, state=False)
    with pytest.raises(ConfigError, match=r"prompt\.trunk_budget: 64 tokens of lines and \d+ around them exceed"):
        check_fit(prompter_of(False, **PLACED), loaded)


def test_a_model_that_just_fits_is_taken_and_reads_the_longest_prompts(tmp_path: Path) -> None:
    prompter = prompter_of(True, **PLACED)
    loaded = learned_positions(tmp_path, sum(longest_path(prompter).values()))
    check_fit(prompter, loaded)
    text = " ".join(["the toast is burning,"] * 40)
    dialogue = dialogue_of([Utterance("u", CROWD, text)] * 3)
    trees = prompter.trees(dialogue, "all", state=["Peaceful"] * 3)
    assert sum(map(len, score_trees(loaded.model, trees))) == 3
    with pytest.raises(ConfigError, match=r"free text 1\d.*lower scoring\.reason_tokens or scoring\.answer_tokens"):
        check_fit(prompter, loaded, 10)


def test_the_budget_that_the_message_names_fits(tmp_path: Path) -> None:
    loaded = learned_positions(tmp_path, 600)
    with pytest.raises(ConfigError, match=r"use at most \d+$") as refused:
        check_fit(prompter_of(False, trunk_budget=500), loaded)
    most = int(str(refused.value).rpartition(" ")[2])
    check_fit(prompter_of(False, trunk_budget=most), loaded)
    with pytest.raises(ConfigError):
        check_fit(prompter_of(False, trunk_budget=most + 1), loaded)


def test_a_question_repeats_as_much_of_a_line_as_the_trunk_shows() -> None:
    prompter = prompter_of(False, REPEATING, trunk_budget=64)
    for text in ("burning " * 200, "x" * 5000, "\u00fc" * 40):
        repeated = sum(map(len, dict(prompter.question_ids(1, "Ada", text)).values()))
        empty = sum(map(len, dict(prompter.question_ids(1, "Ada", "")).values()))
        assert empty < repeated <= empty + prompter.longest_line
    short = "The kettle has gone again."
    assert short in prompter.frame.encoder.text(dict(prompter.question_ids(1, "Ada", short))["question"])
