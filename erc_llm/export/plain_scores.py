"""Plain scores of probes: a causal model's log-likelihoods, without the token tree and any other code of this package.

Input: a model of transformers or PEFT, and probes. Output: log-likelihoods.
Does not depend on: how the model was loaded, prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from erc_llm.export.probes import Probe
from erc_llm.metrics import Floats


def plain_scores(model: Any, probes: Sequence[Probe]) -> Floats:
    """(probes, labels) log-likelihoods of each probe's answers.

    Args:
        model: A causal language model, in eval mode.
        probes: The probes; all have as many answers.
    """
    with torch.inference_mode():
        return np.array([_of_probe(model, probe) for probe in probes])


def _of_probe(model: Any, probe: Probe) -> list[float]:
    """The answers' log-likelihoods: one pass over the prompt, and one over all answers on its cache."""
    width, count = max(map(len, probe.answers)), len(probe.answers)
    prompt = torch.tensor([probe.prompt], device=model.device)
    seen = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    first = torch.log_softmax(seen.logits[0, -1].double(), dim=-1)
    scores = [float(first[answer[0]]) for answer in probe.answers]
    if width == 1:
        return scores
    cache = seen.past_key_values
    cache.batch_repeat_interleave(count)
    padded = [[*answer, *[0] * (width - len(answer))] for answer in probe.answers]
    known = [[1] * (len(probe.prompt) + len(answer)) + [0] * (width - len(answer)) for answer in probe.answers]
    logits = model(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(known, device=model.device),
        past_key_values=cache,
        use_cache=True,
    ).logits
    following = torch.log_softmax(logits.double(), dim=-1)
    for i, answer in enumerate(probe.answers):
        scores[i] += float(sum(following[i, k, token] for k, token in enumerate(answer[1:])))
    return scores
