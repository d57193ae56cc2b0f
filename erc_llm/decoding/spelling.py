"""Maps freely generated text to a label, or to none.

It tries in this order: a name or spelling of the label set; the same without case, surrounding punctuation and a
leading "Answer:"; for EmoryNLP's labels a fixed table of synonyms; each of these behind the label's own coarser label
("negative sad"). Any other text is invalid and counted as wrong. It
uses no edit distance, does not search inside sentences, and does not choose between two labels.

Input: an answer as text, a label set. Output: a canonical name or None.
Does not depend on: models, servers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

from erc_llm.corpus.labels import EMORYNLP, LabelSet

# A word is listed if it names the same emotion: another part of speech of the label ("sadness"), a synonym from a
# dictionary, or a weaker or stronger form of the emotion ("annoyed", "furious"). Words for related emotions are left
# out ("worried", "excited", "surprised", "disappointed", "none"), and so are those with another meaning ("madness").
_SYNONYMS_OF: Mapping[str, tuple[str, ...]] = {
    "Joyful": ("joy", "joyous", "joyfulness", "happy", "happiness", "glad", "cheerful", "delighted", "elated"),
    "Mad": ("angry", "anger", "furious", "enraged", "rage", "irate", "annoyed", "irritated"),
    "Neutral": ("neutrality", "no emotion", "emotionless", "unemotional"),
    "Peaceful": ("peace", "peacefulness", "at peace", "calm", "calmness", "serene", "tranquil", "relaxed"),
    "Powerful": ("power", "confident", "confidence", "self-confident", "proud", "pride", "strong", "empowered"),
    "Sad": ("sadness", "unhappy", "unhappiness", "sorrow", "sorrowful", "miserable", "heartbroken"),
    "Scared": ("afraid", "fear", "fearful", "frightened", "terrified", "terror"),
}
EMORYNLP_SYNONYMS: Mapping[str, str] = {word: label for label, words in _SYNONYMS_OF.items() for word in words}

# Characters allowed around an answer. Angle brackets are not among them: markup is not an answer.
_AROUND = " .,;:!?…'\"`´‘’‚“”„«»*_()[]{}•-–—"  # noqa: RUF001
_LEAD = re.compile(rf"\A(?:(?:answer|emotion|label)\s*:[{re.escape(_AROUND)}]*)+")


def spelled_label(text: str, labels: LabelSet) -> str | None:
    """The canonical name that an answer spells; None if it is invalid.

    Synonyms of label sets other than EmoryNLP's are given in their `spellings`.
    """
    answer = normalised(text)
    return labels.match(text) or _table(labels).get(answer) or _behind_coarser(answer, labels)


def _behind_coarser(answer: str, labels: LabelSet) -> str | None:
    """The label of an answer that names its coarser label first, as with `prompt.answer=coarse_then_label`."""
    for coarse in labels.coarse_names:
        before = f"{normalised(coarse)} "
        label = _table(labels).get(answer.removeprefix(before)) if answer.startswith(before) else None
        if label is not None and labels.coarse[label] == coarse:
            return label
    return None


def normalised(text: str) -> str:
    """An answer's text in Unicode's NFKC form, case-folded and with single spaces.

    White space, punctuation and quotes on either side are removed, and "Answer:", "Emotion:" or "Label:" before it.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return _LEAD.sub("", folded.strip(_AROUND))


@lru_cache(maxsize=16)
def _table(labels: LabelSet) -> Mapping[str, str]:
    """Names by normalised spelling, without spellings that two labels share."""
    table: dict[str, str | None] = {}
    for spelling, name in (*zip(labels.names, labels.names, strict=True), *labels.spellings.items()):
        key = normalised(spelling)
        table[key] = name if table.get(key, name) == name else None
    synonyms = EMORYNLP_SYNONYMS if set(labels.names) == set(EMORYNLP.names) else {}
    return {key: name for key, name in {**synonyms, **table}.items() if key and name}
