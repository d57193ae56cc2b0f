"""erc-llm: fine-tune an open LLM to recognise emotion in conversation.

`load(run)` gives a predictor for whole dialogues or a live conversation; the command line is `erc-llm --help`.
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

__version__ = "0.1.0"
__all__ = ["Dialogue", "LabelledUtterance", "Predictor", "Utterance", "__version__", "load", "read_corpus"]


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
            nobody was seen before.
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


def __getattr__(name: str) -> Any:
    """The names that need torch, imported on first use so that `import erc_llm` is instant."""
    if name in ("LabelledUtterance", "Predictor"):
        from erc_llm import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'erc_llm' has no attribute '{name}'")
