"""EmoNet's ablation: trains and compares five systems that add its parts one after the other, over several seeds.

Input: a configuration of kind emonet and a corpus. Output: a run directory per row and seed, and a table of the
measured rows beside those that the thesis reports. Finished runs are kept, so an interrupted ablation can continue.
Does not depend on: how a baseline is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from erc_llm.baselines.baseline_config import BaselineConfig, SpeakerConfig
from erc_llm.baselines.emonet import ABLATION, AblationRow
from erc_llm.baselines.training import train_baseline
from erc_llm.corpus import Corpus
from erc_llm.errors import ConfigError, PredictionsError
from erc_llm.files import write_text
from erc_llm.metrics import Estimate, Integers, confusion_by_dialogue, scores_from_confusion
from erc_llm.models.hashes import weights_sha256
from erc_llm.models.loading import encoder_folder
from erc_llm.predictions import Predictions, read_predictions, strip_text
from erc_llm.published import reported_system
from erc_llm.resampling import percentile_interval, resampled_sums
from erc_llm.runs.directory import check_precision, read_directory
from erc_llm.runs.manifest import MANIFEST
from erc_llm.runs.progress import SILENT, Progress

DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of the ablation, over its seeds; metrics are fractions.

    Attributes:
        name: Name of the row.
        words: What the row adds, in words.
        accuracy: Mean over seeds.
        weighted_f1: Mean over seeds.
        by_seed: Weighted F1 of each seed.
        step: Difference of mean weighted F1 to the row before, with its 95 % interval; None in the first row.
    """

    name: str
    words: str
    accuracy: float
    weighted_f1: float
    by_seed: tuple[float, ...]
    step: Estimate | None


@dataclass(frozen=True, slots=True)
class Ablation:
    """A finished ablation.

    Attributes:
        rows: The measured rows, in the order of `ABLATION`.
        markdown: The table, with the published one below it.
        path: The file with the table; a file of the same name with `.json` holds the rows.
    """

    rows: list[Measured]
    markdown: str
    path: Path


def row_config(config: BaselineConfig, row: AblationRow, seed: int) -> BaselineConfig:
    """The configuration of one row and seed; all runs lie below OUTPUT/NAME-ablation.

    Raises:
        ConfigError: The configuration is not EmoNet's.
    """
    if config.kind != "emonet":
        raise ConfigError(f"kind: the ablation switches off EmoNet's parts; expected emonet, found {config.kind}")
    switches = row.switches
    # The decay belongs to the behaviour module, and is refused without it.
    decay = config.memory.decay if switches.behaviour else "recurrence"
    return config.model_copy(
        update={
            "name": row.name,
            "output": str(ablation_folder(config) / f"seed-{seed}"),
            "seed": seed,
            "memory": config.memory.model_copy(update={"decay": decay}),
            "speaker": SpeakerConfig(**asdict(switches)),
        }
    )


def ablation_folder(config: BaselineConfig) -> Path:
    """The folder of an ablation's runs and table."""
    return Path(config.output) / f"{config.name}-ablation"


def run_ablation(
    config: BaselineConfig,
    corpus: Corpus,
    seeds: Sequence[int],
    split: str,
    *,
    with_text: bool = True,
    progress: Progress = SILENT,
) -> Ablation:
    """Train the rows without a finished run, predict `split`, and write the table.

    Args:
        config: A configuration of kind emonet; its section `speaker` is ignored.
        corpus: The corpus, with its selection split cut.
        seeds: Seeds; each row is trained once per seed.
        split: Name of the split to score.
        with_text: Keep the utterances' text in the predictions.
        progress: Where to show the runs.

    Raises:
        CorpusError: The corpus has no such split.
        RunError: A folder of the ablation holds a run of another configuration.
    """
    corpus.split(split)
    base_sha256 = weights_sha256(encoder_folder(config.encoder.base))
    tables: dict[str, list[Predictions]] = {row.name: [] for row in ABLATION}
    for seed in seeds:
        for row in ABLATION:
            progress.heading(f"{row.words}, seed {seed}")
            wanted = row_config(config, row, seed)
            tables[row.name].append(_table_of(wanted, corpus, base_sha256, split, with_text, progress))
    measured = measure(tables)
    folder = ablation_folder(config)
    text = as_markdown(measured, tables, split)
    write_text(folder / f"ablation-{split}.md", text + "\n")
    content = {"split": split, "seeds": list(seeds), "rows": [asdict(row) for row in measured]}
    write_text(folder / f"ablation-{split}.json", json.dumps(content, indent=1) + "\n")
    return Ablation(measured, text, folder / f"ablation-{split}.md")


def _table_of(
    config: BaselineConfig, corpus: Corpus, base_sha256: str, split: str, with_text: bool, progress: Progress
) -> Predictions:
    """The predictions of one row; it is trained and predicted unless its folder has them already."""
    folder = Path(config.output) / config.name
    path = folder / f"{split}.parquet"
    made_from = (corpus.sha256, base_sha256)
    if (kept := _kept(path, config, made_from)) is not None:
        progress.line("done already")
        if not with_text:
            strip_text(folder)
        return kept
    trained = train_baseline(config, corpus, resume=True, with_text=with_text, progress=progress)
    if (kept := _kept(path, config, made_from)) is not None:  # training writes the table of the selection split itself
        return kept
    trained.write(split, with_text=with_text, progress=progress)
    return read_predictions(path)


def _kept(path: Path, config: BaselineConfig, made_from: tuple[str, str]) -> Predictions | None:
    """The table in the folder of a finished run of this configuration; None where there is no such table.

    Args:
        path: File of the table, which must state the id of the run in its folder.
        config: Configuration whose hash the run's `config.yaml` must have.
        made_from: Hashes of corpus and encoder that the table must state.
    """
    if not path.is_file() or not (path.parent / MANIFEST).is_file():
        return None
    run = read_directory(path.parent, BaselineConfig)
    if not run.manifest.finished or run.config.sha256 != config.sha256:
        return None
    check_precision(run, config.asked_precision)
    table = read_predictions(path)
    info = table.info
    found = (info.run_id, info.corpus_sha256, info.base_model_sha256)
    return table if found == (run.manifest.run_id, *made_from) else None


def measure(tables: Mapping[str, Sequence[Predictions]], draws: int = DRAWS, seed: int = 0) -> list[Measured]:
    """Mean metrics over seeds, and each row's difference to the row before.

    The interval of a step resamples whole dialogues, in every draw the same ones for both rows and all seeds. Seeds are
    not resampled, so the interval does not include the variation between seeds.

    Args:
        tables: Tables of each row by its name, one per seed; all have the same targets.
        draws: Number of bootstrap draws.
        seed: Seed of the bootstrap.

    Raises:
        PredictionsError: The tables have different targets, or no target has a gold label.
    """
    _check_same_targets([table for found in tables.values() for table in found])
    # (dialogues, rows, seeds, labels, labels + 1)
    counts = np.stack([np.stack([_by_dialogue(t) for t in tables[row.name]], axis=1) for row in ABLATION], axis=1)
    dialogues, *shape = counts.shape
    resampled = np.concatenate(
        [
            scores_from_confusion(sums.reshape(-1, *shape)).weighted_f1.mean(axis=2)
            for sums in resampled_sums(counts.reshape(dialogues, -1), draws, seed)
        ]
    )
    rows: list[Measured] = []
    for i, row in enumerate(ABLATION):
        whole = scores_from_confusion(counts[:, i].sum(axis=0))
        value, by_seed = float(whole.weighted_f1.mean()), tuple(whole.weighted_f1.tolist())
        step = None
        if rows:
            step = Estimate(value - rows[-1].weighted_f1)
            if dialogues > 1:
                step = Estimate(step.value, *percentile_interval(resampled[:, i] - resampled[:, i - 1]))
        rows.append(Measured(row.name, row.words, float(whole.accuracy.mean()), value, by_seed, step))
    return rows


def _by_dialogue(table: Predictions) -> Integers:
    """(dialogues, labels, labels + 1) confusion counts of the labelled targets."""
    labelled = table.gold_index >= 0
    if not labelled.any():
        raise PredictionsError(f"split '{table.info.split}' has no gold label, so there is nothing to compare")
    gold, predicted, dialogue = table.gold_index, table.predicted_index, table.dialogue_index
    n = len(table.info.labels)
    return confusion_by_dialogue(gold[labelled], predicted[labelled], dialogue[labelled], n)


def _check_same_targets(tables: Sequence[Predictions]) -> None:
    if len({(table.keys, table.gold) for table in tables}) > 1:
        raise PredictionsError(
            "the ablation's tables have different targets; delete those that were made from another corpus"
        )


def as_markdown(rows: Sequence[Measured], tables: Mapping[str, Sequence[Predictions]], split: str) -> str:
    """The tables of measured and of published rows, one below the other."""
    first = next(iter(tables.values()))
    info, seeds = first[0].info, [table.info.seed for table in first]
    lines = [
        f"**Measured: {info.base_model}, `{info.corpus_version}` {split}, {len(first[0])} targets, "
        f"seeds {', '.join(map(str, seeds))}**",
        "",
        "| | accuracy | weighted F1 | of each seed | step from the row above | 95 % interval |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in rows:
        by_seed = ", ".join(f"{100 * f1:.2f}" for f1 in row.by_seed)
        cells = (row.words, f"{100 * row.accuracy:.2f}", f"{100 * row.weighted_f1:.2f}", by_seed, *_step(row.step))
        lines.append(f"| {' | '.join(cells)} |")
    elsewhere = [(row.words, reported_system(row.published)) for row in ABLATION]
    setting = elsewhere[-1][1]
    lines += [
        "",
        "Means over seeds. The interval resamples whole dialogues, the same for both rows; seeds are kept.",
        "",
        f"**Reported elsewhere, not rerun: {setting.source}; {setting.base_model}, EmoryNLP `{setting.test_version}` "
        f"test ({setting.test_utterances:,} utterances)**",
        "",
        "| | accuracy | weighted F1 | step from the row above |",
        "| --- | ---: | ---: | ---: |",
    ]
    previous: float | None = None
    for words, record in elsewhere:
        step = "" if previous is None else f"{record.weighted_f1 - previous:+.2f}"
        lines.append(f"| {words} | {record.accuracy:.2f} | {record.weighted_f1:.2f} | {step} |")
        previous = record.weighted_f1
    return "\n".join(lines)


def _step(step: Estimate | None) -> tuple[str, str]:
    if step is None:
        return "", ""
    if step.low is None or step.high is None:
        return f"{100 * step.value:+.2f}", "none"
    return f"{100 * step.value:+.2f}", f"{100 * step.low:+.2f} to {100 * step.high:+.2f}"
