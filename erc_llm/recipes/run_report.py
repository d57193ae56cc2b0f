"""The report of a run: `report.html` in its directory, from its logs and one of its predictions tables.

Input: a run directory. Output: one self-contained HTML file.
Does not depend on: how the run was trained.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from erc_llm.errors import PredictionsError
from erc_llm.predictions import read_predictions
from erc_llm.runs.directory import REPORT
from erc_llm.runs.logs import SELECTION_LOG, TRAINING_LOG, read_lines
from erc_llm.runs.progress import Progress

if TYPE_CHECKING:
    from erc_llm.calibration.record import Decide


def write_run_report(
    folder: Path, name: str, progress: Progress, table: Path | None = None, decide: Decide | None = None
) -> None:
    """Write the report of a finished run; if that fails, print a warning, because the run itself is complete.

    Args:
        folder: The run directory.
        name: Name of the run.
        progress: Where to print the warning.
        table: File of predictions of the run, with gold labels; its text, if any, is in the report.
        decide: The rule of a cross-fitted run. A rule for F1 decides the lines of its table, each by what is fitted on
            other episodes; with any other, and where the table is too small to find one, its answers stay.
    """
    path = folder / REPORT
    try:
        _write(path, name, table, decide)
    except Exception as error:  # whatever it is: hours of training must not end in it
        progress.line(f"note: {path} was not written: {error}", warning=True)
        with suppress(OSError):
            path.unlink(missing_ok=True)  # one of an earlier state of the run, perhaps with text that is gone by now


def _write(path: Path, name: str, table: Path | None, decide: Decide | None) -> None:
    from erc_llm.calibration.choose import decide_by_others
    from erc_llm.evaluation.evaluation_report import sections, title
    from erc_llm.evaluation.page import write_page
    from erc_llm.evaluation.report import evaluate
    from erc_llm.evaluation.training_report import training_sections

    training = training_sections(*(read_lines(path.parent / log) for log in (TRAINING_LOG, SELECTION_LOG)))
    if table is None:
        if training:
            write_page(path, f"Training of {name}", training)
        return
    predictions = read_predictions(table)
    if decide == "weighted_f1" or decide == "macro_f1":
        with suppress(PredictionsError):
            predictions = decide_by_others(predictions, decide)
    evaluation = evaluate(predictions)
    write_page(path, title(evaluation), (*training, *sections(predictions, evaluation)))
