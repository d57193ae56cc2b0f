"""What each form of an export changes: exports a run in all forms, predicts a split with each, and compares.

Every form predicts on the CPU in fp32, or with `--as-trained` in the precision of the run (a base in NF4 always), and a
GGUF form also behind llama.cpp's own server if that is installed, where answers are constrained by a grammar. Forms
that are done are skipped.

Input: a run and a corpus. Output: a predictions table of each form, its record, and a Markdown table.
Does not depend on: how forms are written.

    python -m benchmarks.exports --run RUN --corpus FOLDER --split dev --out runs/exports
    python -m benchmarks.exports --out docs/results/exports     # only the table
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.llama_server import installed, llama_server
from benchmarks.outcome import exit_code
from erc_llm.errors import DriftError, UserError
from erc_llm.evaluation.report import evaluate
from erc_llm.export.gguf_model import write_gguf
from erc_llm.export.lora import Lora
from erc_llm.files import write_text
from erc_llm.models.loading import base_folder
from erc_llm.predictions import Predictions, correct, read_predictions
from erc_llm.predictions.correction import Correction
from erc_llm.recipes.export import ExportOptions, FromBase, Stored, export_run
from erc_llm.recipes.predict import PredictOptions, ServerOptions, predict_to_file
from erc_llm.runs.exported import RECORD, Form
from erc_llm.runs.opened import open_run

AS_TRAINED = "run"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A form, the type of its weights, and for a run in NF4 the base that the update is added to."""

    form: Form
    stored: Stored = "auto"
    from_base: FromBase = "auto"

    @property
    def name(self) -> str:
        """Name of its files."""
        return "-".join(self._parts)

    @property
    def words(self) -> str:
        """Description in a table."""
        return ", ".join(self._parts)

    @property
    def _parts(self) -> list[str]:
        return [part for part in (self.form, self.stored, self.from_base) if part != "auto"]


FORMS = (
    Wanted("peft"),
    Wanted("merged", "bf16"),
    Wanted("merged", "f16"),
    Wanted("gguf", "f16"),
    Wanted("gguf", "bf16"),
    Wanted("gguf", "q8_0"),
    Wanted("gguf-lora"),
)
# Of a run in NF4: whatever its drift is, it is shown here; `erc-llm export` refuses the original base beyond a limit.
FORMS_OF_NF4 = (
    Wanted("peft"),
    Wanted("merged", "bf16", "nf4"),
    Wanted("merged", "bf16", "original"),
    Wanted("gguf", "f16", "nf4"),
    Wanted("gguf", "f16", "original"),
)


def make_tables(
    run: Path,
    corpus: str,
    split: str,
    out: Path,
    console: Console,
    base: str | None = None,
    licence: str | None = None,
    only: Sequence[str] = (),
    as_trained: bool = False,
) -> None:
    """Export, and predict with each form, what is not there yet; `base` and `licence` as for `erc-llm export`.

    `only` names the forms, such as `merged-bf16`; empty: all. `as_trained`: predict in the precision of the run.
    """
    out.mkdir(parents=True, exist_ok=True)
    nf4 = open_run(run).config.model.quantisation != "none"
    forms = [form for form in (FORMS_OF_NF4 if nf4 else FORMS) if not only or form.name in only]
    # NF4 of weights in 16 bits is not NF4 of weights in 32.
    on_base: tuple[str, ...] = (f"model.base={base_folder(open_run(run).config.model.base)}", "model.device=cpu")
    on_base += () if as_trained or nf4 else ("model.precision=fp32",)
    job = PredictOptions(source=str(run), corpus=corpus, split=split, with_text=False, overrides=on_base)
    _predict(run, job, out / f"{AS_TRAINED}.parquet", console)
    with tempfile.TemporaryDirectory(dir=out) as place:
        for wanted in forms:
            here, there = out / f"{wanted.name}.parquet", out / f"{wanted.name}-llama.parquet"
            served = installed() and wanted.form.startswith("gguf")
            if here.is_file() and (there.is_file() or not served):
                continue
            options = ExportOptions(
                run,
                wanted.form,
                Path(place) / wanted.name,
                wanted.stored,
                wanted.from_base,
                base=base,
                licence=licence,
                tolerance=1.0 if nf4 else None,
            )
            try:
                export = export_run(options, console)
            except DriftError as error:
                console.print(str(error), markup=False, highlight=False)
                continue
            record: dict[str, Any] = json.loads((export / RECORD).read_text("utf-8"))
            size = sum((export / name).stat().st_size for name in record["weights"])
            write_text(out / f"{wanted.name}.json", json.dumps(record | {"bytes": size}, indent=1) + "\n")
            _predict(export, job, here, console)
            if served:
                _predict_served(export, job, there, Path(place), console)


def _predict(source: Path, job: PredictOptions, out: Path, console: Console) -> None:
    if out.is_file():
        return
    console.print(f"{out.stem}: predicting {job.split}", highlight=False)
    if job.server is None:
        job = replace(job, calibration="none", decide="probable")
    predict_to_file(replace(job, source=str(source), out=out), console)


def _predict_served(export: Path, job: PredictOptions, out: Path, place: Path, console: Console) -> None:
    (file,) = export.glob("*.gguf")
    model, adapter = file, None
    if file.name.endswith("-lora.gguf"):
        base = base_folder(open_run(export, job.overrides).config.model.base)
        model, adapter = place / "base.gguf", file
        write_gguf(base, Lora.none(base), model, name="base", stored="f16")
    with llama_server(model, place / "server.log", adapter=adapter) as url:
        server = ServerOptions(url=f"{url}/v1", model="m", concurrency=1)
        _predict(export, replace(job, server=server), out, console)


def as_markdown(out: Path) -> str:
    """The table of the forms that are there.

    Raises:
        UserError: There are none.
    """
    if not (out / f"{AS_TRAINED}.parquet").is_file():
        raise UserError(f"{out}: holds no {AS_TRAINED}.parquet; give --run and --corpus to make the tables")
    run = _raw(read_predictions(out / f"{AS_TRAINED}.parquet"))
    columns = (
        "form",
        "MB",
        "probes differ",
        f"{run.info.split} differs",
        "other labels",
        "weighted F1",
        "F1 in llama.cpp",
        "labels other than here",
    )
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    lines.append(f"| the run itself | | | | | {_f1(run)} | | |")
    for wanted in dict.fromkeys((*FORMS, *FORMS_OF_NF4)):
        if not (out / f"{wanted.name}.json").is_file():
            continue
        record = json.loads((out / f"{wanted.name}.json").read_text("utf-8"))
        table = _raw(read_predictions(out / f"{wanted.name}.parquet"))
        assert run.probabilities is not None
        assert table.probabilities is not None
        cells = [
            wanted.words,
            f"{record['bytes'] / 1e6:,.0f}",
            f"{record['largest_difference']:.4f}",
            f"{np.abs(run.probabilities - table.probabilities).max():.4f}",
            f"{_other(run, table)} of {len(run)}",
            _f1(table),
            "",
            "",
        ]
        served = out / f"{wanted.name}-llama.parquet"
        if served.is_file():
            there = read_predictions(served)
            cells[-2:] = [_f1(there), _flips(table, there)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _raw(table: Predictions) -> Predictions:
    return correct(table, Correction())


def _other(one: Predictions, other: Predictions) -> int:
    if one.keys != other.keys:
        raise UserError("the tables are about different targets; remove them and predict again")
    return sum(a != b for a, b in zip(one.predicted, other.predicted, strict=True))


def _flips(here: Predictions, there: Predictions) -> str:
    """Number of targets with another label there, and how far apart the two most probable ones are here at most."""
    assert here.probabilities is not None
    other = [k for k, (a, b) in enumerate(zip(here.predicted, there.predicted, strict=True)) if a != b]
    if not other:
        return "0"
    ordered = np.sort(here.probabilities[other], axis=1)
    return f"{len(other)}, at most {(ordered[:, -1] - ordered[:, -2]).max():.4f} apart"


def _f1(table: Predictions) -> str:
    return f"{100 * evaluate(table, draws=1).headline.weighted_f1.value:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the tables if a run is given, and print the comparison; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--run", type=Path, help="run to export")
    parser.add_argument("--corpus", help="corpus to predict")
    parser.add_argument("--split", default="dev", help="split to predict")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--base", help="hub id of the base model, if the run names a folder")
    parser.add_argument("--licence", help="licence of the base model, if it is not known")
    parser.add_argument("--only", action="append", help="form to export, such as merged-bf16; repeatable; default: all")
    parser.add_argument("--as-trained", action="store_true", help="predict in the precision of the run, not in fp32")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    if options.run is not None:
        if options.corpus is None:
            raise UserError("--run: name the corpus with --corpus")
        make_tables(
            options.run,
            options.corpus,
            options.split,
            options.out,
            console,
            options.base,
            options.licence,
            only=options.only or (),
            as_trained=options.as_trained,
        )
    console.print(as_markdown(options.out), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
