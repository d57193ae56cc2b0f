"""Conversations with emotion labels: records, file readers, label sets and the sample corpus.

Input: corpus files. Output: a `Corpus`.
Does not depend on: prompts, models, runs.
"""

from erc_llm.corpus.dialogues import Corpus, Dialogue, Utterance
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.corpus.readers import read_corpus
from erc_llm.corpus.sample import read_sample
from erc_llm.corpus.speakers import GENERIC_NAMES, identity
from erc_llm.corpus.splits import labelled_scenes, selection_split

__all__ = [
    "EMORYNLP",
    "GENERIC_NAMES",
    "Corpus",
    "Dialogue",
    "LabelSet",
    "Utterance",
    "identity",
    "labelled_scenes",
    "read_corpus",
    "read_sample",
    "selection_split",
]
