"""GGUF vocabulary: writes a Hugging Face tokenizer as llama.cpp reads it.

Input: a model folder with `tokenizer.json`. Output: fields of a GGUF file.
Does not depend on: weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf

from erc_llm.errors import ModelError

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
    r"|\s+"
)
# How text is cut before merging, to llama.cpp's name of it (`llama_vocab_pre_type` in its src/llama-vocab.cpp).
_BYTE_LEVEL = {
    (("ByteLevel", True),): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("Split", _QWEN2), ("ByteLevel", False)): "qwen2",
    (("Split", _LLAMA_3), ("ByteLevel", False)): "llama-bpe",
}


def add_vocabulary(writer: Any, folder: Path, size: int) -> None:
    """Add the tokens, merges, special tokens and chat template of a tokenizer to a `gguf.GGUFWriter`.

    Args:
        writer: The writer.
        folder: Model folder.
        size: Rows of the model's embedding; ids without a token are written as unused.

    Raises:
        ModelError: The tokenizer is missing, or of a kind that llama.cpp has no name for.
    """
    path = folder / "tokenizer.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: missing or no JSON: {error}; GGUF export needs a fast tokenizer") from error
    model = content["model"]
    if model["type"] != "BPE":
        raise ModelError(f"{path}: its model is {model['type']}; GGUF export knows byte pair encoding only")
    tokens = _tokens(content, size)
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(_scores(content, size))
        merges = False
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(path, content))
        merges = True
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    special = gguf.SpecialVocab(folder, load_merges=merges, n_vocab=size)
    special.add_special_token.setdefault("bos", False)  # where nothing is stated, llama.cpp has a default of its own
    special.add_to_gguf(writer, quiet=True)


def _tokens(content: dict[str, Any], size: int) -> list[tuple[bytes, gguf.TokenType]]:
    """Text and kind of each id from 0 to `size`."""
    by_id = {index: text for text, index in content["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in content.get("added_tokens", ())}
    fallback = bool(content["model"].get("byte_fallback"))
    found = []
    for index in range(size):
        if (entry := added.get(index)) is not None:
            kind = gguf.TokenType.CONTROL if entry["special"] else gguf.TokenType.USER_DEFINED
            if fallback and entry["content"] == content["model"].get("unk_token"):
                kind = gguf.TokenType.UNKNOWN
            found.append((entry["content"].encode(), kind))
        elif (text := by_id.get(index)) is None:
            found.append((f"[PAD{index}]".encode(), gguf.TokenType.UNUSED))
        else:
            is_byte = fallback and len(text) == 6 and text.startswith("<0x")
            found.append((text.encode(), gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL))
    return found


def _scores(content: dict[str, Any], size: int) -> list[float]:
    """Scores of SentencePiece, whose larger one merges first: minus the rank of a token's first merge."""
    vocabulary = content["model"]["vocab"]
    scores = [0.0] * size
    for rank, merge in enumerate(content["model"]["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        index = vocabulary.get(left + right)
        if index is not None and scores[index] == 0.0:
            scores[index] = -float(rank + 1)
    return scores


def _pre_tokenizer(path: Path, content: dict[str, Any]) -> str:
    stated = content.get("pre_tokenizer") or {}
    steps = stated.get("pretokenizers", [stated])
    key = tuple(_step(step) for step in steps)
    if key not in _BYTE_LEVEL:
        raise ModelError(
            f"{path}: cuts text in a way that GGUF export has no name for ({', '.join(name for name, _ in key)}); "
            f"it knows {', '.join(_BYTE_LEVEL.values())}. Export it with --format merged, and convert that folder with "
            "llama.cpp's convert_hf_to_gguf.py"
        )
    return _BYTE_LEVEL[key]


def _step(step: dict[str, Any]) -> tuple[str, Any]:
    kind = str(step.get("type"))
    if kind == "ByteLevel":
        return kind, bool(step.get("use_regex", True))
    if kind == "Digits":
        return kind, bool(step.get("individual_digits"))
    return kind, step.get("pattern", {}).get("Regex")
