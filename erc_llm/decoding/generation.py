"""Free text from a local language model: it continues a batch of texts to the end of the line, greedily.

In: a loaded model without adapter, texts. Out: their continuations. Knows nothing of what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from erc_llm.prompting.encoding import TextEncoder

if TYPE_CHECKING:
    from erc_llm.models import LoadedModel

_NO_REPEAT = 4  # small models copy whole sentences of their prompt without this


def continue_texts(loaded: LoadedModel, texts: Sequence[str], max_new_tokens: int) -> list[str]:
    """What the model writes behind each text until the line ends; one batch, left-padded.

    No sequence of four tokens is repeated, of the text before or of the continuation (Paulus et al. 2018).

    Args:
        loaded: A model, loaded with a plain attention.
        texts: What to continue.
        max_new_tokens: Longest continuation.
    """
    tokenizer: Any = loaded.tokenizer
    encoder = TextEncoder(tokenizer)  # what people said must not become markup
    bos = [i for i in tokenizer("a")["input_ids"][:1] if i == tokenizer.bos_token_id]
    rows = [bos + list(encoder.data(encoder.break_markers(text))) for text in texts]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), tokenizer.pad_token_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for k, row in enumerate(rows):
        ids[k, width - len(row) :] = torch.tensor(row)
        mask[k, width - len(row) :] = 1
    with torch.inference_mode():
        output = loaded.model.generate(
            input_ids=ids.to(loaded.device),
            attention_mask=mask.to(loaded.device),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            no_repeat_ngram_size=_NO_REPEAT,
            pad_token_id=tokenizer.pad_token_id,
            stop_strings=["\n"],
            tokenizer=tokenizer,
        )
    found = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return [text.split("\n")[0].strip() for text in found]
