"""The sample corpus that comes with the package: an invented series, split by episode into train, dev and test."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.resources import as_file, files

from erc_llm.corpus.dialogues import Corpus
from erc_llm.corpus.readers import read_corpus
from erc_llm.corpus.speakers import GENERIC_NAMES


def read_sample(*, aliases: Mapping[str, str] | None = None, generic: Collection[str] = GENERIC_NAMES) -> Corpus:
    """The embedded corpus, with EmoryNLP's seven labels. It needs no network and no download.

    Args:
        aliases: A name as the data has it, to the name to use instead.
        generic: Names that mean another person in every episode.
    """
    with as_file(files(__name__)) as folder:
        return read_corpus(folder, aliases=aliases, generic=generic, name="sample")
