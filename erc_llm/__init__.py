"""erc-llm: fine-tune an open LLM to recognise emotion in conversation.

`load(run)` gives a predictor for whole dialogues or a live conversation, `export_run(run)` the adapter for other
programs; the command line is `erc-llm --help`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.corpus import Dialogue, Utterance, read_corpus

if TYPE_CHECKING:
    from erc_llm.build import Past
    from erc_llm.calibration.choose import AskedDecide, Calibrated, Prior
    from erc_llm.predictor import LabelledUtterance, Predictor
    from erc_llm.recipes.export import FromBase, Stored
    from erc_llm.runs.exported import Form

__version__ = "0.1.0"
__all__ = [
    "Dialogue",
    "LabelledUtterance",
    "Predictor",
    "Utterance",
    "__version__",
    "export_run",
    "load",
    "read_corpus",
]


def load(
    source: str | Path,
    *,
    past: Past = None,
    prior: Prior = "auto",
    calibration: Calibrated = "auto",
    decide: AskedDecide = "auto",
    overrides: Sequence[str] = (),
    beside: Predictor | None = None,
) -> Predictor:
    """A predictor from a run directory, its adapter folder, or a configuration; see `erc_llm.predictor.load`.

    Args:
        source: The run.
        past: Earlier conversations, as from `read_corpus`, for runs whose prompts carry speaker profiles; `none` where
            nobody was seen before. For runs that retrieve lines of train: the corpus that they were trained on.
        prior: `auto`, `none`, `corpus`, or a label distribution in label order.
        calibration: `none`, or `run` for the one that `erc-llm calibrate` stored with the run. `auto`: that of the run
            if the decision rule needs it.
        decide: `probable` (the most probable label), or a decision rule that is stored with the run: `weighted_f1`,
            `macro_f1` or `weights`. `auto`: the rule that the run names (that of a cross-fitted run), else `probable`.
        overrides: `key=value` texts, such as `scoring.label_orders=4` or `model.device=cpu`.
        beside: A predictor of another adapter on the same base model, which is then not loaded again.
    """
    from erc_llm.predictor import load as load_predictor

    return load_predictor(
        source, past, prior=prior, calibration=calibration, decide=decide, overrides=overrides, beside=beside
    )


def export_run(
    run: str | Path,
    to: str | Path | None = None,
    *,
    form: Form = "peft",
    stored: Stored = "auto",
    from_base: FromBase = "auto",
    base: str | None = None,
    licence: str | None = None,
    tables: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    tolerance: float | None = None,
    probes: int = 24,
) -> Path:
    """Export the adapter of a run, verified by reloading it; returns the export folder. As `erc-llm export`.

    Args:
        run: The run directory.
        to: The export folder; None: a name under `adapters/`.
        form: `peft`, `merged`, `gguf` or `gguf-lora`.
        stored: Type of the weights: `f16`, `bf16` or (GGUF) `q8_0`; `auto`: an adapter alone keeps its own, merged
            weights are f16, but bf16 for `merged` after training in bf16.
        from_base: For a run on a base in NF4: `original`, `nf4`, or `auto` for the one with the smaller drift.
        base: Hub id of the base model, if the run names a folder.
        licence: The hub's name of the base model's licence, if it is not known.
        tables: Predictions tables of the run, for the metrics of the model card.
        overrides: `key=value` texts for a run from another machine, such as `model.base=FOLDER`.
        tolerance: Largest difference of a probability that is accepted; None: the form's own.
        probes: Number of prompts to verify with; give fewer for a large model on a CPU.

    Raises:
        UserError: The run, a table or an option is wrong, or the export computes something else than the run.
    """
    from rich.console import Console

    from erc_llm.recipes.export import ExportOptions
    from erc_llm.recipes.export import export_run as export

    options = ExportOptions(
        Path(run),
        form,
        None if to is None else Path(to),
        stored,
        from_base,
        base,
        licence,
        tuple(map(Path, tables)),
        tuple(overrides),
        tolerance,
        probes,
    )
    return export(options, Console(quiet=True))


def __getattr__(name: str) -> Any:
    """The names that need torch, imported on first use so that `import erc_llm` is instant."""
    if name in ("LabelledUtterance", "Predictor"):
        from erc_llm import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'erc_llm' has no attribute '{name}'")
