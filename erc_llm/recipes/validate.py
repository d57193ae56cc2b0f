"""End-to-end validation: everything about a configuration that could fail later, found now and reported together.

No weights are loaded and no training is started. Of a model on the hub only its small files are downloaded; a dataset
on the hub is downloaded whole. A check that needs what an earlier one found missing is left out with a note.

Input: a configuration file and overrides. Output: a `Report`.
Does not depend on: terminals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.build import build_prompter, check_positions
from erc_llm.config import RetrievalConfig, RunConfig
from erc_llm.config_files import find_config, read_yaml, resolve_valid
from erc_llm.errors import ConfigError, UserError
from erc_llm.models.devices import check_launcher
from erc_llm.models.loading import read_tokenizer, resolve_base_model, small_files
from erc_llm.planning.checks_base import attach_to_skeleton, build_skeleton, check_attention, trainable_parameters
from erc_llm.planning.checks_device import check_device
from erc_llm.planning.checks_hub import check_hub, check_shards
from erc_llm.planning.checks_libraries import check_libraries
from erc_llm.planning.checks_output import check_output, check_run_space
from erc_llm.planning.checks_prompts import (
    Trees,
    check_chat_end,
    check_ends,
    check_lengths,
    check_vocabulary,
    trained_prompts,
)
from erc_llm.planning.findings import Finding, Report, TrainedPrompt, collected
from erc_llm.recipes.plan import plan_on_gpu, shortfall
from erc_llm.recipes.validate_inputs import Inputs, read_inputs

if TYPE_CHECKING:
    from peft import PeftModel

    from erc_llm.corpus import Corpus
    from erc_llm.prompting.prompter import Prompter

_ORDER = {"error": 0, "warning": 1, "note": 2}
_BASELINE = ("kind", "encoder", "memory", "speaker")  # fields of a baseline's configuration alone


@dataclass(slots=True)
class _Findings:
    """What the checks have found so far."""

    found: list[Finding] = field(default_factory=list)
    prompts: tuple[TrainedPrompt, ...] = ()

    def report(self) -> Report:
        ordered = sorted(dict.fromkeys(self.found), key=lambda finding: _ORDER[finding.severity])
        return Report(tuple(ordered), self.prompts)


def validate(source: str | Path, overrides: Sequence[str] = (), *, resume: bool = False) -> Report:
    """Check a configuration, its files, the base model, this machine and the export.

    Args:
        source: A YAML file, or the name of a packaged configuration.
        overrides: `key.sub=value` texts.
        resume: Whether the run is to be continued, so that its directory may exist.
    """
    findings = _Findings()
    config = _read_config(source, overrides, findings.found)
    findings.found += check_libraries(config)
    if config is None:
        findings.found.append(_skipped("everything but the libraries", "the configuration"))
        return findings.report()
    with collected(findings.found, "accelerate", "start with `accelerate launch --multi_gpu --num_processes N ...`"):
        check_launcher()
    findings.found += check_device(config.model.device, config.model.precision)
    findings.found += check_output(config, resume)
    if config.scoring.forecast:
        found, remedy = "is for prediction; training learns it by training.auxiliary.next_emotion", "leave it out"
        findings.found.append(Finding("error", "scoring.forecast", found, remedy))
        config = config.model_copy(update={"scoring": config.scoring.model_copy(update={"forecast": False})})
    inputs = read_inputs(config, findings.found)
    folder = _base_files(config, findings.found)
    if folder is None:
        what = "GPU memory, attention, prompts, adapter and export"
        findings.found.append(_skipped(what, "the base model's small files"))
        return findings.report()
    if inputs.corpus is not None:
        findings.found += _check_plan(config, inputs.corpus)
    skeleton = _check_base(config, folder, findings.found)
    _check_prompts(config, inputs, folder, skeleton, findings)
    if skeleton is not None:
        _check_adapter(config, folder, skeleton, findings.found)
    return findings.report()


def _check_plan(config: RunConfig, corpus: Corpus) -> Iterator[Finding]:
    """An error where the run's memory does not fit this machine's GPU."""
    try:
        planned = plan_on_gpu(config, corpus)
    except UserError:
        return  # other checks report a corpus without labels, and an adapter without layers
    if planned is not None and (short := shortfall(planned)):
        yield Finding("error", "GPU memory", short.found, short.remedy)


def _skipped(what: str, without: str) -> Finding:
    return Finding(
        "note", "not checked", f"{what}, which need {without}", "mend what is reported above, and validate again"
    )


def _read_config(source: str | Path, overrides: Sequence[str], findings: list[Finding]) -> RunConfig | None:
    """The configuration, with defaults in place of fields that have mistakes; None if it cannot be read at all."""
    try:
        path = find_config(source)
        content = read_yaml(path)
    except ConfigError as error:
        findings.append(Finding("error", "configuration", str(error), "name one of these, or correct the file"))
        return None
    if own := sorted({*content} & {*_BASELINE}):
        found = f"{path}: the configuration of a baseline (it has {', '.join(own)}), expected one of `erc-llm train`"
        findings.append(Finding("error", "configuration", found, f"`erc-llm baseline {source}` trains it"))
        return None
    config, mistakes = resolve_valid(RunConfig, content, overrides)
    remedy = "correct it, or leave it out; `erc-llm config` has type, default and range of every field"
    for mistake in mistakes:
        where, _, found = mistake.partition(": ")
        place = "" if "override" in mistake else f" ({path})"
        findings.append(Finding("error", where, found + place, remedy))
    return config


def _base_files(config: RunConfig, findings: list[Finding]) -> Path | None:
    """The folder with the base model's configuration and tokenizer; None if it cannot be had."""
    base = config.model.base
    remedy = "set model.base to a folder written by save_pretrained, a hub id, or smollm2-135m-instruct"
    with collected(findings, "model.base", remedy):
        source = resolve_base_model(base)
        if isinstance(source, Path):
            from erc_llm.models.hashes import weight_files

            again = "copy or download the missing files again"
            with collected(findings, "model.base", f"{again}; weights must be safetensors"):
                weight_files(source)
            findings += check_shards(source, again)
            return source
        state = check_hub(source)
        findings += state.findings
        return small_files(base) if state.available else None
    return None


def _check_base(config: RunConfig, folder: Path, findings: list[Finding]) -> Any:
    """The base model without weights; None if its architecture cannot be built."""
    with collected(
        findings, "model.base", "choose a causal language model that transformers has, without its own code"
    ):
        skeleton = build_skeleton(folder)
        findings += check_attention(skeleton)
        return skeleton
    return None


def _check_prompts(config: RunConfig, inputs: Inputs, folder: Path, skeleton: Any, findings: _Findings) -> None:
    """Check tokenizer, template and prompts; their trained tokens are stored with the findings."""
    prompter = None
    template = "set prompt.template=plain, or choose a model and a template that fit together"
    with collected(findings.found, "prompt.template", template):
        prompter = _prompter(config, inputs, folder)
    if prompter is None:
        return
    findings.found += check_chat_end(prompter, config.model.base, folder)
    if config.profile.writer == "llm" and not prompter.template.has("profile"):
        found = f"prompt '{prompter.template.name}' has no block `profile`, so it cannot show profiles"
        findings.found.append(Finding("error", "prompt.template", found, "add the block, or set profile.writer=none"))
    positions = None if skeleton is None else getattr(skeleton.config, "max_position_embeddings", None)
    if positions is not None:
        findings.found += _check_context(config, prompter, int(positions))
    if not inputs.scenes:
        findings.found.append(_skipped("lengths and trained tokens", "labelled scenes of train"))
        return
    trees: Trees | None = None
    with collected(findings.found, "training.auxiliary", "leave it out, or add what it needs"):
        trees = _trees(config, inputs, prompter)
    if trees is None:
        return
    findings.found += check_lengths(trees, prompter, config.training.tokens_per_step, positions)
    if skeleton is not None:
        findings.found += check_vocabulary(trees, prompter, skeleton.get_input_embeddings().weight.shape[0])
    findings.prompts = trained_prompts(trees, prompter)
    findings.found += check_ends(findings.prompts, prompter.frame.end)


def _prompter(config: RunConfig, inputs: Inputs, folder: Path) -> Prompter:
    """The prompter, with profiles and retrieval that need no model: no notes, and lines by shared words."""
    writer = "none" if config.profile.writer == "llm" or inputs.corpus is None else config.profile.writer
    profile = config.profile.model_copy(update={"writer": writer, "encoder": None})
    names = "first" if inputs.corpus is None else config.prompt.names
    prompt = config.prompt.model_copy(update={"names": names})
    trained = inputs.corpus is not None and "train" in inputs.corpus.splits
    retrieval = config.retrieval.model_copy(update={"encoder": "words"}) if trained else RetrievalConfig()
    plain = config.model_copy(update={"profile": profile, "prompt": prompt, "retrieval": retrieval})
    return build_prompter(plain, config.label_set(), read_tokenizer(folder), past=inputs.corpus)


def _check_context(config: RunConfig, prompter: Prompter, positions: int) -> Iterator[Finding]:
    """Errors where the longest possible prompt, or the text generated after it, exceeds the model's context."""
    scoring, state = config.scoring, config.state.source != "none"
    written = scoring.answer_tokens if scoring.decode == "free" else 0
    if scoring.answer == "reason_then_label":
        written = scoring.reason_tokens
    for where, tokens in (("prompt.trunk_budget", 0), ("scoring", written)):
        found: list[Finding] = []
        with collected(found, where, "lower prompt.trunk_budget, or choose a model of more positions"):
            check_positions(prompter, positions, config.model.base, tokens, state)
        if found:
            yield from found
            return


def _trees(config: RunConfig, inputs: Inputs, prompter: Prompter) -> Trees:
    """The training trees of every scene in the first epoch, all labelled targets asked."""
    from erc_llm.tuning.scene_trees import training_trees

    trees_of = training_trees(config, inputs.scenes, prompter, inputs.confusion)
    return [(scene, trees_of(number, 0)) for number, scene in enumerate(inputs.scenes)]


def _check_adapter(config: RunConfig, folder: Path, skeleton: Any, findings: list[Finding]) -> None:
    """Check the adapter's layers, the room for its checkpoints, and its exports."""
    with collected(findings, "lora.target_modules", "set lora.target_modules=all-linear, or name layers of the model"):
        adapted = attach_to_skeleton(skeleton, config.lora)
        if short := check_run_space(config, trainable_parameters(adapted)):
            findings.append(short)
        findings += check_export(adapted, config.lora.rank, folder)


def check_export(adapted: PeftModel, rank: int, folder: Path) -> Iterator[Finding]:
    """Findings about what `erc-llm export` could not do with an adapter.

    Args:
        adapted: The base model, with or without weights, with the adapter on it.
        rank: Rank of the adapter.
        folder: Folder with the base model's `config.json`.
    """
    from peft import get_peft_model_state_dict

    from erc_llm.export.gguf_names import gguf_layout, read_config
    from erc_llm.export.lora import beyond_lora
    from erc_llm.models.adapters import LORA_TENSOR
    from erc_llm.recipes.export_card import VLLM_RANKS

    beyond = beyond_lora(adapted.peft_config["default"].to_dict())
    # Without `save_embedding_layers=False` PEFT may ask the hub how large the vocabulary was.
    saved = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    odd = [name for name in saved if LORA_TENSOR.fullmatch(name) is None]
    if odd:
        beyond.append(f"tensors that are no matrices of a linear layer (the first is {odd[0]})")
    if beyond:
        found = f"`erc-llm export` would refuse this adapter: it has {', '.join(beyond)}"
        yield Finding("error", "lora.target_modules", found, "name linear layers only, or choose another base model")
    if rank > max(VLLM_RANKS):
        found = f"rank {rank} is above {max(VLLM_RANKS)}, the largest that vLLM serves; other exports take it"
        yield Finding("warning", "lora.rank", found, f"set lora.rank to {max(VLLM_RANKS)} or less to use vLLM")
    try:
        gguf_layout(read_config(folder), folder)
    except UserError as error:
        yield Finding("note", "export --format gguf", str(error), "export --format merged")
