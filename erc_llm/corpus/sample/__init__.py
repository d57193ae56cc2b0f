"""The sample corpus that comes with the package: an invented series, split by episode into train, dev and test."""

from __future__ import annotations

from importlib.resources import as_file, files

from erc_llm.corpus.dialogues import Corpus
from erc_llm.corpus.readers import read_corpus


def read_sample() -> Corpus:
    """The embedded corpus, with EmoryNLP's seven labels. It needs no network and no download."""
    with as_file(files(__name__)) as folder:
        return read_corpus(folder, name="sample")
