"""Live sessions: one conversation, labelled line by line on the key-value cache of the trunk.

Input: a loaded model with its prompter, and lines. Output: `LabelledUtterance` records, and forecasts of the next line.
Does not depend on: files, the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.decoding.scenes import mean_score
from erc_llm.decoding.scoring import score_questions
from erc_llm.errors import ConfigError
from erc_llm.prompting.prompter import scoring_orders
from erc_llm.prompting.scene import Scene
from erc_llm.runs.opened import Opened
from erc_llm.trees.tree import TokenTree, TreeBuilder
from erc_llm.trees.windows import WindowCutter

if TYPE_CHECKING:
    from transformers import DynamicCache

    from erc_llm.predictor import LabelledUtterance, Predictor


class LiveSession:
    """One conversation, labelled line by line on the KV cache of the trunk (the shared prefix).

    The results are those of batch prediction. If scores are averaged over orders of the labels, each order has its own
    trunk and cache.
    """

    def __init__(self, predictor: Predictor, dialogue_id: str) -> None:
        config = predictor.config
        self._orders = scoring_orders(predictor.labels, config.scoring.label_orders, config.seed, dialogue_id)
        self._dialogue_id = dialogue_id
        self._predictor = predictor
        self._prompter = predictor.prompter
        self._utterances: list[Utterance] = []
        self._state: list[str | None] = []
        self._cutter = WindowCutter(self._prompter.options.trunk_budget)
        self._caches: list[DynamicCache] = []
        self._failed = False

    def say(self, speaker: str | Sequence[str], text: str) -> LabelledUtterance:
        """Add the next line and label it.

        Raises:
            ConfigError: An earlier line ended in an error, so the caches are not complete.
        """
        import torch
        from transformers import DynamicCache

        if self._failed:
            raise ConfigError("this live session ended in an error at an earlier line; start a new one with `live()`")
        self._failed = True  # until this line is labelled
        speakers = (speaker,) if isinstance(speaker, str) else tuple(speaker)
        utterance = Utterance(f"u{len(self._utterances) + 1:03d}", speakers, text)
        self._utterances.append(utterance)
        k = len(self._utterances) - 1
        scene = self._prompter.scene(Dialogue(self._dialogue_id, tuple(self._utterances)))
        model = self._predictor.ready().model
        if self._cutter.add(scene.cost(k)) or not self._caches:
            self._caches = [DynamicCache(config=model.config) for _ in self._orders]
        trees = [self._tree(scene, k, order) for order in self._orders]
        model.eval()
        with torch.inference_mode():
            by_order = [
                score_questions(model, cache, tree, tree.questions)
                for cache, tree in zip(self._caches, trees, strict=True)
            ]
        scores = [mean_score(same) for same in zip(*by_order, strict=True)]
        self._failed = False
        label = self._predictor.labels.names[int(scores[0].log_likelihoods.argmax())]
        self._state.append(label if text.strip() else None)  # batch prediction has no question about an empty line
        return self._predictor.labelled(utterance, scores[-1])

    def forecast(self) -> Mapping[str, float]:
        """Probability of each label for the next line, whoever says it, from the lines so far; they sum to 1.

        The distribution is that of `scoring.forecast=true`, without correction.

        Raises:
            ConfigError: The run was not trained to forecast, or an earlier line ended in an error.
        """
        import torch
        from transformers import DynamicCache

        predictor = self._predictor
        check_forecasts(Opened(predictor.config, predictor.run, predictor.export))
        if self._failed:
            raise ConfigError("this live session ended in an error at an earlier line; start a new one with `live()`")
        scene = self._prompter.scene(Dialogue(self._dialogue_id, tuple(self._utterances)))
        model = predictor.ready().model
        model.eval()
        caches = self._caches or [DynamicCache(config=model.config) for _ in self._orders]
        by_order = []
        with torch.inference_mode():
            for cache, order in zip(caches, self._orders, strict=True):
                builder = TreeBuilder()
                begin = builder.add_trunk("instruction", self._prompter.head_ids(order))
                said = len(self._utterances)
                after = scene.add_lines(builder, self._cutter.start, said)[said - 1] if said else begin
                answers = list(enumerate(self._prompter.answer_ids))
                builder.add_question(said, after, self._prompter.forecast_pieces(), answers)
                tree = builder.build()
                by_order += score_questions(model, cache, tree, tree.questions)
        probabilities = mean_score(by_order).probabilities
        return dict(zip(predictor.labels.names, probabilities.tolist(), strict=True))

    def _tree(self, scene: Scene, k: int, order: tuple[str, ...]) -> TokenTree:
        """The window up to line `k` and the question about it; with state a second one, which states predictions."""
        builder = TreeBuilder()
        builder.add_trunk("instruction", self._prompter.head_ids(order))
        after = scene.add_lines(builder, self._cutter.start, k + 1)[k]
        answers = list(enumerate(self._prompter.answer_ids))
        builder.add_question(k, after, self._prompter.pieces(scene, k), answers)
        if self._predictor.uses_state:
            builder.add_question(k, after, self._prompter.pieces(scene, k, self._state), answers)
        return builder.build()


def check_forecasts(opened: Opened) -> None:
    """Refuse to forecast with a run that was not trained to.

    Raises:
        ConfigError: Its training did not ask about the next line.
    """
    run = opened.run
    trained_alone = run is not None and run.config.scoring.forecast
    if not trained_alone and opened.config.training.auxiliary.next_emotion == 0:
        raise ConfigError(
            "scoring.forecast: this model was not trained to predict the next line; train a run with "
            "training.auxiliary.next_emotion=0.5"
        )
