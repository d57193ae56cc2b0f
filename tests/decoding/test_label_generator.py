"""What a model writes about whole scenes: on the prompts that scoring reads, and nothing that is no label passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.decoding import label_generator as answers_module
from erc_llm.decoding.generation import generate_texts
from erc_llm.decoding.label_generator import Way, Writer, answer_scenes
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.templates import load_prompt
from tests.decoding.test_scoring import ODD, PREFIXES
from tests.decoding.walks import free_walk, greedy_walk
from tests.prompting.scenes import scene
from tests.test_predictor import LINES
from tests.tiny_models import TinyModel

SCENES = [scene(*(LINES[k:] * 2)) for k in range(3)]
WAYS: tuple[Way, ...] = ("label", "reason_then_label", "free")
MOST = 6


@pytest.fixture(scope="module", params=["chatml", "llama2", "base"])
def tiny(
    request: pytest.FixtureRequest, tiny_llama: TinyModel, tiny_llama2_style: TinyModel, tiny_llama2_base: TinyModel
) -> TinyModel:
    return {"chatml": tiny_llama, "llama2": tiny_llama2_style, "base": tiny_llama2_base}[request.param]


def writer_of(tiny: TinyModel, way: Way, labels: LabelSet = EMORYNLP, tokens: int = 4096, **options: Any) -> Writer:
    template = load_prompt("instruct" if tiny.tokenizer.chat_template else "plain")
    prompter = Prompter(tiny.tokenizer, template, labels, PromptOptions(**options))
    return Writer(tiny.model, tiny.tokenizer, prompter, way, MOST, tokens)


def prompts_by_hand(prompter: Prompter, dialogue: Dialogue) -> dict[int, list[int]]:
    """Target to what scoring has read when an answer begins."""
    return {
        question.target: tree.token_ids[tree.root_path(question.last)].tolist()
        for tree in prompter.trees(dialogue, "all")
        for question in tree.questions
    }


@pytest.mark.parametrize("labels", [EMORYNLP, PREFIXES, ODD], ids=["seven", "prefixes", "odd"])
@pytest.mark.parametrize("options", [{}, {"context": "full"}, {"trunk_budget": 64}], ids=str)
def test_a_label_is_the_greedy_walk_behind_the_prompt_of_its_scores(
    tiny: TinyModel, labels: LabelSet, options: dict[str, Any]
) -> None:
    writer = writer_of(tiny, "label", labels, **options)
    found = answer_scenes(writer, SCENES[:1])[0]
    prompts = prompts_by_hand(writer.prompter, SCENES[0])
    assert [a.target for a in found] == list(SCENES[0].targets) == sorted(prompts)
    for answer in found:
        assert answer.label == greedy_walk(tiny.model, prompts[answer.target], writer.prompter.answer_ids)
        assert answer.text == writer.prompter.answer_texts[answer.label]


def own_words(tiny: TinyModel, writer: Writer, prompt: list[int], stop: str | None) -> str:
    """What the model says greedily before an end, as text, with one plain forward a token."""
    text = str(tiny.tokenizer.decode(free_walk(tiny.model, prompt, MOST, set(tiny.tokenizer.all_special_ids))))
    return text if stop is None else text.partition(stop)[0]


def test_free_text_is_greedy_and_only_a_spelling_makes_it_a_label(tiny: TinyModel) -> None:
    """A model that knows nothing says no label: all invalid, and every text is kept."""
    writer = writer_of(tiny, "free")
    stop = None if tiny.tokenizer.chat_template else ")"
    found = answer_scenes(writer, SCENES[:1])[0]
    for answer in found:
        prompt = prompts_by_hand(writer.prompter, SCENES[0])[answer.target]
        assert answer.text == own_words(tiny, writer, prompt, stop)
    assert {a.label for a in found} == {None}
    assert any(a.text for a in found)


def test_free_texts_are_mapped_by_spelling(tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Sad", " joyful.", "angry", "Sad or Mad", "", "<html>", "Sadd", "Answer: Scared", "very sad", "\n"]
    monkeypatch.setattr(answers_module, "generate_texts", lambda *_, **__: texts)
    (found,) = answer_scenes(writer_of(tiny_llama, "free"), SCENES[:1])
    names = [None if a.label is None else EMORYNLP.names[a.label] for a in found]
    assert names == ["Sad", "Joyful", "Mad", None, None, None, None, "Scared", None, None]
    assert [a.text for a in found] == texts


class Parrot(torch.nn.Module):
    """Wraps a tiny model: whatever the prompt, it says these tokens one after the other, as if by heart."""

    def __init__(self, tiny: TinyModel, said: list[int]) -> None:
        super().__init__()
        self.model, self.said = tiny.fresh_model(), said
        forward = self.model.forward

        def spoken(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            if kwargs.get("past_key_values") is not None and kwargs["input_ids"].shape[1] > 1:
                self.steps = 0
            output.logits[:, -1] = -1e4
            output.logits[:, -1, said[min(self.steps, len(said) - 1)]] = 0
            self.steps += 1
            return output

        self.steps = 0
        self.model.forward = spoken


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_a_model_that_says_a_label_and_its_end_is_understood(tiny_llama: TinyModel, kind: str) -> None:
    """With an end of turn as with the text that ends an answer; what it would go on with is not heard."""
    template = load_prompt("instruct" if kind == "chat" else "plain")
    prompter = Prompter(tiny_llama.tokenizer, template, EMORYNLP)
    sad = EMORYNLP.index("Sad")
    said = [*prompter.answer_ids[sad], *prompter.answer_ids[0]]
    parrot = Parrot(tiny_llama, said)
    writer = Writer(parrot.model, tiny_llama.tokenizer, prompter, "free", len(said))
    (found,) = answer_scenes(writer, SCENES[:1])
    assert {(a.label, a.text.strip()) for a in found} == {(sad, prompter.answer_texts[sad])}


def test_reasons_stand_before_the_label_they_led_to(tiny: TinyModel) -> None:
    writer = writer_of(tiny, "reason_then_label")
    found = answer_scenes(writer, SCENES[:1])[0]
    prompts = prompts_by_hand(writer.prompter, SCENES[0])
    stop = None if tiny.tokenizer.chat_template else ")"
    walked = 0
    for answer in found:
        reasons, follows, label = answer.text.rpartition("\nAnswer:")
        assert follows
        assert reasons == own_words(tiny, writer, prompts[answer.target], stop)
        assert label.strip() == writer.prompter.answer_texts[answer.label or 0]
        ids = free_walk(tiny.model, prompts[answer.target], MOST, set(tiny.tokenizer.all_special_ids))
        if reasons == tiny.tokenizer.decode(ids):  # no stop cut it
            prompt = [*prompts[answer.target], *ids, *writer.bridge]
            assert answer.label == greedy_walk(tiny.model, prompt, writer.prompter.answer_ids)
            walked += 1
    assert walked


def test_a_label_behind_reasons_is_set_apart_from_the_words_before_it(tiny: TinyModel) -> None:
    writer = writer_of(tiny, "reason_then_label")
    written = tiny.tokenizer.decode([*writer.bridge, *writer.prompter.answer_ids[5]])
    apart = "\nAnswer:" + (" " if writer.prompter.frame.lead else "\n") + writer.prompter.answer_texts[5]
    assert apart in written


@pytest.mark.parametrize("way", WAYS)
def test_scenes_together_equal_one_by_one(tiny_llama: TinyModel, way: Way) -> None:
    told: list[int] = []
    together = answer_scenes(writer_of(tiny_llama, way), SCENES, on_progress=told.append)
    alone = [answer_scenes(writer_of(tiny_llama, way, tokens=1), [dialogue])[0] for dialogue in SCENES]
    assert together == alone
    assert told == sorted(told)
    assert told[-1] == len(SCENES)


def test_a_second_pass_is_told_what_the_first_one_answered(tiny_llama: TinyModel) -> None:
    writer = writer_of(tiny_llama, "label")
    (first,), (second,) = (answer_scenes(writer, SCENES[:1], passes=passes) for passes in (1, 2))  # type: ignore[arg-type]
    state = [EMORYNLP.names[a.label] for a in first if a.label is not None]
    assert len(state) == len(SCENES[0].utterances)
    (tree,) = writer.prompter.trees(SCENES[0], "none", state=state)
    for question, answer in zip(tree.questions, second, strict=True):
        prompt = tree.token_ids[tree.root_path(question.last)].tolist()
        assert answer.label == greedy_walk(tiny_llama.model, prompt, writer.prompter.answer_ids)


def test_a_second_pass_is_told_nothing_of_invalid_answers(
    tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, states = writer_of(tiny_llama, "free"), []
    original = writer.prompter.trees

    def spy(dialogue: Dialogue, answers: Any, **options: Any) -> Any:
        states.append(options["state"])
        return original(dialogue, answers, **options)

    monkeypatch.setattr(writer.prompter, "trees", spy)
    monkeypatch.setattr(
        writer, "write", lambda prompts, _: [(None, "?") if k % 2 else (5, "Sad") for k in range(len(prompts))]
    )
    answer_scenes(writer, SCENES[:1], passes=2)
    assert states == [None, ["Sad", None] * 5]


def test_a_scene_without_targets_is_fine(tiny_llama: TinyModel) -> None:
    assert answer_scenes(writer_of(tiny_llama, "label"), [Dialogue("empty", ())]) == [[]]
    assert answer_scenes(writer_of(tiny_llama, "label"), [Dialogue("empty", ()), SCENES[0]])[0] == []


def test_greedy_texts_are_bent_by_no_habit_of_the_checkpoint(tiny_llama: TinyModel) -> None:
    model, prompts = tiny_llama.fresh_model(), [[5, 6, 7], [9, 10, 11, 12]]
    plain = generate_texts(model, tiny_llama.tokenizer, prompts, max_new_tokens=12)
    model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=3.0, no_repeat_ngram_size=1)
    assert generate_texts(model, tiny_llama.tokenizer, prompts, max_new_tokens=12) == plain
    walked = [free_walk(tiny_llama.model, p, 12, set(tiny_llama.tokenizer.all_special_ids)) for p in prompts]
    assert plain == [tiny_llama.tokenizer.decode(ids) for ids in walked]
    assert generate_texts(model, tiny_llama.tokenizer, [], max_new_tokens=12) == []
