"""erc-llm: fine-tune an open LLM to recognise emotion in conversation.

`load(run)` gives a predictor for whole dialogues or a live conversation; the command line is `erc-llm --help`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erc_llm.calibration.choose import Calibrated, Prior
    from erc_llm.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(source: str | Path, *, prior: Prior = "auto", calibration: Calibrated = "none") -> Predictor:
    """A predictor from a run directory or its adapter folder; see `erc_llm.predictor`.

    `prior` is `auto`, `none`, `corpus` or shares in label order; `calibration` is `none` or `run`.
    """
    from erc_llm.predictor import load as load_predictor

    return load_predictor(source, prior=prior, calibration=calibration)
