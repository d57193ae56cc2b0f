"""Profiles and the state within the scene as parts of a token tree: where they stand, what they cost, what they see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.corpus.dialogues import EVERYONE, Corpus, Dialogue, Utterance
from erc_llm.corpus.history import History
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.errors import PromptError
from erc_llm.profiles.lines import LinesWriter
from erc_llm.profiles.profiler import Profiler, ProfileWriter
from erc_llm.profiles.statistics import StatisticsWriter
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.state import state_text
from erc_llm.prompting.templates import PromptTemplate, load_prompt
from erc_llm.trees.attention import ATTENTION
from erc_llm.trees.forest import pack
from erc_llm.trees.tree import TokenTree
from tests.prompting.random_corpora import corpora, corpus_of, rewritten_after, scene_of
from tests.prompting.scenes import HOSTILE, decode, dialogues, scene
from tests.tiny_models import TinyModel, chatml_tokenizer
from tests.trees.test_forest import TOLERANCE, all_logits, largest_difference, with_attention

relaxed = settings(max_examples=20, deadline=None)
TOKENIZER = chatml_tokenizer()
KNOWN = {
    "Mara": ("Lately more sad than usual.", "Talks a lot."),
    "Tomas": ("Not seen before.",),
    "Ines": ("She was worried about the rent and the dog.",),
}


def known(dialogue: Dialogue) -> Mapping[str, Sequence[str]]:
    return {s: KNOWN[s] for u in dialogue.utterances for s in u.speakers if s in KNOWN}


def prompter_of(sentences_of: Any = known, template: str = "plain", **options: Any) -> Prompter:
    return Prompter(TOKENIZER, load_prompt(template), EMORYNLP, PromptOptions(**options), sentences_of)


def pieces(tree: TokenTree, kind: str) -> list[str]:
    return [decode(TOKENIZER, tree.token_ids[s.start : s.stop]) for s in tree.spans if s.kind == kind]


def asked(trees: Sequence[TokenTree]) -> dict[int, list[int]]:
    return {q.target: t.token_ids[t.root_path(q.last)].tolist() for t in trees for q in t.questions}


SCENE = scene(("Mara", "Who left the window open?"), ("Tomas", "I did."), ("Mara", "It is freezing."), ("Ines", "Oh."))


# Where they stand.


def test_a_profile_stands_once_right_before_its_speakers_first_line() -> None:
    (tree,) = prompter_of().trees(SCENE, "all")
    kinds = [s.kind for s in tree.spans if s.stop <= tree.trunk]
    assert kinds == ["instruction", "profile", "line", "profile", "line", "line", "profile", "line"]
    assert pieces(tree, "profile") == [
        "[Mara: Lately more sad than usual. Talks a lot.]\n",
        "[Tomas: Not seen before.]\n",
        "[Ines: She was worried about the rent and the dog.]\n",
    ]


def test_a_line_spoken_together_brings_the_profiles_of_all_who_are_new() -> None:
    together = Utterance("u", ("Mara", "Tomas", "Ines"), "Oh!")
    said = replace(SCENE, utterances=(SCENE.utterances[1], together, SCENE.utterances[0]))
    (tree,) = prompter_of().trees(said, "all")
    kinds = [s.kind for s in tree.spans if s.stop <= tree.trunk]
    assert kinds == ["instruction", "profile", "line", "profile", "profile", "line", "line"]


def test_everyone_together_is_nobody_new() -> None:
    (tree,) = prompter_of().trees(scene((EVERYONE, "Surprise!"), ("Mara", "Oh.")), "all")
    assert [s.kind for s in tree.spans if s.stop <= tree.trunk] == ["instruction", "line", "profile", "line"]


def test_in_questions_it_stands_only_where_its_speaker_is_asked_about() -> None:
    (tree,) = prompter_of(placement="question").trees(SCENE, "all")
    assert all(s.start >= tree.trunk for s in tree.spans if s.kind == "profile")
    for question in tree.questions:
        path = decode(TOKENIZER, tree.token_ids[tree.root_path(question.last)])
        shown = [name for name in KNOWN if f"[{name}:" in path]
        assert shown == list(SCENE.utterances[question.target].speakers)


def test_a_profile_is_cut_at_a_sentence() -> None:
    whole = len(TOKENIZER.encode("[Mara: Lately more sad than usual. Talks a lot.]\n", add_special_tokens=False))
    (tree,) = prompter_of(profile_budget=whole - 1).trees(SCENE, "all")
    assert pieces(tree, "profile")[0] == "[Mara: Lately more sad than usual.]\n"
    (tree,) = prompter_of(profile_budget=10).trees(SCENE, "all")
    assert not any("Mara:" in text for text in pieces(tree, "profile")), "its first sentence is too long already"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_profile_is_never_markup(text: str) -> None:
    """Neither a marker nor a line end inside it, whatever a recalled line holds."""
    prompter = prompter_of(lambda _: {"Mara": (text, "Hm.")}, template="instruct", profile_budget=400)
    (tree,) = prompter.trees(scene(("Mara", "Oh.")), "all")
    for shown in pieces(tree, "profile"):
        assert shown.count("\n") == 1
        assert shown.endswith("]\n")
        assert "<|im_end|>" not in shown
    special = {TOKENIZER.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "<tool_call>")}
    for span in tree.spans:
        if span.kind == "profile":
            assert special.isdisjoint(tree.token_ids[span.start : span.stop].tolist())


def test_a_template_that_cannot_show_profiles_is_refused() -> None:
    source = load_prompt("plain").source.replace("block profile", "block person")
    with pytest.raises(PromptError, match="no block `profile`"):
        Prompter(TOKENIZER, PromptTemplate("own", source), EMORYNLP, None, known)


# Windows.


@relaxed
@given(dialogue=dialogues(10), budget=st.integers(120, 300))
def test_profiles_count_in_the_trunk_budget(dialogue: Dialogue, budget: int) -> None:
    prompter = prompter_of(
        lambda d: {s: ("Talks a lot.",) for u in d.utterances for s in u.speakers if s != EVERYONE}, trunk_budget=budget
    )
    head = len(prompter.head_ids(EMORYNLP.names))
    trees = prompter.trees(dialogue, "all")
    assert [q.target for t in trees for q in t.questions] == list(dialogue.targets)
    for tree in trees:
        lines = sum(s.kind == "line" for s in tree.spans)
        assert tree.trunk - head <= budget or lines == 1
        shown = pieces(tree, "profile")
        assert len(shown) == len(set(shown)), "a window introduces nobody twice"


# No leaks, with profiles and state.


@pytest.mark.parametrize("placement", ["trunk", "question"])
@pytest.mark.parametrize("writer", [StatisticsWriter(), LinesWriter()], ids=["statistics", "lines"])
@relaxed
@given(data=st.data())
def test_nothing_later_and_no_gold_label_is_among_what_a_question_reads(
    placement: Any, writer: ProfileWriter, data: st.DataObject
) -> None:
    corpus = data.draw(corpora())
    now = data.draw(st.sampled_from(list(corpus.dialogues())))
    position = data.draw(st.integers(0, len(now.utterances) - 1))
    later = data.draw(rewritten_after(now, position))
    state: list[str | None] = data.draw(
        st.lists(st.sampled_from([*EMORYNLP.names, None]), min_size=len(now.utterances), max_size=len(now.utterances))
    )
    other_state = (state[:position] + ["Mad"] * 20)[: len(later.utterances)]

    def read(changed: Dialogue, told: list[str | None]) -> dict[int, list[int]]:
        scenes = {s: tuple(changed if d is now else d for d in ds) for s, ds in corpus.splits.items()}
        profiler = Profiler(History(replace(corpus, splits=scenes)), writer, 1.0)
        prompter = prompter_of(profiler.sentences, placement=placement, trunk_budget=256)
        return {k: ids for k, ids in asked(prompter.trees(changed, "none", state=told)).items() if k < position}

    assert read(now, state) == read(later, other_state)


def test_a_question_is_told_of_the_speaker_and_of_the_last_one() -> None:
    prompter = prompter_of(None)
    state = ["Sad", "Mad", "Joyful", None]
    told = [state_text(prompter.scene(SCENE), k, state) for k in range(4)]
    assert told == ["", "Mara was sad", "Mara was sad, Tomas was mad", "Mara was joyful"]
    (tree,) = prompter.trees(SCENE, "all", state=state)
    assert "(Mara was sad, Tomas was mad. Mara feels" in decode(TOKENIZER, asked([tree])[2])
    assert asked(prompter.trees(SCENE, "all", state=[None] * 4)) == asked(prompter.trees(SCENE, "all"))


# Path equality, with profiles and state.


@pytest.fixture(scope="module")
def models(tiny_llama: TinyModel) -> tuple[Any, Any]:
    return with_attention(tiny_llama, ATTENTION), with_attention(tiny_llama, "sdpa")


@pytest.mark.parametrize("placement", ["trunk", "question"])
def test_path_equality(models: tuple[Any, Any], placement: Any) -> None:
    packed, plain = models
    prompter = prompter_of(placement=placement)
    for tree in prompter.trees(SCENE, "all", state=["Sad", "Mad", None, "Joyful"]):
        assert largest_difference(packed, plain, tree, all_logits(packed, pack([tree]))) <= TOLERANCE


def test_a_profile_changes_what_the_model_answers(models: tuple[Any, Any]) -> None:
    """Else path equality would also hold for a profile that no question sees."""
    packed, _ = models
    (with_profile,), (without,) = (p.trees(SCENE, "all") for p in (prompter_of(), prompter_of(None)))
    logits = [all_logits(packed, pack([tree]))[-1] for tree in (with_profile, without)]
    assert float((logits[0] - logits[1]).abs().max()) > 100 * TOLERANCE
    assert torch.isfinite(logits[0]).all()


def test_the_profiler_of_a_corpus_fills_the_prompt() -> None:
    past = scene_of(1, ("Ada Quill", "The toast is burning again", "Mad"), ("Ben Ode", "Oh!", "Sad"))
    now = scene_of(2, ("Ada Quill", "Where is the toast?"), ("Cleo", "Gone."))
    corpus: Corpus = corpus_of({"train": [past], "dev": [now]})
    prompter = prompter_of(Profiler(History(corpus), LinesWriter()).sentences)
    (tree,) = prompter.trees(now, "all")
    assert pieces(tree, "profile") == ['[Ada: "The toast is burning again"]\n', "[Cleo: Not seen before.]\n"]
