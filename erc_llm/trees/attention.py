"""Attention over a forest of token trees, and the forward pass that uses it.

The projections of the model run packed over the whole row; attention runs tree by tree (a causal trunk; branches attend
to their trunk prefix and to their own ancestors), never over the square of the row. The attention is registered with
transformers as `erc_tree`. Without a forest it is transformers' own `sdpa`, so the same loaded model also handles plain
batches, KV caches and `generate`.

Input: a model loaded with the attention `erc_tree`, and a `Forest`. Output: logits at the rows that predict an answer.
Does not depend on: text, the meaning of labels, files.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from erc_llm.errors import InternalError, ModelError
from erc_llm.trees.forest import Forest

ATTENTION = "erc_tree"


def forest_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    forest: Forest | None = None,
    tree: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a forest, tree by tree; without a forest, transformers' `sdpa`.

    `tree=True` states that the mask of a call without a forest belongs to a tree, as in scoring on a KV cache.

    Shapes: `query` (1, heads, rows, width), `key` and `value` (1, key heads, rows, width).

    Raises:
        ModelError: The model needs something that a tree cannot express (a sliding window, capped scores, sinks).
    """
    for name in ("sliding_window", "softcap", "s_aux"):
        if (forest is not None or tree) and kwargs.get(name) is not None:
            raise ModelError(f"the model's attention uses '{name}', which a token tree cannot express; use another")
    if forest is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if query.shape[2] != forest.rows:
        raise InternalError(f"attention got {query.shape[2]} rows for a forest of {forest.rows}")
    # split, not slices: the backward of a slice writes zeros over the whole row, that of split is one concatenation.
    branch_sizes = [size for t in forest.layouts for size in (t.trunk, t.stop - t.start - t.trunk)]
    tree_sizes = [t.stop - t.start for t in forest.layouts]
    queries = query.split(branch_sizes, dim=2)
    keys, values = key.split(tree_sizes, dim=2), value.split(tree_sizes, dim=2)
    if _fused_is_slow(query) and not dropout:
        attend = partial(_textbook_attention, scaling)
    else:
        attend = partial(_fused_attention, scaling, dropout)
    parts = []
    for i, layout in enumerate(forest.layouts):
        trunk, branches = queries[2 * i], queries[2 * i + 1]
        parts.append(attend(trunk, keys[i][:, :, : layout.trunk], values[i][:, :, : layout.trunk], None))
        if layout.mask is not None:
            parts.append(attend(branches, keys[i], values[i], layout.mask))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _fused_is_slow(query: torch.Tensor) -> bool:
    """torch's fused kernel is the fastest except backwards in bf16 on a CPU, where it takes three times as long."""
    return query.requires_grad and query.dtype == torch.bfloat16 and query.device.type == "cpu"


def _fused_attention(
    scaling: float | None,
    dropout: float,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """One tree's trunk (no mask: causal) or branches; shapes as in `forest_attention`."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling
    )


_BLOCK = 256  # query rows whose weights fit the cache together; a causal block needs only the keys up to its end


def _textbook_attention(
    scaling: float | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """The same result as `_fused_attention` without dropout, computed by the formula."""
    kv_heads, (heads, rows, width) = key.shape[1], query.shape[1:]
    query = query * (width**-0.5 if scaling is None else scaling)
    parts = []
    for start in range(0, rows, _BLOCK):
        stop = min(start + _BLOCK, rows)
        columns = stop if mask is None else key.shape[2]
        if mask is None:
            allowed = torch.ones(stop - start, columns, dtype=torch.bool).tril(start)
        else:
            allowed = mask[0, 0, start:stop]
        bias = torch.zeros(allowed.shape, dtype=query.dtype).masked_fill_(~allowed, -torch.inf)
        block = query[0, :, start:stop].reshape(kv_heads, -1, width)  # the heads that share keys, one after the other
        scores = torch.bmm(block, key[0, :, :columns].mT).view(kv_heads, -1, stop - start, columns) + bias
        weights = scores.softmax(dim=-1).view(kv_heads, -1, columns)
        parts.append(torch.bmm(weights, value[0, :, :columns]).view(1, heads, stop - start, width))
    return torch.cat(parts, dim=2)


AttentionInterface.register(ATTENTION, forest_attention)


AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def require_tree_attention(model: torch.nn.Module) -> None:
    """Refuse a model with another attention, which would silently ignore or misread the forest.

    Raises:
        ModelError: The model was loaded with another attention implementation.
    """
    bare = getattr(model, "module", model)  # inside the wrapper of distributed training
    found = getattr(getattr(bare, "config", None), "_attn_implementation", None)
    if found != ATTENTION:
        raise ModelError(
            f"the model runs attention '{found}', which would be silently wrong on a token tree; "
            f"load it with attention='{ATTENTION}'"
        )


# transformers' mask building returns a 4-d mask unchanged. This one is a placeholder, since `forest` holds the layout;
# without it, restarting position ids would be taken for packed documents.
_NO_MASK = torch.zeros(1, 1, 1, 1, dtype=torch.bool)


def forest_logits(model: torch.nn.Module, forest: Forest) -> torch.Tensor:
    """(logit rows, vocabulary) logits, in the model's precision, at the rows that predict an answer token."""
    require_tree_attention(model)
    output = model(
        input_ids=forest.input_ids,
        position_ids=forest.position_ids,
        attention_mask=_NO_MASK.to(forest.input_ids.device),
        logits_to_keep=forest.logit_rows,
        use_cache=False,
        forest=forest,
    )
    logits: torch.Tensor = output.logits.squeeze(0)  # not `[0]`: its gradient would be copied into zeros
    return logits
