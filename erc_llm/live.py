"""Live sessions: one conversation, labelled line by line on the key-value cache of the trunk.

Input: a loaded model with its prompter, and lines. Output: `LabelledUtterance` records, and forecasts of the next line.
Does not depend on: files, the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from erc_llm.config import RunConfig
from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.decoding.scenes import mean_score
from erc_llm.decoding.scoring import LabelScores, score_questions
from erc_llm.errors import ConfigError, RunError
from erc_llm.prompting.prompter import scoring_orders
from erc_llm.prompting.scene import Scene
from erc_llm.prompting.templates import load_auxiliary
from erc_llm.runs.directory import Run
from erc_llm.trees.tree import TreeBuilder
from erc_llm.trees.windows import WindowCutter

if TYPE_CHECKING:
    from transformers import DynamicCache

    from erc_llm.predictor import LabelledUtterance, Predictor

Pieces = Sequence[tuple[str, Sequence[int]]]


class LiveSession:
    """One conversation, labelled line by line on the KV cache of the trunk (the shared prefix).

    The results are those of batch prediction. If scores are averaged over orders of the labels, each order has its own
    trunk and cache.
    """

    def __init__(self, predictor: Predictor, dialogue_id: str, episode: str | None = None) -> None:
        config = predictor.config
        self._orders = scoring_orders(predictor.labels, config.scoring.label_orders, config.seed, dialogue_id)
        self._dialogue_id = dialogue_id
        self._episode = episode or dialogue_id
        self._predictor = predictor
        self._prompter = predictor.prompter
        self._utterances: list[Utterance] = []
        self._state: list[str | None] = []
        options = self._prompter.options
        self._cutter = WindowCutter(options.trunk_budget, options.trunk_lines)
        self._caches: list[DynamicCache] = []
        self._failed = False

    def say(self, speaker: str | Sequence[str], text: str) -> LabelledUtterance:
        """Add the next line and label it.

        Raises:
            ConfigError: An earlier line ended in an error, so the caches are not complete.
        """
        self._begin()
        speakers = (speaker,) if isinstance(speaker, str) else tuple(speaker)
        utterance = Utterance(f"u{len(self._utterances) + 1:03d}", speakers, text)
        self._utterances.append(utterance)
        k = len(self._utterances) - 1
        scene = self._prompter.scene(Dialogue(self._dialogue_id, tuple(self._utterances)), self._episode)
        if self._cutter.add(scene.cost(k)) or not self._caches:
            self._new_window()
        asked = [self._prompter.pieces(scene, k)]
        if self._predictor.uses_state:  # a second question, which states the predictions for earlier lines
            asked.append(self._prompter.pieces(scene, k, self._state))
        scores = self._scores(scene, k, asked)
        label = self._predictor.labels.names[int(scores[0].log_likelihoods.argmax())]
        self._state.append(label if text.strip() else None)  # batch prediction has no question about an empty line
        neighbours = self._predictor.neighbours
        near = None if neighbours is None else neighbours.of_line(text, self._episode, scores[-1].state)
        return self._predictor.labelled(utterance, scores[-1], near)

    def hear(self, lines: Sequence[tuple[Sequence[str], str]]) -> None:
        """Add lines, each with its speakers, that need no label; the lines after them are labelled as ever.

        This reads nothing yet: the next line's forward pass reads all of them, which is faster than saying each. If
        questions state the predictions for earlier lines, each has to be said all the same.

        Raises:
            ConfigError: An earlier line ended in an error, so the caches are not complete.
        """
        if self._predictor.uses_state:
            for speakers, text in lines:
                self.say(speakers, text)
            return
        before = len(self._utterances)
        for k, (speakers, text) in enumerate(lines, start=before + 1):
            self._utterances.append(Utterance(f"u{k:03d}", tuple(speakers), text))
        scene = self._prompter.scene(Dialogue(self._dialogue_id, tuple(self._utterances)), self._episode)
        for k in range(before, len(self._utterances)):
            if self._cutter.add(scene.cost(k)):
                self._caches = []  # of the window before
        self._state += [None] * len(lines)

    def forecast(self) -> Mapping[str, float]:
        """Probability of each label for the next line, whoever says it, from the lines so far; they sum to 1.

        The distribution is that of `scoring.forecast=true`, without correction.

        Raises:
            ConfigError: The run was not trained to forecast, or an earlier line ended in an error.
        """
        predictor = self._predictor
        check_forecasts(predictor.config, predictor.run)
        self._begin()
        scene = self._prompter.scene(Dialogue(self._dialogue_id, tuple(self._utterances)), self._episode)
        if not self._caches:
            self._new_window()
        (scores,) = self._scores(scene, len(self._utterances), [self._prompter.forecast_pieces])
        return dict(zip(predictor.labels.names, scores.probabilities.tolist(), strict=True))

    @property
    def cached_bytes(self) -> int:
        """Memory of the caches, in bytes."""
        layers: list[Any] = [layer for cache in self._caches for layer in cache.layers]
        return sum(int(t.nbytes) for layer in layers for t in (layer.keys, layer.values) if t is not None)

    def forget(self) -> None:
        """Free the caches; the next line computes them again, with the same results."""
        self._caches = []

    def _begin(self) -> None:
        """Refuse to go on after an error; the session has failed until `_scores` has ended."""
        if self._failed:
            raise ConfigError("this live session ended in an error at an earlier line; start a new one with `live()`")
        self._failed = True

    def _new_window(self) -> None:
        """Forget what the caches hold."""
        from transformers import DynamicCache

        config = self._predictor.ready().model.config
        self._caches = [DynamicCache(config=config) for _ in self._orders]

    def _scores(self, scene: Scene, target: int, asked: Sequence[Pieces]) -> list[LabelScores]:
        """Scores of the questions about a target after the last line so far, averaged over the orders of the labels."""
        import torch

        model, answers = self._predictor.ready().model, list(enumerate(self._prompter.answer_ids))
        by_order = []
        if model.training:  # `eval` visits all modules, which takes a small model a tenth of the time of a line
            model.eval()
        with torch.inference_mode():
            for cache, order in zip(self._caches, self._orders, strict=True):
                builder, said = TreeBuilder(), len(self._utterances)
                after = builder.add_trunk("instruction", self._prompter.head_ids(order))
                if said:
                    after = scene.add_lines(builder, self._cutter.start, said)[said - 1]
                for pieces in asked:
                    builder.add_question(target, after, pieces, answers)
                tree = builder.build()
                by_order.append(score_questions(model, cache, tree, tree.questions, self._predictor.needs_states))
        self._failed = False
        return [mean_score(same) for same in zip(*by_order, strict=True)]


def check_forecasts(config: RunConfig, run: Run | None) -> None:
    """Refuse to forecast with a model that was not trained to, or that was asked in other words.

    Raises:
        ConfigError: Its training did not ask about the next line.
        RunError: The question in this version of the package is another one than in the run's training.
    """
    if config.training.auxiliary.next_emotion == 0:
        raise ConfigError(
            "scoring.forecast: this model was not trained to predict the next line; train a run with "
            "training.auxiliary.next_emotion=0.5"
        )
    asked = None if run is None else run.manifest.auxiliary_sha256
    if run is not None and asked is not None and asked != (now := load_auxiliary().sha256):
        raise RunError(
            f"{run.folder}: was trained with another question about the next line (auxiliary template {asked[:12]}, "
            f"here {now[:12]}); use version {run.manifest.versions.get('erc-llm')} of erc-llm"
        )
