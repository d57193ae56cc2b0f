"""The sample corpus that comes with the package: an invented series, split by episode into train, dev and test.

Input: the packaged JSONL files. Output: a `Corpus`.
Does not depend on: the network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.resources import as_file, files

from erc_llm.corpus.dialogues import Corpus
from erc_llm.corpus.readers import read_corpus
from erc_llm.corpus.speakers import GENERIC_NAMES


def read_sample(*, aliases: Mapping[str, str] | None = None, generic: Collection[str] = GENERIC_NAMES) -> Corpus:
    """The embedded corpus, with EmoryNLP's seven labels.

    Args:
        aliases: Speaker name in the data to the name to use instead.
        generic: Names that stand for a different person in each episode.
    """
    with as_file(files(__name__)) as folder:
        return read_corpus(folder, aliases=aliases, generic=generic, name="sample")
