"""Neighbours of a run: the candidates that its calibration chooses from, and those that it has chosen.

Input: an index over train and dialogues; or a calibrated run. Output: a `Neighbourhood` to fit on, or `Neighbours`.
Does not depend on: how a calibration is fitted, models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from erc_llm.calibration.select import Neighbourhood
from erc_llm.calibration.store import read_calibration
from erc_llm.corpus.dialogues import Dialogue
from erc_llm.errors import ModelError, PredictionsError, RunError
from erc_llm.models.adapters import WEIGHTS
from erc_llm.models.hashes import file_sha256
from erc_llm.predictions import Correction, Predictions
from erc_llm.retrieval.approximate import check_approximate
from erc_llm.retrieval.index import Index, Neighbours
from erc_llm.retrieval.store import NEIGHBOURS, packed, read_index
from erc_llm.retrieval.vectors import HIDDEN, States
from erc_llm.runs.directory import Run

NUMBERS = (16, 64, 256)
TEMPERATURES = (0.05, 0.1, 0.2)


def neighbourhood(
    index: Index, table: Predictions, dialogues: Sequence[Dialogue], states: States | None = None
) -> Neighbourhood:
    """The labels of the neighbours of every row of a table, by number of neighbours and temperature.

    Args:
        index: The lines of train.
        table: The table.
        dialogues: The dialogues of its rows.
        states: (targets, width) hidden states of the targets of the dialogues, for an index of hidden states.

    Raises:
        PredictionsError: A row of the table is not among the targets of the dialogues.
    """
    place = {key: i for i, key in enumerate((d.id, d.utterances[k].id) for d in dialogues for k in d.targets)}
    rows = [place.get(key) for key in table.keys]
    if None in rows:
        raise PredictionsError(
            f"neighbours: target {table.keys[rows.index(None)]} is not in the run's corpus; give the corpus that the "
            "table was predicted on"
        )
    nearest = index.of_targets(dialogues, max(NUMBERS), states)
    candidates = [(k, temperature) for k in NUMBERS for temperature in TEMPERATURES]
    order = np.array(rows, dtype=np.int64)
    return Neighbourhood(
        index.encoder,
        hashlib.sha256(packed(index)).hexdigest(),
        len(index),
        tuple((options, index.distributions(nearest, *options)[order]) for options in candidates),
    )


def adapter_sha256(run: Run) -> str:
    """Hash of the weights of a run's adapter; empty if there are none."""
    weights = run.adapter / WEIGHTS
    return file_sha256(weights) if weights.is_file() else ""


def open_neighbours(run: Run | None, correction: Correction) -> Neighbours | None:
    """The neighbours that a run's correction mixes in; None if it mixes in none.

    Raises:
        RunError: The index is missing, is not the one that the calibration was fitted with, or is of another train or
            adapter.
        ModelError: The encoder or the library of approximate search is missing, or the encoder is another one.
    """
    if run is None or correction.mixing is None:
        return None
    chosen = read_calibration(run).neighbours
    assert chosen is not None, "the correction comes from this calibration"
    again = f"`erc-llm calibrate {run.folder} --neighbours {chosen.encoder}` makes it again"
    path = run.folder / NEIGHBOURS
    index = read_index(path, chosen.index_sha256, again)
    if (index.train_sha256, index.labels) != (run.manifest.train_sha256, run.manifest.labels):
        raise RunError(
            f"{path}: its lines are of train {index.train_sha256[:12]} with the labels "
            f"{', '.join(index.labels)}, the run was trained on {str(run.manifest.train_sha256)[:12]} with "
            f"{', '.join(run.manifest.labels)}; {again}"
        )
    if index.encoder == HIDDEN and (found := adapter_sha256(run)) != index.encoder_sha256:
        raise RunError(
            f"{path}: its hidden states are of an adapter with hash {str(index.encoder_sha256)[:12]}, that of "
            f"{run.folder} has {found[:12]}; {again}"
        )
    try:
        if index.cells is not None:
            check_approximate(index.encoder)
        loaded = None if index.encoder == HIDDEN else index.embed  # before anything is scored
    except ModelError as error:
        raise ModelError(f"{path}: {error}; {again}") from error
    return Neighbours(replace(index, loaded=loaded), chosen.k, chosen.temperature)
