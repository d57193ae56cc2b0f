"""The card of an export: metrics of the run's predictions tables, what it had seen, and how each form is loaded.

Input: a run, the record of its export, predictions tables. Output: the export's README.md.
Does not depend on: how an export is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from erc_llm.calibration.choose import choose_correction
from erc_llm.errors import ConfigError, RunError
from erc_llm.export.card import licence_of, model_card
from erc_llm.files import write_text
from erc_llm.predictions import read_predictions
from erc_llm.predictions.correction import MOST_PROBABLE
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
) -> None:
    """Write the card of an export.

    Args:
        run: The run that was exported.
        record: What the export is.
        licence: Licence of the base model.
        leakage: What the run had seen, as `measure` found it.
        folder: Where to write.
        target: The folder's final name, for the commands.

    Raises:
        RunError: The file cannot be written.
    """
    decision = choose_correction(run).decision
    text = model_card(
        record,
        run.config,
        run.manifest,
        licence=licence,
        leakage=leakage,
        load=_how_to_load(record, target, run.config.lora.rank),
        answers=MOST_PROBABLE if decision is None else decision.words,
    )
    write_text(folder / "README.md", text.rstrip() + "\n", RunError)


def measure(run: Run, tables: Sequence[Path]) -> tuple[tuple[Measured, ...], dict[str, str]]:
    """Metrics of the run's predictions tables, and what their metadata say that it had seen, by question.

    Raises:
        PredictionsError: A table cannot be read.
        ConfigError: A table is of another run.
    """
    from erc_llm.evaluation.leakage import leakage_manifest
    from erc_llm.evaluation.report import evaluate

    found: list[Measured] = []
    leakage: dict[str, str] = {}
    for path in tables:
        table = read_predictions(path)
        if table.info.run_id != run.manifest.run_id:
            raise ConfigError(f"{path}: is of run {table.info.run_id}, expected {run.manifest.run_id}")
        evaluation = evaluate(table)
        split = f"{table.info.split} of {table.info.corpus_version} ({evaluation.targets:,} utterances)"
        for name, estimate in asdict(evaluation.headline).items():
            values = (estimate["value"], estimate["low"], estimate["high"])
            found.append(Measured(split, name.replace("_", " "), *values))
        leakage |= {row.name: row.values[0] for row in leakage_manifest([table.info])}
    return tuple(found), leakage


def vllm_rank(rank: int) -> int | None:
    """The smallest `--max-lora-rank` of vLLM that fits a rank; None if it takes no adapter of that rank."""
    return next((allowed for allowed in VLLM_RANKS if rank <= allowed), None)


def _how_to_load(record: ExportRecord, target: Path, rank: int) -> str:
    name = target.name
    flag = vllm_rank(rank)
    vllm = f"# vLLM takes ranks up to {VLLM_RANKS[-1]}, this adapter has {rank}: export it as merged"
    if flag is not None:
        vllm = f"vllm serve {record.base} --enable-lora --max-lora-rank {flag} --lora-modules emotions={name}"
    ours = f'erc_llm.load("{name}").predict(dialogue)           # or: erc-llm predict {name} CORPUS --split test'
    return {
        "peft": f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{record.base}"), "{name}")\n{vllm}\n'
        f"{ours}",
        "merged": f'AutoModelForCausalLM.from_pretrained("{name}")\n{ours}',
        "gguf": f"llama-server -m {name}/{next(iter(record.weights), '')}\n{ours}",
        "gguf-lora": f"llama-server -m BASE.gguf --lora {name}/{next(iter(record.weights), '')}\n{ours}",
    }[record.form]
