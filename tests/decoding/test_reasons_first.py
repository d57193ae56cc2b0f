"""Free text up to a limit, then a label that follows from it."""

from __future__ import annotations

from typing import Any

from erc_llm.decoding.constrained import reason_then_label
from tests.decoding.walks import (
    end_of,
    free_walk,
    greedy_walk,
    random_prompts,
    trie_of,
)
from tests.tiny_models import TinyModel


def test_the_label_follows_the_free_text_and_the_bridge(tiny: TinyModel) -> None:
    prompts, trie = random_prompts(tiny, 10, seed=10), trie_of(tiny)
    bridge = tiny.tokenizer("The label is", add_special_tokens=False)["input_ids"]
    found = reason_then_label(tiny.model, tiny.tokenizer, prompts, trie, bridge, max_new_tokens=8)
    free = [free_walk(tiny.model, p, 8, set(tiny.tokenizer.all_special_ids)) for p in prompts]
    assert [r.text for r in found] == [tiny.tokenizer.decode(ids) for ids in free]
    whole = [[*p, *ids, *bridge] for p, ids in zip(prompts, free, strict=True)]
    assert [r.label for r in found] == [greedy_walk(tiny.model, ids, trie.answers) for ids in whole]
    assert max(map(len, free)) == 8


def test_free_text_ends_with_the_turn(tiny_llama: TinyModel) -> None:
    # Whatever it says third becomes an end of turn that only the checkpoint knows of.
    model, (prompt,) = tiny_llama.fresh_model(), random_prompts(tiny_llama, 1, seed=11)
    special = set(tiny_llama.tokenizer.all_special_ids)
    free = free_walk(model, prompt, 6, special)
    third = next(k for k in range(2, 6) if free[k] not in free[:k])
    model.generation_config.eos_token_id = [end_of(tiny_llama), free[third]]
    (found,) = reason_then_label(model, tiny_llama.tokenizer, [prompt], trie_of(tiny_llama), [5], max_new_tokens=20)
    assert found.text == tiny_llama.tokenizer.decode(free[:third])


def test_free_text_stops_before_a_stop_string(tiny: TinyModel) -> None:
    trie = trie_of(tiny)
    stopped = 0
    for prompt in random_prompts(tiny, 6, seed=12):
        ids = free_walk(tiny.model, prompt, 10, set(tiny.tokenizer.all_special_ids))
        text = tiny.tokenizer.decode(ids)
        if len(text) < 4 or "\ufffd" in text:
            continue
        stop = text[len(text) // 2 :][:2]
        (found,) = reason_then_label(
            tiny.model, tiny.tokenizer, [prompt], trie, [5], max_new_tokens=10, stop=[stop, "never said"]
        )
        assert stop not in found.text
        assert text.startswith(found.text)
        kept = next(k for k in range(len(ids) + 1) if tiny.tokenizer.decode(ids[:k]) == found.text)
        assert len(tiny.tokenizer.decode(ids[: kept + 1])) > text.index(stop), "nothing before the stop is lost"
        assert found.label == greedy_walk(tiny.model, [*prompt, *ids[:kept], 5], trie.answers)
        stopped += 1
    assert stopped


def test_reasons_in_a_batch_equal_one_by_one(tiny: TinyModel) -> None:
    prompts, trie = random_prompts(tiny, 6, seed=13), trie_of(tiny)
    options: dict[str, Any] = {"max_new_tokens": 6, "stop": ["."]}
    together = reason_then_label(tiny.model, tiny.tokenizer, prompts, trie, [5], mode="beam", **options)
    singly = [reason_then_label(tiny.model, tiny.tokenizer, [p], trie, [5], mode="beam", **options) for p in prompts]
    assert together == [found for (found,) in singly]


def test_a_stop_string_across_the_prompts_end_does_not_count(tiny_llama: TinyModel) -> None:
    tokenizer = tiny_llama.tokenizer
    for prompt in random_prompts(tiny_llama, 20, seed=14):
        ids = free_walk(tiny_llama.model, prompt, 6, set(tokenizer.all_special_ids))
        before, text = tokenizer.decode(prompt), tokenizer.decode(ids)
        stop = before[-1:] + text[:1]
        if len(stop) == 2 and "\ufffd" not in before + text and stop not in text:
            break
    (found,) = reason_then_label(
        tiny_llama.model, tokenizer, [prompt], trie_of(tiny_llama), [5], max_new_tokens=6, stop=[stop]
    )
    assert stop in before + text
    assert found.text == text
