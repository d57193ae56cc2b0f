"""What a checkpoint's generation_config.json asks for bends and breaks no answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from erc_llm.decoding.constrained import Mode, generate_labels
from erc_llm.decoding.generation import generate_ids
from erc_llm.models.adapters import attach_lora
from tests.decoding.walks import MODES, end_of, random_prompts, trie_of
from tests.tiny_models import TinyModel


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoints_own_habits_change_nothing(tiny_llama: TinyModel, mode: Mode) -> None:
    model = tiny_llama.fresh_model()
    prompts, trie = random_prompts(tiny_llama, 30, seed=9), trie_of(tiny_llama)
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        results.append(generate_labels(model, tiny_llama.tokenizer, prompts, trie, mode=mode))
        model.generation_config.update(
            do_sample=True, temperature=0.1, top_k=1, top_p=0.2, repetition_penalty=3.0, no_repeat_ngram_size=1,
            num_beams=2, length_penalty=5.0, eos_token_id=[trie.answers[0][0], end_of(tiny_llama)],
        )  # fmt: skip
    assert results[0] == results[1]


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    "habit",
    [
        {"num_return_sequences": 2},
        {"stop_strings": ["\n"]},
        {"return_dict_in_generate": True},
        {"min_new_tokens": 8},
        {"suppress_tokens": list(range(40, 60))},
        {"renormalize_logits": True},
        {"guidance_scale": 3.0},
        {"exponential_decay_length_penalty": (1, 3.0)},
        {"max_time": 1e-9},
    ],
    ids=str,
)
def test_no_habit_of_a_checkpoint_bends_or_breaks_an_answer(
    tiny_llama: TinyModel, habit: dict[str, Any], adapter: bool
) -> None:
    model = tiny_llama.fresh_model()
    if adapter:
        model = attach_lora(model, rank=2, alpha=4, dropout=0.0, target_modules="all-linear", seed=0)
    prompts, trie = random_prompts(tiny_llama, 20, seed=9), trie_of(tiny_llama)

    def said() -> list[Any]:
        labels = [generate_labels(model, tiny_llama.tokenizer, prompts, trie, mode=mode) for mode in ("greedy", "beam")]
        return [*labels, generate_ids(model, tiny_llama.tokenizer, prompts, max_new_tokens=6)]

    before = said()
    for name, value in habit.items():  # as a file has it, unchecked
        setattr(model.generation_config, name, value)
    kept = model.generation_config.to_dict()
    assert said() == before
    assert model.generation_config.to_dict() == kept, "the model keeps its own"
