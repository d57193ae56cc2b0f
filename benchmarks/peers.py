"""The peers of the benchmarks: one prompt per utterance, on transformers' own `sdpa` attention.

The peers are TRL's SFTTrainer, `generate` and log-likelihood requests. They get the same prompts, answers and targets
as the token trees, as plain rows (the root paths), and share no prefix.

Input: token trees. Output: rows, and the results of the peers on them.
Does not depend on: forests, tree attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

    from erc_llm.trees.tree import TokenTree
    from erc_llm.tuning.trainer import FitSettings

IGNORED = -100  # label that the losses of transformers ignore
NEW_TOKENS = 10


@dataclass(frozen=True, slots=True)
class Prompt:
    """One utterance's prompt.

    Attributes:
        ids: Token ids from the first token to the answer's header: the question's root path.
        answers: Token ids of its answers, end tokens included, in the order of `labels`.
        labels: Label index of each answer.
    """

    ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]


def prompts_of(trees: Sequence[TokenTree]) -> list[Prompt]:
    """Each question of each tree as a separate prompt, in order."""
    return [
        Prompt(
            tuple(tree.token_ids[tree.root_path(question.last)].tolist()),
            tuple(tuple(tree.token_ids[list(path)].tolist()) for path in question.answers),
            question.labels,
        )
        for tree in trees
        for question in tree.questions
    ]


def training_rows(trees: Sequence[TokenTree]) -> list[dict[str, list[int]]]:
    """Gold trees as rows for TRL: token ids, and labels that ignore everything except the answer."""
    return [
        {"input_ids": [*p.ids, *answer], "labels": [IGNORED] * len(p.ids) + list(answer)}
        for p in prompts_of(trees)
        for answer in p.answers
    ]


def fit_trl(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, list[int]]],
    settings: FitSettings,
    batch_size: int,
    padding_free: bool,
    folder: Path,
    callbacks: Sequence[TrainerCallback],
) -> None:
    """Train one epoch with plain SFTTrainer: length-grouped batches of `batch_size` rows, padded or as one flat row."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from erc_llm.models.lr_schedules import scheduler_name

    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=settings.accumulation,
        train_sampling_strategy="group_by_length",
        padding_free=padding_free,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=scheduler_name(settings.lr_schedule),
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=settings.bf16,
        fp16=settings.fp16,
        use_cpu=settings.use_cpu,
        seed=settings.seed,
        logging_steps=settings.log_every,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        max_length=None,
    )
    SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    ).train()


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def generate_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], batch_size: int, constrained: bool
) -> list[list[int]]:
    """Greedy answers of `generate`, left-padded, sorted by length; at most ten new tokens, ended by the end of turn.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompts: One per utterance.
        batch_size: Number of prompts per batch.
        constrained: Whether `prefix_allowed_tokens_fn` allows only the answers of the prompts.
    """
    import torch

    model.eval()
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    longest = max((len(a) for p in prompts for a in p.answers), default=0)
    answers: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode():
        for batch in by_length([len(p.ids) for p in prompts], batch_size):
            rows, mask = _padded([prompts[i].ids for i in batch], pad, model.device, left=True)
            width = rows.shape[1]
            options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS}
            if constrained:
                allowed = [_allowed_after(prompts[i].answers, eos) for i in batch]
                options = {
                    "max_new_tokens": longest + 1,
                    "prefix_allowed_tokens_fn": lambda row, ids, a=allowed, w=width: a[row](ids[w:].tolist()),
                }
            output = model.generate(
                input_ids=rows, attention_mask=mask, do_sample=False, eos_token_id=eos, pad_token_id=pad, **options
            )
            for i, new in zip(batch, output[:, width:].tolist(), strict=True):
                answers[i] = new
    return answers


def _allowed_after(answers: Sequence[Sequence[int]], eos: int) -> Callable[[Sequence[int]], list[int]]:
    """A function from the tokens generated so far to those allowed next; after a whole answer, only the end of turn."""

    def allowed(done: Sequence[int]) -> list[int]:
        if eos in done:
            return [eos]
        fitting = [a for a in answers if len(a) > len(done) and list(a[: len(done)]) == list(done)]
        return sorted({a[len(done)] for a in fitting}) or [eos]

    return allowed


def answered_label(prompt: Prompt, generated: Sequence[int], eos: int) -> int | None:
    """The label whose answer the generated tokens are, up to the end of turn; None if there is none."""
    for label, answer in zip(prompt.labels, prompt.answers, strict=True):
        until = answer.index(eos) + 1 if eos in answer else len(answer)
        if tuple(generated[:until]) == answer[:until]:
            return label
    return None


def answer_token_log_likelihoods(model: Any, prompts: Sequence[Prompt], batch_size: int) -> list[list[list[float]]]:
    """Log-likelihood requests as in lm-evaluation-harness: one full sequence per prompt and answer.

    The model returns logits at every position, and all of them are normalised; requests are sorted by length and
    right-padded, and the last token of each is not read. Returns log-probabilities by prompt, answer and answer token.
    """
    import torch

    model.eval()
    requests = [(i, k) for i, p in enumerate(prompts) for k in range(len(p.answers))]
    sequences = [prompts[i].ids + prompts[i].answers[k] for i, k in requests]
    results: list[list[list[float]]] = [[[] for _ in p.answers] for p in prompts]
    with torch.inference_mode():
        for batch in by_length([len(s) for s in sequences], batch_size):
            rows, mask = _padded([sequences[j][:-1] for j in batch], 0, model.device, left=False)
            steps = model(input_ids=rows, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
            for row, j in enumerate(batch):
                i, k = requests[j]
                answer = torch.tensor(prompts[i].answers[k], device=steps.device)
                stop = len(sequences[j]) - 1
                results[i][k] = steps[row, stop - len(answer) : stop].gather(1, answer[:, None])[:, 0].tolist()
    return results


def _padded(sequences: Sequence[Sequence[int]], pad: int, device: Any, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, width) ids and their attention mask."""
    import torch

    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, place] = torch.tensor(sequence)
        mask[row, place] = 1
    return ids.to(device), mask.to(device)
