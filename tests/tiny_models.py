"""Stand-in models and tokenizers, made on the spot in well under a second.

In: nothing but a folder to save into and a seed. Out: folders that load like any Hugging Face model. Three families:

- `chatml`: byte-level BPE, ChatML template, `<|im_start|>`/`<|im_end|>` as SmolLM2 has them, one added token that is
  not special (`<tool_call>`);
- `llama2`: metaspace BPE with byte fallback, `<s>`/`</s>`, the `[INST] <<SYS>>` template whose markers are plain text;
- `wordpiece`: an encoder, with BERT's tokenizer.

The weights are drawn wider than a real model's so that a changed token visibly changes the logits: with the usual
0.02 a wrong attention mask would hide below the tolerance of an equality test.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

LLAMA2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set turns = messages[1:] %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set turns = messages %}{% set system = '' %}{% endif %}"
    "{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant must take turns') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{% set words = (system if loop.first else '') + message['content'] %}"
    "{{ bos_token + '[INST] ' + words.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)

# Written for these tests. The label names occur unevenly on purpose: some become one token, some several.
TRAINING_TEXT = """
Scene. The kitchen of a small flat, early in the morning. Somebody has burnt the toast again.
Mara: Who left the window open? It is freezing in here.
Tomas: I did. The smoke had to go somewhere, and it was not going to leave on its own.
Mara: You could have woken me. I would have helped you with the toaster.
Tomas: You were asleep, and you looked happy about it. I did not want to be the one to end that.
Ines: Good morning! Did I miss the fire? I always miss the good parts.
Mara: There was no fire, Ines. There was a slice of bread that had seen better days.
Which emotion does the speaker of this line show? Answer with one label. Neutral Joyful Neutral Sad Neutral Joyful Mad
The label is Neutral. The label is Joyful. The label is Mad. The label is Sad. The label is Neutral. Neutral. Joyful.
You label each utterance of a conversation with one emotion. The labels are these words, and nothing else counts.
What the speaker said before: she was cheerful at first, and then she was worried about the rent and the dog.
user assistant system emotion utterance speaker dialogue answer question label profile
"""

# Llama-2's markers are plain text to its tokenizer, and it has pieces that spell them.
LLAMA2_MARKERS = (
    "[INST] <<SYS>> <</SYS>> [/INST] <s> </s> [INST] <<SYS>> <</SYS>> [/INST] <|im_start|> <|im_end|> 0123456789"
)


@dataclass(frozen=True)
class TinyModel:
    """A saved stand-in: its folder, and the model and tokenizer that were saved there.

    The model is shared by the whole test session: train or wrap a `fresh_model()`, never `model` itself.
    """

    folder: Path
    model: Any
    tokenizer: Any

    def fresh_model(self) -> Any:
        """An independent copy of the model in eval mode, for tests that change weights or attach an adapter."""
        return copy.deepcopy(self.model).eval()


def chatml_tokenizer() -> Any:
    """Byte-level BPE tokenizer with ChatML template; no BOS is added by encoding, as in SmolLM2."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TRAINING_TEXT.splitlines(keepends=True), trainer)
    backend.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
        chat_template=CHATML_TEMPLATE,
    )


def llama2_style_tokenizer(chat: bool = True) -> Any:
    """Metaspace BPE tokenizer with byte fallback that puts `<s>` before every encoded text, as Llama-2's does.

    Args:
        chat: With the `[INST]` template; without, it stands for a base model that has none.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab, merges = _metaspace_vocabulary()
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        chat_template=LLAMA2_TEMPLATE if chat else None,
    )


def _metaspace_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Llama-2's order of ids: three specials, 256 bytes, then what training found; line breaks only as bytes."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    scratch = Tokenizer(models.BPE())
    scratch.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    text = [*TRAINING_TEXT.splitlines(), LLAMA2_MARKERS]
    scratch.train_from_iterator(text, trainers.BpeTrainer(vocab_size=420, show_progress=False))
    learnt = json.loads(scratch.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    return {piece: index for index, piece in enumerate(pieces)}, [(left, right) for left, right in learnt["merges"]]


def random_llama(tokenizer: Any, seed: int = 0, hidden: int = 64, layers: int = 2, tied: bool = True) -> Any:
    """Random fp32 `LlamaForCausalLM` in eval mode: grouped-query attention (4 heads on 2), rope, a tied head."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        initializer_range=0.15,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).to(torch.float32).eval()


def wordpiece_tokenizer() -> Any:
    """Lower-casing WordPiece tokenizer with BERT's special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    # A trainer keeps the inner pieces (##1) of letters it has met inside a word only.
    inside = "".join(sorted(set(TRAINING_TEXT.lower()) | set("0123456789")))
    pieces = [f"a{char}" for char in inside if char.isalnum()]
    backend.train_from_iterator([*TRAINING_TEXT.splitlines(), *pieces], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **names)


def random_bert(tokenizer: Any, seed: int = 3, dropout: float = 0.1) -> Any:
    """Random fp32 `BertModel` in eval mode: two layers of 32 units, 128 positions."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.15,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(config).eval()


def save_tiny(folder: Path, tokenizer: Any, model: Any) -> TinyModel:
    """Save both in the layout that `from_pretrained` reads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TinyModel(folder=folder, model=model, tokenizer=tokenizer)


def disturb(adapted: Any, std: float) -> None:
    """Give an adapter B matrices that are not zero, so that it shows in the logits and A gets a gradient."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=std, generator=generator)
