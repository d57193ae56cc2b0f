"""Configurations of training runs, as frozen records that are checked when they are read.

Input: a YAML file and `key=value` overrides. Output: a `RunConfig`.
Does not depend on: loaded models, corpora on disk.
"""

from erc_llm.config.recipe import Recipe, RunConfig, load_config
from erc_llm.config.sections import (
    CorpusConfig,
    FoldConfig,
    LabelsConfig,
    LoraConfig,
    ModelConfig,
    ProfileConfig,
    PromptConfig,
    RetrievalConfig,
    ScoringConfig,
    StateConfig,
)
from erc_llm.config.training import AuxiliaryConfig, SamplingConfig, TrainingConfig

__all__ = [
    "AuxiliaryConfig",
    "CorpusConfig",
    "FoldConfig",
    "LabelsConfig",
    "LoraConfig",
    "ModelConfig",
    "ProfileConfig",
    "PromptConfig",
    "Recipe",
    "RetrievalConfig",
    "RunConfig",
    "SamplingConfig",
    "ScoringConfig",
    "StateConfig",
    "TrainingConfig",
    "load_config",
]
