"""Operations and bytes of a QLoRA step at LLaMA-2-7B's shape, counted: token tree against one prompt per utterance.

torch counts the floating-point operations of forward, recomputation (gradient checkpointing) and backward on tensors
without data. Layers are alike, so models of one and two layers give those of all. Attention is counted as the full
square on both sides. Tokens are those of the configuration's tokenizer, by default SmolLM2's, on scenes of a corpus.

Input: a corpus and a configuration. Output: a table of what one labelled utterance costs on each side.
Does not depend on: weights, a GPU, time.

    python -m benchmarks.counted --corpus FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.outcome import exit_code
from benchmarks.random_llama import RANK, SHAPES, Shape

if TYPE_CHECKING:
    import torch

    from erc_llm.trees.tree import TokenTree

LENGTHS = (128, 256, 512)  # of plain rows; operations are a polynomial of degree two in the length


@dataclass(frozen=True, slots=True)
class Side:
    """What one labelled utterance costs.

    Attributes:
        name: The side.
        tokens: Tokens that are read.
        operations: Floating-point operations of a training step's share.
        passes: Times that all weights are read: a step's three passes over the utterances that it holds.
    """

    name: str
    tokens: float
    operations: float
    passes: float


def count(corpus: str, config: str, overrides: Sequence[str], scenes: int, budget: int) -> tuple[Side, Side]:
    """Count both sides on scenes of train; `budget` is the number of tokens of a forward pass."""
    from benchmarks.peers import training_rows
    from benchmarks.workload import Settings, read_config
    from erc_llm.build import build_prompter
    from erc_llm.corpus import labelled_scenes
    from erc_llm.models.loading import load_tokenizer
    from erc_llm.recipes.data import open_corpus
    from erc_llm.trees.forest import rows_of

    settings = read_config(Settings(corpus, config, tuple(overrides)))
    labels = settings.label_set()
    found = open_corpus(settings.corpus, labels)
    prompter = build_prompter(settings, labels, load_tokenizer(settings.model.base), past=found)
    drawn = labelled_scenes(found, scenes, settings.seed)
    trees = [tree for dialogue in drawn for tree in prompter.trees(dialogue, "gold")]
    lengths = [len(row["input_ids"]) for row in training_rows(trees)]
    shape = SHAPES["llama2-7b"]
    targets = len(lengths)
    packed = sum(map(rows_of, trees))
    of_trees = sum(_all_layers(shape, lambda layers, tree=tree: _of_tree(shape, layers, tree)) for tree in trees)
    by_length = np.polynomial.Polynomial.fit(
        LENGTHS,
        [_all_layers(shape, lambda layers, n=n: _of_row(shape, layers, n)) for n in LENGTHS],
        deg=2,
    )
    of_rows = float(sum(by_length(n) for n in lengths))
    return (
        Side("token tree", packed / targets, of_trees / targets, 3 * packed / budget / targets),
        Side(
            "one prompt per utterance", sum(lengths) / targets, of_rows / targets, 3 * sum(lengths) / budget / targets
        ),
    )


def weights_read() -> int:
    """Bytes of one pass over the 4-bit weights, their scales, and the head."""
    from erc_llm.planning.architecture import parse_architecture
    from erc_llm.planning.bases import shipped_shapes
    from erc_llm.planning.quantised import quantised_bytes

    name = "meta-llama/Llama-2-7b-hf"
    architecture = parse_architecture(shipped_shapes()[name], name)
    return sum(quantised_bytes(architecture)) + 2 * architecture.head_weights


def _all_layers(shape: Shape, of: Any) -> float:
    one, two = of(1), of(2)
    return float(one + (shape.layers - 1) * (two - one))


def _model(shape: Shape, layers: int) -> Any:
    """A Llama without data, with LoRA on all linear layers and gradient checkpointing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    from erc_llm.trees.attention import ATTENTION

    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=False,
        use_cache=False,
    )
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.bfloat16)
        model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def _of_tree(shape: Shape, layers: int, tree: TokenTree) -> int:
    """Operations of one tree: logits at its answers only."""
    from erc_llm.trees.attention import forest_logits
    from erc_llm.trees.forest import pack

    model, forest = _model(shape, layers), pack([tree]).to("meta")
    return _operations(lambda: forest_logits(model, forest))


def _of_row(shape: Shape, layers: int, tokens: int) -> int:
    """Operations of one plain row: logits at every token, as TRL computes them."""
    import torch

    model, ids = _model(shape, layers), torch.zeros(1, tokens, dtype=torch.long, device="meta")
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device="meta")
    return _operations(lambda: model(input_ids=ids, attention_mask=mask, use_cache=False).logits)


def _operations(logits: Callable[[], torch.Tensor]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        logits().float().sum().backward()
    return int(counter.get_total_flops())


def print_sides(sides: Sequence[Side], console: Console) -> None:
    """Print the table."""
    ours = sides[0]
    weights = weights_read()
    table = Table(title="LLaMA-2-7B, one labelled utterance of a QLoRA step, counted", title_justify="left")
    table.add_column("side")
    for column in ("tokens", "TFLOP", "GB of weights read", "times the tree's tokens", "FLOP"):
        table.add_column(column, justify="right")
    for side in sides:
        table.add_row(
            side.name,
            f"{side.tokens:.0f}",
            f"{side.operations / 1e12:.2f}",
            f"{side.passes * weights / 1e9:.2f}",
            f"{side.tokens / ours.tokens:.2f}",
            f"{side.operations / ours.operations:.2f}",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counted", description=__doc__)
    parser.add_argument("--corpus", default="sample", help="corpus; default: the embedded sample")
    parser.add_argument("--config", default="llama2-7b-qlora", help="configuration of the prompt")
    parser.add_argument(
        "--set", action="append", default=["model.base=smollm2-135m-instruct"], help="change a field; repeatable"
    )
    parser.add_argument("--scenes", type=int, default=40, help="scenes drawn from train")
    parser.add_argument("--budget", type=int, default=4096, help="tokens of a forward pass")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    return exit_code(
        lambda: print_sides(count(options.corpus, options.config, options.set, options.scenes, options.budget), console)
    )


if __name__ == "__main__":
    sys.exit(main())
