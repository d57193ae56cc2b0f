"""Attention over a forest of token trees, and the forward pass that uses it.

The projections of the model run packed over the whole row; attention runs tree by tree (a causal trunk; branches attend
to their trunk prefix and to their own ancestors), never over the square of the row. On a GPU that can, one kernel
attends over the whole forest instead (`erc_llm.trees.flex`). The attention is registered with transformers as
`erc_tree`. Without a forest it is transformers' own `sdpa`, so the same loaded model also handles plain batches, KV
caches and `generate`.

Input: a model loaded with the attention `erc_tree`, and a `Forest`. Output: logits at the rows that predict an answer,
and the hidden states that they are computed from.
Does not depend on: text, the meaning of labels, files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from erc_llm.errors import InternalError, ModelError
from erc_llm.trees.flex import flex_forest_attention, takes_flex
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
    """Attention over a forest, in one kernel or tree by tree; without a forest, transformers' `sdpa`.

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
    if takes_flex(query, key, value, scaling, dropout):
        result = flex_forest_attention(query, key, value, scaling, forest)
    else:
        result = _tree_by_tree(query, key, value, dropout, scaling, forest)
    return result.transpose(1, 2).contiguous(), None


def _tree_by_tree(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
    forest: Forest,
) -> torch.Tensor:
    """(1, heads, rows, width) attention of every row of a forest; the reference for the attention in one kernel."""
    # split, not slices: the backward of a slice writes zeros over the whole row, that of split is one concatenation.
    branch_sizes = [size for t in forest.layouts for size in (t.trunk, t.stop - t.start - t.trunk)]
    tree_sizes = [t.stop - t.start for t in forest.layouts]
    queries = query.split(branch_sizes, dim=2)
    keys, values = key.split(tree_sizes, dim=2), value.split(tree_sizes, dim=2)
    masks = forest.masks.branches
    if _fused_is_slow(query) and not dropout:
        attend = partial(_textbook_attention, scaling)
    elif query.device.type == "cpu":
        attend = partial(_fused_attention, scaling, dropout)
    else:
        attend, masks = partial(_gpu_attention, scaling, dropout), forest.masks.biases(query.dtype)
    parts = []
    for i, (layout, mask) in enumerate(zip(forest.layouts, masks, strict=True)):
        trunk, branches = queries[2 * i], queries[2 * i + 1]
        parts.append(attend(trunk, keys[i][:, :, : layout.trunk], values[i][:, :, : layout.trunk], None))
        if mask is not None:
            parts.append(attend(branches, keys[i], values[i], mask))
    return torch.cat(parts, dim=2)


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
    """One tree's trunk (no mask: causal) or branches on a CPU; shapes as in `forest_attention`."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling
    )


def _gpu_attention(
    scaling: float | None,
    dropout: float,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """The same result as `_fused_attention` without copies of keys and values for the heads that share them.

    Of torch's kernels the flash kernel shares them itself, and it takes no mask. With one, `enable_gqa` would end in
    the kernel that stores all scores; so the key heads become a batch, in which the keys of a group are a view.
    """
    heads, key_heads, causal = query.shape[1], key.shape[1], mask is None
    attend = partial(functional.scaled_dot_product_attention, dropout_p=dropout, scale=scaling, is_causal=causal)
    if heads == key_heads:
        return attend(query, key, value, attn_mask=mask)
    if causal and _flash_shares_keys(query, key, value, dropout):
        return attend(query, key, value, enable_gqa=True)
    grouped = query[0].unflatten(0, (key_heads, -1))  # (key heads, heads of a group, rows, width)
    key, value = (tensor[0, :, None].expand(-1, grouped.shape[1], -1, -1) for tensor in (key, value))
    return attend(grouped, key, value, attn_mask=mask).flatten(0, 1)[None]


def _flash_shares_keys(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """Whether torch's flash kernel takes these tensors, with fewer heads of keys than of queries."""
    return bool(can_use_flash_attention(SDPAParams(query, key, value, None, dropout, True, True)))


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


def forest_logits(model: torch.nn.Module, forest: Forest) -> torch.Tensor:
    """(logit rows, vocabulary) logits, in the model's precision, at the rows that predict an answer token."""
    require_tree_attention(model)
    # transformers' mask building returns a 4-d mask unchanged. This one is a placeholder, since `forest` holds the
    # layout; without it, restarting position ids would be taken for packed documents. It is made where it is needed,
    # since a GPU would wait for a copy.
    no_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=forest.input_ids.device)
    output = model(
        input_ids=forest.input_ids,
        position_ids=forest.position_ids,
        attention_mask=no_mask,
        logits_to_keep=forest.logit_rows,
        use_cache=False,
        forest=forest,
    )
    logits: torch.Tensor = output.logits.squeeze(0)  # not `[0]`: its gradient would be copied into zeros
    return logits


@contextmanager
def reading_states(model: torch.nn.Module, wanted: bool = True) -> Iterator[list[torch.Tensor]]:
    """Collect the last hidden states of the forward passes inside: what the output layer reads, after the final norm.

    The list gets the (1, logit rows, width) states of each pass; none are collected unless `wanted`.
    """
    found: list[torch.Tensor] = []
    if not wanted:
        yield found
        return
    bare: Any = getattr(model, "module", model)
    hook = bare.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        hook.remove()
