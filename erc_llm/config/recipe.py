"""The configuration of a training run: its sections together, hashed, and read from a YAML file.

`erc-llm config` prints the documentation of all fields.

Input: a YAML file and `key=value` overrides, which `config_files` reads and checks. Output: a frozen `RunConfig`.
Does not depend on: loaded models, corpora on disk. Inner functions take plain values, not these records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, ClassVar

import yaml
from pydantic import Field, model_validator

from erc_llm.config.sections import (
    CorpusConfig,
    LoraConfig,
    ModelConfig,
    ProfileConfig,
    PromptConfig,
    RetrievalConfig,
    ScoringConfig,
    StateConfig,
)
from erc_llm.config.training import AuxiliaryConfig, SamplingConfig, TrainingConfig
from erc_llm.config_files import Section, load_section
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.models.devices import PRECISION_DTYPES

_ADDED_LATER: dict[str, Any] = {
    "corpus.fold": None,
    "corpus.avoid": [],
    "lora.start": None,
    "corpus.labels.coarse": {},
    "prompt.lookahead": 0,
    "prompt.trunk_lines": None,
    "prompt.answer": "label",
    "scoring.forecast": False,
    "retrieval": RetrievalConfig().model_dump(mode="json"),
    "training.auxiliary": AuxiliaryConfig().model_dump(mode="json"),
    "training.neftune": 0.0,
    "training.label_smoothing": 0.0,
    "training.smoothing_toward": "uniform",
    "training.average_last": 0.0,
    "training.r_drop": 0.0,
}


class Recipe(Section):
    """The fields that configurations of adapters and of baselines share."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9._-]+$", description="The run directory's name.")
    output: str = Field("runs", description="Folder in which the run directory is created.")
    seed: int = Field(13, ge=0, lt=2**32, description="Fixes the data order, new weights and dropout.")
    corpus: CorpusConfig = CorpusConfig()

    precision_field: ClassVar[str]  # the name of the field that sets the precision of training

    def result_fields(self) -> dict[str, Any]:
        """Every field that can change a result.

        Left out are:
        - how results are shown and saved, and paths: their contents (corpus, template, model) have hashes of their
          own. Of a run to start from and of corpora to avoid the name counts, so that recipes with and without them
          differ; the manifest states their contents;
        - settings that bound memory or time, so that a run can be resumed with others after it ran out of memory. They
          change the order of sums, and accumulation also dropout masks, the size of NEFTune's noise and the steps that
          have too few dialogues for its forests; so does other hardware, or another number of processes;
        - the precision: `auto` depends on the hardware, so the manifest states the precision that it resolved to, and
          that is what is compared.
        """
        raise NotImplementedError

    def _all_but(self, left_out: Any) -> dict[str, Any]:
        """Every field but those left out; fields added later only if they are set, so that earlier hashes stay."""
        fields = self.model_dump(mode="json", exclude=left_out)
        fields["corpus"]["avoid"] = sorted(PurePath(path).name for path in self.corpus.avoid)
        for path, unset in _ADDED_LATER.items():
            *sections, name = path.split(".")
            inner: Any = fields
            for section in sections:
                inner = inner.get(section) if isinstance(inner, dict) else None
            if isinstance(inner, dict) and name in inner and inner[name] == unset:
                del inner[name]
        return fields

    @property
    def asked_precision(self) -> str | None:
        """The dtype that the configuration asks training for, such as `bfloat16`; None for `auto`."""
        section, _, name = self.precision_field.partition(".")
        return PRECISION_DTYPES.get(getattr(getattr(self, section), name))

    @property
    def sha256(self) -> str:
        """Hash of `result_fields`."""
        return hashlib.sha256(json.dumps(self.result_fields(), sort_keys=True).encode()).hexdigest()

    @property
    def recipe_sha256(self) -> str:
        """Hash of `result_fields` without the seed: equal for runs that differ in their seed only."""
        fields = {name: value for name, value in self.result_fields().items() if name != "seed"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def label_set(self) -> LabelSet:
        """The label set it names; EmoryNLP's by default."""
        own = self.corpus.labels
        return EMORYNLP if own is None else LabelSet(own.names, own.spellings, own.neutral, own.coarse)

    def as_yaml(self) -> str:
        """The resolved configuration."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class RunConfig(Recipe):
    """A training run."""

    tried: int = Field(
        1, ge=1, description="Configurations that were scored to choose this one; `erc-llm sweep` writes it."
    )
    prompt: PromptConfig = PromptConfig()
    profile: ProfileConfig = ProfileConfig()
    state: StateConfig = StateConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()

    precision_field: ClassVar[str] = "model.precision"

    @model_validator(mode="after")
    def _avoids_in_prompts_too(self) -> RunConfig:
        if self.corpus.avoid and self.profile.writer != "none":
            raise ValueError(
                f"profile.writer={self.profile.writer} would write profiles from dialogues that corpus.avoid leaves "
                "out; set it to none"
            )
        if self.corpus.avoid and self.retrieval.use != "none":
            raise ValueError(
                f"retrieval.use={self.retrieval.use} would find lines of dialogues that corpus.avoid leaves out; set "
                "it to none"
            )
        return self

    @model_validator(mode="after")
    def _drops_where_passes_are_compared(self) -> RunConfig:
        if self.training.r_drop and not self.lora.dropout:
            raise ValueError(
                f"training.r_drop={self.training.r_drop} compares two passes with different dropout, and lora.dropout "
                "is 0; set lora.dropout=0.1, or training.r_drop=0"
            )
        return self

    @property
    def confusion_reader(self) -> str | None:
        """The setting for which training reads the counts of `state.confusion`; None if it reads none."""
        if self.state.source != "none":
            return f"state.source={self.state.source}"
        toward = self.training.smoothing_toward
        return f"training.smoothing_toward={toward}" if toward == "confusions" else None

    @property
    def holds_out_selection(self) -> bool:
        """Whether training leaves the selection split out of train: only then is there something to score on it."""
        return self.training.evaluations > 0

    def result_fields(self) -> dict[str, Any]:
        """Every field that can change a result; `training.evaluations` among them, as it decides what is kept."""
        left_out: Any = {
            "name": True,
            "output": True,
            "tried": True,
            "corpus": {"path", "heal_from"},
            "prompt": {"template"},
            "profile": {"notes"},
            "state": {"confusion"},
            "model": {"base", "device", "precision"},
            "training": {"accumulation", "gradient_checkpointing", "log_every", "report_to", "checkpoint_minutes"},
            "scoring": {"tokens_per_forest"},
        }
        fields = self._all_but(left_out)
        if self.lora.start is not None:
            fields["lora"]["start"] = PurePath(self.lora.start).name
        return fields


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration.

    Args:
        source: A YAML file, or the name of one that comes with the package (`sample`, `smollm2-135m`, ...).
        overrides: `key.sub=value` texts; values are read as YAML.

    Raises:
        ConfigError: With every mistake of file and overrides, one a line.
    """
    return load_section(RunConfig, source, overrides)
