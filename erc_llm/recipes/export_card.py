"""The card of an export: metrics of the run's predictions tables, what it had seen, and how each form is loaded.

Input: a run, the record of its export, predictions tables. Output: the export's README.md.
Does not depend on: how an export is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from erc_llm.calibration.choose import choose_correction
from erc_llm.errors import ConfigError, RunError
from erc_llm.export.card import licence_of, model_card
from erc_llm.files import write_text
from erc_llm.predictions import Correction, PredictionsInfo, read_predictions
from erc_llm.predictions.correction import MOST_PROBABLE
from erc_llm.recipes.prediction_info import held_out, profile_source, public_retrieval, retrieval_source
from erc_llm.runs.directory import Run
from erc_llm.runs.exported import ExportRecord, Measured

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of --max-lora-rank (vllm/config/lora.py)


def find_licence(base: str, given: str | None) -> str:
    """The licence of a base model, as given or as known.

    Raises:
        ConfigError: It is neither.
    """
    licence = given or licence_of(base)
    if licence is None:
        raise ConfigError(f"{base}: its licence is not known here; name it, such as --licence apache-2.0")
    return licence


def write_card(
    run: Run, record: ExportRecord, licence: str, leakage: Mapping[str, str], folder: Path, target: Path
) -> str:
    """Write the card of an export; returns the commands that load it from the working directory.

    Args:
        run: The run that was exported.
        record: What the export is.
        licence: Licence of the base model.
        leakage: What the run had seen, as `measure` found it.
        folder: Where to write.
        target: Where the folder will be, for the commands.

    Raises:
        RunError: The file cannot be written.
    """
    rank, retrieves = run.config.lora.rank, run.config.retrieval.use != "none"
    text = model_card(
        record,
        run.config,
        run.manifest,
        licence=licence,
        leakage=leakage,
        load=_how_to_load(record, target.name, rank, retrieves),
        answers=_answers(choose_correction(run)),
    )
    write_text(folder / "README.md", text.rstrip() + "\n", RunError)
    return _how_to_load(record, str(target), rank, retrieves)


def measure(run: Run, tables: Sequence[Path]) -> tuple[tuple[Measured, ...], dict[str, str]]:
    """Metrics of the run's predictions tables, and what their metadata say that it had seen, by question.

    Raises:
        PredictionsError: A table cannot be read.
        ConfigError: A table is of another run.
    """
    from erc_llm.evaluation.leakage import leakage_manifest
    from erc_llm.evaluation.report import evaluate

    found: list[Measured] = []
    infos: list[PredictionsInfo] = []
    for path in tables:
        table = read_predictions(path)
        if table.info.run_id != run.manifest.run_id:
            raise ConfigError(f"{path}: is of run {table.info.run_id}, expected {run.manifest.run_id}")
        evaluation = evaluate(table)
        split = f"{table.info.split} of {table.info.corpus_version} ({evaluation.targets:,} utterances)"
        if table.info.system != run.config.name:
            split += f", {table.info.system.removeprefix(run.config.name).lstrip(', ')}"
        for name, estimate in asdict(evaluation.headline).items():
            values = (estimate["value"], estimate["low"], estimate["high"])
            found.append(Measured(split, name.replace("_", " "), *values))
        infos.append(replace(table.info, retrieval=public_retrieval(table.info.retrieval)))
    if not infos:
        return (), _seen_in_training(run)
    splits = [info.split for info in infos]
    return tuple(found), {row.name: _joined(row.values, splits) for row in leakage_manifest(infos)}


def _seen_in_training(run: Run) -> dict[str, str]:
    """What the run's own records say that it had seen, where there is no table."""
    manifest = run.manifest
    retrieved = {}
    if run.config.retrieval.use != "none":
        retrieved["retrieval"] = retrieval_source(run.config, str(manifest.train_sha256))
    return {
        "context": manifest.context or "none: reads no dialogue",
        "profile or memory": profile_source(run.config),
        **retrieved,
        "trained on": f"{manifest.corpus_name}, {manifest.corpus_version}: train",
        "steps and calibration chosen on": held_out(run),
    }


def _joined(values: Sequence[str], splits: Sequence[str]) -> str:
    """One value for all tables, or each with its split."""
    if len(set(values)) == 1:
        return values[0]
    return "; ".join(f"{split}: {value}" for split, value in zip(splits, values, strict=True))


def _answers(correction: Correction) -> str:
    """Prior, calibration and decision rule in words."""
    steps = []
    if correction.prior is not None:
        steps.append(f"the prior of training is replaced by that of the {correction.prior.name}")
    if correction.scaling is not None:
        steps.append(f"calibrated by a temperature and offsets ({correction.scaling.words})")
    if correction.mixing is not None:
        steps.append(f"mixed with weight {correction.mixing.weight:.3g} with the {correction.mixing.words}")
    steps.append(MOST_PROBABLE if correction.decision is None else correction.decision.words)
    return "; then ".join(steps)


def vllm_rank(rank: int) -> int | None:
    """The smallest `--max-lora-rank` of vLLM that fits a rank; None if it takes no adapter of that rank."""
    return next((allowed for allowed in VLLM_RANKS if rank <= allowed), None)


def _how_to_load(record: ExportRecord, name: str, rank: int, retrieves: bool) -> str:
    flag = vllm_rank(rank)
    vllm = f"# vLLM takes ranks up to {VLLM_RANKS[-1]}, this adapter has {rank}: export it as merged"
    if flag is not None:
        vllm = f"vllm serve {record.base} --enable-lora --max-lora-rank {flag} --lora-modules emotions={name}"
    ours = f'erc_llm.load("{name}").predict(dialogue)           # or: erc-llm predict {name} CORPUS --split test'
    if retrieves:
        ours = (
            "# its prompts contain lines of train, which are not part of this export: CORPUS is that of its training\n"
            f'erc_llm.load("{name}", past=erc_llm.read_corpus(CORPUS)).predict(dialogue)\n'
            f"erc-llm predict {name} CORPUS --split test"
        )
    base = f'AutoModelForCausalLM.from_pretrained("{record.base}"'
    if record.form == "peft" and record.from_base == "nf4":  # as it was loaded in training
        dtype = f"torch.{record.scored_in}"
        base += (
            f', dtype={dtype}, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
            f"bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype={dtype})"
        )
        vllm = f"# vLLM: add --quantization bitsandbytes\n{vllm}"
    return {
        "peft": f'PeftModel.from_pretrained({base}), "{name}")\n{vllm}\n{ours}',
        "merged": f'AutoModelForCausalLM.from_pretrained("{name}")\n{ours}',
        "gguf": f"llama-server -m {name}/{next(iter(record.weights), '')}\n{ours}",
        "gguf-lora": f"llama-server -m BASE.gguf --lora {name}/{next(iter(record.weights), '')}\n{ours}",
    }[record.form]
