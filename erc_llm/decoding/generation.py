"""Text generation by a local language model: greedy and unconstrained, in left-padded batches.

Input: a model and prompts as token ids, or texts to continue. Output: token ids or text.
Does not depend on: labels, dialogues, prompt templates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from erc_llm.errors import ModelError, PromptError
from erc_llm.models.autocast import autocast
from erc_llm.prompting.encoding import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from erc_llm.models.loading import LoadedModel

_NO_REPEAT = 4  # without this, small models copy whole sentences of their prompt


def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    tokens_per_batch: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """The text that `generate_ids` generates after each prompt."""
    found = generate_ids(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        stop=stop,
        tokens_per_batch=tokens_per_batch,
        on_progress=on_progress,
    )
    return [str(tokenizer.decode(ids)) for ids in found]


def generate_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    tokens_per_batch: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Greedy generation after each prompt: always the most likely token, without penalties or other processors.

    It ends at the first special token, before the token that completes a stop string, or at the limit.

    Args:
        model: A causal LM with a plain or tree attention; it is used in eval mode.
        tokenizer: Its tokenizer.
        prompts: Token ids up to the beginning of the text.
        max_new_tokens: Most tokens of text.
        stop: Texts that end the generated text.
        tokens_per_batch: Most tokens in one batch, including padding and text.
        on_progress: Called with the number of prompts done.

    Raises:
        PromptError: A prompt is empty.
    """
    ends = _all_end_ids(model, tokenizer)
    found: dict[int, list[int]] = {}
    for batch, new in generate_batches(
        model,
        prompts,
        tokens_per_batch,
        lambda width: {"stopping_criteria": StoppingCriteriaList([_Stop(tokenizer, width, stop)] if stop else [])},
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=pad_id(tokenizer),
        do_sample=False,
        num_beams=1,
    ):
        kept = (_until_stop(tokenizer, ids, {*ends, *tokenizer.all_special_ids}, stop) for ids in new.tolist())
        found |= dict(zip(batch, kept, strict=True))
        if on_progress:
            on_progress(len(found))
    return [found[i] for i in range(len(prompts))]


def generate_batches(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    budget: int,
    hooks: Callable[[int], dict[str, Any]],
    *,
    max_new_tokens: int,
    pad_token_id: int,
    **options: Any,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Indices of a batch of prompts and the (rows, tokens) ids generated after them; the longest prompts come first.

    Rows are left-padded to a width, for which `hooks` returns the processors or criteria of `model.generate`; `budget`
    bounds rows times (width + new tokens).

    Raises:
        PromptError: A prompt is empty.
    """
    if not all(map(len, prompts)):
        raise PromptError(f"prompt {list(map(len, prompts)).index(0)} is empty, so nothing can be generated")
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    generate: Any = model.generate
    was_training = model.training
    model.eval()
    try:
        while order:
            width = len(prompts[order[0]])
            rows = max(1, budget // (width + max_new_tokens))
            batch, order = order[:rows], order[rows:]
            ids = torch.full((len(batch), width), pad_token_id, device=model.device)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[row, width - len(prompts[i]) :] = 1
            with torch.inference_mode(), autocast(model), _without_habits(model):
                output = generate(
                    input_ids=ids,
                    attention_mask=mask,
                    **hooks(width),
                    max_new_tokens=max_new_tokens,
                    pad_token_id=pad_token_id,
                    **options,
                )
            yield batch, output[:, width:]
    finally:
        model.train(was_training)


@contextmanager
def _without_habits(model: PreTrainedModel) -> Iterator[None]:
    """Ignore a checkpoint's `generation_config.json` except for its end tokens: its penalties would change results."""
    bare: Any = getattr(model, "get_base_model", lambda: model)()  # under an adapter
    habits = bare.generation_config
    ends = {name: getattr(habits, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    bare.generation_config = GenerationConfig(**ends)
    try:
        yield
    finally:
        bare.generation_config = habits


class _Stop(StoppingCriteria):
    """Ends rows whose generated text has a stop string; transformers' `stop_strings` also matches the prompt's end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_width: int, stop: Sequence[str]) -> None:
        self._tokenizer, self._prompt_width, self._stop = tokenizer, prompt_width, stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        texts = self._tokenizer.batch_decode(input_ids[:, self._prompt_width :])
        return torch.tensor([any(s in text for s in self._stop) for text in texts], device=input_ids.device)


def _until_stop(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ends: set[int], stop: Sequence[str]
) -> list[int]:
    """Ids before the first end token, and before the token in which a stop string begins."""
    kept = list(ids[: next((k for k, token in enumerate(ids) if token in ends), len(ids))])
    text = str(tokenizer.decode(kept))
    cut = min((text.index(s) for s in stop if s in text), default=None)
    while cut is not None and len(str(tokenizer.decode(kept))) > cut:
        kept.pop()
    return kept


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends generation.

    Raises:
        ModelError: The tokenizer has neither an end nor a pad token.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id
    if end is None:
        raise ModelError("the tokenizer has neither an end nor a pad token, so generation cannot end; give it one")
    return int(end)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that pads shorter prompts on the left and finished rows on the right."""
    return int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else end_id(tokenizer)


def _all_end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an assistant's turn; chat models often have more of them than their tokenizer names."""
    own: Any = getattr(model.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [] if own is None else [own]
    return sorted({end_id(tokenizer), *map(int, listed)})


def continue_texts(loaded: LoadedModel, texts: Sequence[str], max_new_tokens: int) -> list[str]:
    """The model's continuation of each text up to the end of the line; one left-padded batch.

    No sequence of four tokens of the text or its continuation is repeated (Paulus et al. 2018).

    Args:
        loaded: A model, loaded with a plain attention.
        texts: The texts to continue.
        max_new_tokens: Most tokens of a continuation.
    """
    tokenizer: Any = loaded.tokenizer
    encoder = TextEncoder(tokenizer)  # utterances must not become markup
    bos = [i for i in tokenizer("a")["input_ids"][:1] if i == tokenizer.bos_token_id]
    rows = [bos + list(encoder.data(encoder.break_markers(text))) for text in texts]
    found = [""] * len(rows)
    for batch, new in generate_batches(
        loaded.model,
        rows,
        len(rows) * (max(map(len, rows)) + max_new_tokens),
        lambda width: {"stopping_criteria": StoppingCriteriaList([_Stop(tokenizer, width, ("\n",))])},
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id(tokenizer),
        do_sample=False,
        no_repeat_ngram_size=_NO_REPEAT,
    ):
        for i, text in zip(batch, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            found[i] = text
    return [text.split("\n")[0].strip() for text in found]
