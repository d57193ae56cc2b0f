"""Public Python API: a loaded model that labels whole conversations, or a conversation line by line.

    predictor = erc_llm.load("runs/smollm2-135m")
    for line in predictor.predict(dialogue):
        print(line.speaker, line.label, line.probabilities[line.label])

Input: a run or a configuration; `Dialogue` records or single lines. Output: `LabelledUtterance` records.
Does not depend on: files outside the run, the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from erc_llm.build import Past, build_prompter, check_fit
from erc_llm.calibration.choose import AskedDecide, Calibrated, Prior, choose_correction
from erc_llm.calibration.neighbours import open_neighbours
from erc_llm.config import RunConfig
from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.decoding.label_generator import GeneratedLabel, Writer, answer_scenes
from erc_llm.decoding.scenes import score_scenes, scored_prediction
from erc_llm.decoding.scoring import LabelScores
from erc_llm.errors import ConfigError, ModelError
from erc_llm.live import LiveSession, check_forecasts
from erc_llm.metrics import Floats
from erc_llm.models.adapters import activate_adapter
from erc_llm.models.devices import gpu_peak
from erc_llm.models.loading import LoadedModel
from erc_llm.notebook import Share, html_table
from erc_llm.opened_model import load_model, share_model
from erc_llm.predictions import Correction, Prediction
from erc_llm.retrieval.index import Neighbours
from erc_llm.runs.opened import Opened, open_run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class LabelledUtterance:
    """One target with its distribution over the labels.

    Attributes:
        utterance: The utterance.
        label: The label that the decision rule gives, which is the most probable one unless the run has another rule.
        probabilities: Probability of each label by name, after prior and calibration; they sum to 1.
        log_likelihoods: Log-probability of each label with its end tokens by name, in nats and without correction.
        label_mass: Probability that free generation would give one of the labels, 0 to 1.
        coarse: Probability of each coarser label (positive, negative, neutral), the sum over its labels; empty if the
            label set has none.
    """

    utterance: Utterance
    label: str
    probabilities: Mapping[str, float]
    log_likelihoods: Mapping[str, float]
    label_mass: float
    coarse: Mapping[str, float] = field(default_factory=dict)

    @property
    def speaker(self) -> str:
        """Names of the speakers, for display."""
        return ", ".join(self.utterance.speakers)

    def _repr_html_(self) -> str:
        """The line with its label, for notebooks."""
        return LabelledLines([self])._repr_html_()

    def most_probable(self) -> tuple[str, Share, str]:
        """The label, its probability, and the other labels above 5 %, for display."""
        others = sorted(((p, name) for name, p in self.probabilities.items() if name != self.label), reverse=True)
        shown = ", ".join(f"{name} {p:.0%}" for p, name in others if p > 0.05)
        return self.label, Share(self.probabilities[self.label]), shown


class LabelledLines(list[LabelledUtterance]):
    """The labelled targets of a dialogue, in order: a list that notebooks show as a table."""

    def to_pandas(self) -> pd.DataFrame:
        """A pandas DataFrame with one row per target, and one column per label with its probability."""
        import pandas as pd

        return pd.DataFrame(
            {"id": line.utterance.id, "speaker": line.speaker, "text": line.utterance.text, "label": line.label}
            | {f"probability of {name}": value for name, value in line.probabilities.items()}
            for line in self
        )

    def _repr_html_(self) -> str:
        """The lines with their labels, for notebooks."""
        rows = [(line.speaker, line.utterance.text, *line.most_probable()) for line in self]
        return html_table("Labelled lines", ("Speaker", "Line", "Label", "Probability", "Others"), rows)


class Predictor:
    """A base model, with or without an adapter, and its prompt.

    Args:
        opened: The run or configuration.
        loaded: Its base model, with the run's adapter on it.
        past: Earlier conversations, for profiles and retrieval; see `erc_llm.build.build_prompter`.
        correction: The correction of scores, see below; by default none.
        adapter: Name of its adapter in the model, which may hold those of other predictors too.
        neighbours: See the attribute.

    Attributes:
        config: Its configuration, with overrides applied.
        run: The run it was loaded from; None for a base model alone.
        export: The form in which the run was exported; None for a run directory.
        labels: The label set.
        loaded: The base model, with the adapter on it.
        prompter: Builds the prompts.
        correction: Correction of the model's scores before a label is decided: prior, calibration, decision rule.
            The predictions that questions state for earlier lines (`state.source=predicted`) are not corrected.
        neighbours: Neighbours of lines in train, whose labels the correction mixes in; None if it mixes in none.
    """

    def __init__(
        self,
        opened: Opened,
        loaded: LoadedModel,
        past: Past = None,
        correction: Correction | None = None,
        adapter: str = "default",
        neighbours: Neighbours | None = None,
    ) -> None:
        self._adapter = adapter
        self.neighbours = neighbours
        self.config = opened.config
        self.run = opened.run
        self.export = opened.export
        self.labels = opened.config.label_set()
        self.loaded = loaded
        self.correction = Correction() if correction is None else correction
        made = None if opened.run is None else opened.run.manifest
        self.prompter = build_prompter(self.config, self.labels, loaded.tokenizer, opened.template, past, made=made)
        check_fit(self.prompter, self.ready(), self._free_tokens, self.uses_state)

    def _repr_html_(self) -> str:
        """What is loaded, for notebooks."""
        correction = self.correction
        steps = [name for name, _ in correction.steps if name != "raw"]
        rows = [
            ("base model", self.config.model.base),
            ("run", "none: the base model alone" if self.run is None else self.run.manifest.run_id),
            ("context", self.config.prompt.context),
            ("labels", ", ".join(self.labels.names)),
            ("corrected by", ", ".join(steps) or "nothing"),
            ("answers", "the most probable label" if correction.decision is None else correction.decision.words),
        ]
        return html_table("Predictor", ("", ""), rows)

    def ready(self) -> LoadedModel:
        """The model with this predictor's adapter in use, if it holds several."""
        if len(getattr(self.loaded.model, "peft_config", ())) > 1:
            activate_adapter(self.loaded.model, self._adapter)
        return self.loaded

    def scores(
        self, dialogues: Sequence[Dialogue], on_progress: Callable[[int], None] | None = None, *, states: bool = False
    ) -> list[list[LabelScores]]:
        """Raw scores of every target of every dialogue; `on_progress` is called with the number of dialogues done.

        With `states`, they keep the model's hidden state at each question, from the same forward pass.
        """
        return score_scenes(
            self.ready().model,
            self.prompter,
            dialogues,
            passes=2 if self.uses_state and not self.config.scoring.forecast else 1,  # a forecast states nothing
            label_orders=self.config.scoring.label_orders,
            seed=self.config.seed,
            tokens_per_forest=self.config.scoring.tokens_per_forest,
            on_progress=on_progress,
            states=states,
        )

    def written(
        self, dialogues: Sequence[Dialogue], on_progress: Callable[[int], None] | None = None
    ) -> list[list[GeneratedLabel]]:
        """The generated answer about every target, as `scoring.decode` and `scoring.answer` set.

        Raises:
            ConfigError: `scoring.decode` is `score`, which generates nothing.
        """
        scoring = self.config.scoring
        if scoring.decode == "score":
            raise ConfigError("scoring.decode: `score` generates no text; set generate or free, or call `scores`")
        writer = Writer(
            self.ready().model,
            self.loaded.tokenizer,
            self.prompter,
            "free" if scoring.decode == "free" else scoring.answer,
            self._free_tokens,
            scoring.tokens_per_forest,
        )
        return answer_scenes(writer, dialogues, passes=2 if self.uses_state else 1, on_progress=on_progress)

    def predictions(
        self, dialogues: Sequence[Dialogue], on_progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """A row for every target, in order, in the way that `scoring.decode` asks for; without the correction.

        Args:
            dialogues: The dialogues of the targets.
            on_progress: Called with the number of dialogues done.

        Raises:
            ModelError: The GPU has too little memory.
        """
        import torch

        names, scoring = self.labels.names, self.config.scoring
        try:
            if scoring.decode == "score":
                scored = self.scores(dialogues, on_progress, states=self.needs_states)
                found = [scored_prediction(s, names) for scene in scored for s in scene]
                states = [s.state for scene in scored for s in scene]
                return found if self.neighbours is None else self.neighbours.added_to(found, dialogues, states)
            return [answer.prediction(names) for scene in self.written(dialogues, on_progress) for answer in scene]
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"out of GPU memory{gpu_peak()} ({str(error).splitlines()[0]}); lower scoring.tokens_per_forest, "
                f"which is {scoring.tokens_per_forest}: `predict ... --set scoring.tokens_per_forest=1024`"
            ) from error

    @property
    def _free_tokens(self) -> int:
        """Most tokens of free text after a question."""
        scoring = self.config.scoring
        if scoring.answer == "reason_then_label":
            return scoring.reason_tokens
        return scoring.answer_tokens if scoring.decode == "free" else 0

    @property
    def uses_state(self) -> bool:
        """Whether questions state the predictions for earlier lines."""
        return self.config.state.source == "predicted"

    @property
    def needs_states(self) -> bool:
        """Whether its neighbours are found by the hidden states at the questions."""
        return self.neighbours is not None and self.neighbours.by_states

    def predict(self, dialogue: Dialogue) -> LabelledLines:
        """Label every target of the dialogue, in order."""
        return self.predict_all([dialogue])[0]

    def predict_all(self, dialogues: Sequence[Dialogue]) -> list[LabelledLines]:
        """Label every target of each dialogue; their trees are packed together, so this is faster than one by one."""
        scores = self.scores(dialogues, states=self.needs_states)
        near: Iterator[Floats | None] = repeat(None)
        if self.neighbours is not None:
            near = iter(self.neighbours.of(dialogues, [s.state for found in scores for s in found]))
        return [
            LabelledLines(self.labelled(dialogue.utterances[s.target], s, next(near)) for s in found)
            for dialogue, found in zip(dialogues, scores, strict=True)
        ]

    def live(self, dialogue_id: str = "live", episode: str | None = None) -> LiveSession:
        """A session that labels a conversation line by line.

        Args:
            dialogue_id: Id of the conversation. `predict` gives a dialogue with this id the same results: the id fixes
                the orders of the labels if scores are averaged over several, and the dialogue's time in a corpus
                without episodes.
            episode: The episode of the corpus that it belongs to, whose lines are no neighbours; by default none.

        Raises:
            ConfigError: The model was trained with context `full`, which needs later lines.
        """
        if self.config.prompt.context != "past":
            raise ConfigError("prompt.context: a live session needs `past`; this model reads the `full` scene")
        if self.config.scoring.forecast:
            raise ConfigError("scoring.forecast: a live session labels lines that it has read; call its `forecast()`")
        if ahead := self.config.prompt.lookahead:
            raise ConfigError(f"prompt.lookahead: a live session needs 0; this model reads {ahead} later lines")
        return LiveSession(self, dialogue_id, episode)

    def labelled(self, utterance: Utterance, scores: LabelScores, neighbours: Floats | None) -> LabelledUtterance:
        """A target with the label and distribution that its scores give, after the correction.

        `neighbours` is the (labels,) label distribution of its neighbours, if the correction mixes it in.
        """
        names = self.labels.names
        probabilities = self.correction.probabilities(scores.log_likelihoods, neighbours)
        by_name = dict(zip(names, probabilities.tolist(), strict=True))
        return LabelledUtterance(
            utterance,
            names[int(self.correction.decide(probabilities))],
            by_name,
            dict(zip(names, scores.log_likelihoods.tolist(), strict=True)),
            scores.label_mass,
            self.labels.coarse_probabilities(by_name),
        )


def load(
    source: str | Path | RunConfig | Opened,
    past: Past = None,
    *,
    prior: Prior = "auto",
    calibration: Calibrated = "auto",
    decide: AskedDecide = "auto",
    overrides: Sequence[str] = (),
    beside: Predictor | None = None,
) -> Predictor:
    """A predictor from a run, or from a configuration (its base model, zero-shot).

    Args:
        source: A run directory or its adapter folder; a configuration, its YAML file or the name of a packaged one.
        past: Earlier conversations, from which speaker profiles are written if the prompt has them: a corpus, or `none`
            if every speaker is new. A run with profiles, or with `prompt.names=invented`, needs them. A run that
            retrieves lines (`retrieval.use`) needs the corpus that it was trained on.
        prior: Label distribution to correct predictions to: that of the corpus (`corpus`), your own in label order, or
            the one that training saw (`none`). `auto` is `corpus`, which changes nothing unless classes were balanced
            in training.
        calibration: `run`: the calibration that is stored with the run; `none`: none; `auto`: that of the run if the
            decision rule needs it.
        decide: `probable` (the most probable label), or a decision rule that is stored with the run: `weighted_f1`,
            `macro_f1` or `weights`. `auto`: the rule that the run names (that of a cross-fitted run), else `probable`.
            A run that names a rule is calibrated unless `calibration` is `none`.
        overrides: `key=value` texts: `scoring.FIELD`, and where the run's model is and how it is computed on this
            machine (`model.base`, `model.device`, `model.precision`).
        beside: A predictor of another adapter on the same base model, which is not loaded again: both share it, and
            each uses its own adapter.

    Raises:
        ConfigError: An override is wrong, a prior does not fit the labels, the calibration or `scoring.decode`, or the
            run needs a past and has none.
        RunError: The run or calibration is missing, not finished, of another format, or a control; or it retrieves
            lines, and the past has another train.
        ModelError: The base model is missing, or is not the one that the adapter was trained on.
    """
    opened = open_run(source, overrides)
    correction = _correction(opened, prior, calibration, decide)  # its mistakes are reported before the model is loaded
    neighbours = open_neighbours(opened.run, correction)
    if beside is not None:
        name = share_model(Opened(beside.config, beside.run, beside.export), beside.loaded, opened)
        return Predictor(opened, beside.loaded, past, correction, name, neighbours)
    return Predictor(opened, load_model(opened), past, correction, neighbours=neighbours)


def _correction(opened: Opened, prior: Prior, calibration: Calibrated, decide: AskedDecide) -> Correction:
    """The correction of the scores; generated text has no scores.

    Raises:
        ConfigError: There are no scores to correct, or the calibration was fitted on other scores.
    """
    run, scoring = opened.run, opened.config.scoring
    asked = prior not in ("auto", "none") or calibration == "run" or decide not in ("auto", "probable")
    if asked and scoring.decode != "score":
        raise ConfigError(
            f"scoring.decode={scoring.decode} gives no scores that a prior, calibration or decision rule could work "
            "on; use scoring.decode=score"
        )
    if scoring.forecast:
        check_forecasts(opened.config, run)
    if scoring.forecast and asked:
        raise ConfigError(
            "scoring.forecast: prior, calibration and decision rule are for labels of lines that were read"
        )
    if scoring.forecast:
        return Correction()
    own = scoring.label_orders if run is None else run.config.scoring.label_orders
    correction = choose_correction(run, prior, calibration, decide)
    if correction.calibrated and scoring.label_orders != own:
        raise ConfigError(
            f"calibration: the run's is fitted on scores with scoring.label_orders={own}, found "
            f"{scoring.label_orders}; use none (--calibration none)"
        )
    return correction
