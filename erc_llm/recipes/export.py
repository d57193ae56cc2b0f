"""End-to-end export: writes a run's adapter in another form, reloads it in a fresh process, and proves that it computes
the same.

Input: a finished run, and the wanted form. Output: an export folder, which appears complete and verified or not at all.
Does not depend on: how forms are written and loaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import groupby
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.console import Console

from erc_llm.calibration.store import read_calibration
from erc_llm.config import RetrievalConfig
from erc_llm.errors import ConfigError, DriftError, RunError
from erc_llm.export.gguf_names import gguf_layout, read_config
from erc_llm.export.lora import read_lora
from erc_llm.export.merging import check_fits, tensor_shapes
from erc_llm.export.probes import probe_of, write_probes
from erc_llm.files import whole_folder
from erc_llm.models.devices import PRECISION_DTYPES, free_gpu
from erc_llm.models.loading import HUB_ID, base_folder
from erc_llm.models.wheels import BASE_MODELS
from erc_llm.recipes.export_card import find_licence, measure, write_card
from erc_llm.recipes.export_files import public_model, write_form, write_run
from erc_llm.recipes.export_verify import reader_of, reload_apart, too_far
from erc_llm.retrieval.store import NEIGHBOURS
from erc_llm.retrieval.vectors import HIDDEN
from erc_llm.runs.directory import Run
from erc_llm.runs.exported import ExportRecord, Form, write_record
from erc_llm.runs.opened import open_run
from erc_llm.runs.provenance import versions

if TYPE_CHECKING:
    from erc_llm.export.probes import Probe
    from erc_llm.prompting.prompter import Prompter

Stored = Literal["auto", "f16", "bf16", "q8_0"]
FromBase = Literal["auto", "original", "nf4"]
PROBES = 24  # from all of the sample corpus's test split
FP32_BYTES = 8 * 1024**3  # most bytes of a base model in fp32 for which probes are scored in fp32
# Largest difference of a probability that is accepted. In 16 bits, kernels alone differ by up to 0.03.
TOLERANCE = {"peft": 1e-3, "gguf-lora": 1e-3, "f16": 0.01, "bf16": 0.03, "q8_0": 0.05}
TOLERANCE_16_BITS = 0.06


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export.

    Attributes:
        run: The run directory.
        form: The form.
        target: The export folder; None: a name under `adapters/`.
        stored: Type of the weights. `auto`: an adapter alone keeps its own; merged weights are f16, or bf16 in the
            `merged` form of a run that was trained in bf16.
        from_base: The base that the update is added to; `auto`: the original, or for a run in NF4 the one with the
            smaller drift.
        base: Hub id of the base model, if the run names a folder of this machine.
        licence: The hub's name of the base model's licence, if it is not known.
        tables: Predictions tables of the run whose metrics the card states.
        overrides: `key=value` texts for a run from another machine, such as `model.base=FOLDER`.
        tolerance: Largest difference of a probability that is accepted, above 0 and up to 1; None: the form's own.
        probes: Number of prompts to verify with, at least 1.
    """

    run: Path
    form: Form
    target: Path | None = None
    stored: Stored = "auto"
    from_base: FromBase = "auto"
    base: str | None = None
    licence: str | None = None
    tables: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    tolerance: float | None = None
    probes: int = PROBES


def export_run(options: ExportOptions, console: Console) -> Path:
    """Export a run; returns the export folder.

    Raises:
        RunError: The run is missing or unfinished, or the folder exists.
        DriftError: The export computes something else.
        ConfigError: The options do not fit the run.
        ModelError: The adapter or base model cannot be written in this form.
    """
    opened = open_run(options.run)
    run = opened.run
    assert run is not None, "a Path is always a run"
    if opened.export is not None:
        raise RunError(f"{run.folder}: is an export itself; export the run that it was made from")
    _check_neighbours(run, options)
    record = _planned(run, options)
    licence = find_licence(record.base, options.licence)
    measured, leakage = measure(run, options.tables)
    target = options.target or Path("adapters") / f"{run.config.name}-{record.form}"
    if target.exists():
        raise RunError(f"{target}: exists already; choose another --to")
    base = base_folder(open_run(options.run, options.overrides).config.model.base)
    check_fits(base, read_lora(run.adapter))
    if record.form in ("gguf", "gguf-lora"):
        gguf_layout(read_config(base), base)
    scored = score_probes(run, base, options.overrides, console, options.probes)
    tolerance = _tolerance(record, scored.precision) if options.tolerance is None else options.tolerance
    record = replace(
        record, scored_in=scored.precision, tolerance=tolerance, probes=len(scored.probes), measured=measured
    )
    with whole_folder(target, RunError) as draft:
        made = _made(run, record, options, draft, scored, console)
        load = write_card(run, made, licence, leakage, draft, target)
        write_record(draft, made)
    console.print(load, highlight=False, markup=False, soft_wrap=True)
    return target


def _check_neighbours(run: Run, options: ExportOptions) -> None:
    """Refuse neighbours by an encoder that only this machine has, or by hidden states that the export changes.

    Raises:
        ConfigError: The encoder is a folder, or `hidden` and the form is another than the unchanged adapter.
    """
    if not (run.folder / NEIGHBOURS).is_file():
        return
    chosen = read_calibration(run).neighbours
    if chosen is not None and public_model(chosen.encoder) != chosen.encoder:
        raise ConfigError(
            f"the neighbours of {run.folder} are found by the encoder {chosen.encoder}, a folder of this machine; "
            f"`erc-llm calibrate {run.folder} --neighbours` with words or a hub id replaces it"
        )
    if chosen is not None and chosen.encoder == HIDDEN and (options.form, options.stored) != ("peft", "auto"):
        raise ConfigError(
            f"the neighbours of {run.folder} are found by the hidden states of its adapter, which goes unchanged into "
            f"--format peft without --stored only; `erc-llm calibrate {run.folder}` with words or an encoder, or "
            "without --neighbours, replaces them"
        )


def _planned(run: Run, options: ExportOptions) -> ExportRecord:
    """The record of the export before anything is written or scored."""
    if options.probes < 1:
        raise ConfigError(f"--probes {options.probes}: expected at least 1")
    if options.tolerance is not None and not 0 < options.tolerance <= 1:
        raise ConfigError(
            f"--tolerance {options.tolerance}: expected a difference of probabilities, above 0 and up to 1"
        )
    stored = options.stored
    if options.form == "gguf-lora" and stored != "auto":
        raise ConfigError(f"--stored {stored}: a GGUF adapter keeps its own precision; leave it out")
    if options.form in ("peft", "gguf-lora"):
        if stored == "q8_0":
            raise ConfigError("--stored q8_0: is for --format gguf; an adapter is stored in fp32, bf16 or f16")
    elif stored == "auto":
        # f16 rounds eight times less; after training in bf16 the model has been rounded to that already.
        stored = "bf16" if options.form == "merged" and run.precision == "bfloat16" else "f16"
    elif options.form == "merged" and stored == "q8_0":
        raise ConfigError("--stored q8_0: is for --format gguf; a merged model is stored in bf16 or f16")
    quantised = run.config.model.quantisation != "none"
    if options.from_base == "nf4" and options.form == "gguf-lora":
        raise ConfigError("--from-base nf4: llama.cpp has no NF4; use --format gguf, or leave it out")
    if options.from_base == "nf4" and not quantised:
        raise ConfigError("--from-base nf4: the run used its base in 16 or 32 bits; leave it out")
    # llama.cpp has no NF4: a GGUF adapter is for the original base.
    in_nf4 = quantised and options.from_base != "original" and options.form != "gguf-lora"
    return ExportRecord(
        form=options.form,
        stored="f32" if stored == "auto" else stored,
        from_base="nf4" if in_nf4 else "original",
        base=_hub_id(options.base or run.config.model.base),
        weights={},
        scored_in="",
        tolerance=0.0,
        largest_difference=1.0,
        flips=0,
        probes=0,
        verified_by="",
        created=date.today().isoformat(),
        versions=versions(),
    )


def _hub_id(name: str) -> str:
    if name in BASE_MODELS:
        return BASE_MODELS[name].hub_id
    if Path(name).expanduser().exists() or not HUB_ID.fullmatch(name):
        raise ConfigError(
            f"the base model {name} is a folder of this machine; name its hub id, such as "
            "--base meta-llama/Llama-2-7b-hf, so that others find it"
        )
    return name


def _tolerance(record: ExportRecord, scored_in: str) -> float:
    if scored_in != "float32":
        return TOLERANCE_16_BITS
    return TOLERANCE[record.form if record.stored == "f32" else record.stored]


class ScoredProbes(NamedTuple):
    """Probes from the sample corpus as the run scores them, in which precision; its prompter and base model."""

    probes: tuple[Probe, ...]
    precision: str
    prompter: Prompter
    base: Path


def score_probes(run: Run, base: Path, overrides: Sequence[str], console: Console, count: int = PROBES) -> ScoredProbes:
    """Score prompts of the sample corpus with a run: a small base model in fp32, a quantised one as it was trained."""
    from erc_llm.corpus import read_sample
    from erc_llm.decoding.scoring import score_trees
    from erc_llm.models.devices import dtype_name
    from erc_llm.predictor import load

    size = 4 * sum(prod(shape) for _, shape in tensor_shapes(base))
    # NF4 of weights in 16 bits is not NF4 of weights in 32: a quantised base keeps the precision it was trained in.
    precision = {dtype: name for name, dtype in PRECISION_DTYPES.items()}.get(run.precision or "")
    if run.config.model.quantisation == "none" and size <= FP32_BYTES:
        precision = "fp32"
    if precision is not None:
        overrides = [f"model.precision={precision}", *overrides]
    console.print("scoring probes", highlight=False)
    opened = open_run(run.folder)
    # Without retrieval, which needs the corpus: probes are about the weights, and any prompts compare them.
    plain = opened.config.model_copy(update={"retrieval": RetrievalConfig()})
    opened = replace(opened, config=plain)
    predictor = load(opened, "none", prior="none", calibration="none", overrides=overrides)
    targets = [(dialogue, k) for dialogue in read_sample().split("test") for k in dialogue.targets]
    found: list[Probe] = []
    for dialogue, chosen in groupby(targets[:: max(1, len(targets) // count)][:count], key=itemgetter(0)):
        trees = predictor.prompter.trees(dialogue, "all", weights={k: 1.0 for _, k in chosen})
        for tree, scores in zip(trees, score_trees(predictor.loaded.model, trees), strict=True):
            found += [
                probe_of(tree, q, s.log_likelihoods.tolist()) for q, s in zip(tree.questions, scores, strict=True)
            ]
    computed, prompter = dtype_name(predictor.loaded.dtype), predictor.prompter
    del predictor
    free_gpu()  # the process that verifies loads the model again
    return ScoredProbes(tuple(found), computed, prompter, base)


def _made(
    run: Run,
    record: ExportRecord,
    options: ExportOptions,
    draft: Path,
    scored: ScoredProbes,
    console: Console,
) -> ExportRecord:
    """Write and verify the export, from both bases if `auto` leaves that open; the better one stays."""
    both = record.from_base == "nf4" and options.from_base == "auto" and record.form in ("merged", "gguf")
    best: tuple[float, ExportRecord] | None = None
    errors: list[str] = []
    for from_base in ("original", "nf4") if both else (record.from_base,):
        attempt = draft.with_name(f"from-{from_base}")
        attempt.mkdir()
        one = replace(record, from_base=from_base)
        one = replace(one, weights=write_form(run, one, attempt, scored.base, scored.precision, scored.prompter))
        write_run(run, one.base, attempt)
        write_probes(attempt, scored.probes)
        write_record(attempt, one)
        console.print(f"reloading it in a fresh process ({one.form}, base {from_base})", highlight=False)
        found = reload_apart(attempt, one, scored.base)
        console.print(f"  {found.words}", highlight=False, soft_wrap=True)
        one = replace(one, largest_difference=found.largest, flips=found.flips, verified_by=reader_of(one))
        if problem := too_far(one, found):
            errors.append(f"{options.run}: {problem} (--tolerance). Nothing was exported{_advice(run, one)}")
            shutil.rmtree(attempt)
            continue
        if one.form == "peft" and from_base == "nf4":
            other = reload_apart(attempt, one, scored.base, on_original=True)
            console.print(f"  on the original base instead: {other.words}", highlight=False, soft_wrap=True)
            one = replace(one, on_original=other.largest)
        if best is None or found.largest < best[0]:
            best = (found.largest, one)
            shutil.rmtree(draft, ignore_errors=True)
            attempt.rename(draft)
        else:
            shutil.rmtree(attempt)
    if best is None:
        raise DriftError(errors[-1])
    return best[1]


def _advice(run: Run, record: ExportRecord) -> str:
    """What to do instead, after a semicolon."""
    if run.config.model.quantisation != "none" and record.form == "gguf-lora":
        return (
            "; the adapter was trained on its base in NF4, which llama.cpp does not have: --format gguf merges it with "
            "what NF4 makes of the base"
        )
    if record.stored == "bf16":
        return "; --stored f16 rounds less"
    return ""
