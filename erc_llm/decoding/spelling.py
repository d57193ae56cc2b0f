"""Maps freely generated text to a label, or to none.

Tried in this order: a name or spelling of the label set; the same without case, surrounding punctuation and a leading
"Answer:"; for EmoryNLP's labels a written synonym table. All else is invalid and counted wrong: no edit distance, no
search inside sentences, no choice between two labels.

Input: an answer as text, a label set. Output: a canonical name or None.
Does not depend on: models, servers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

from erc_llm.corpus.labels import EMORYNLP, LabelSet

# A word stands here if it names the same emotion: another part of speech of the label ("sadness"), a synonym that a
# dictionary gives, or the same emotion weaker or stronger ("annoyed", "furious"). What is merely near stays out
# ("worried", "excited", "surprised", "disappointed", "none"), and so does what means something else too ("madness").
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

# What may stand around an answer. No angle brackets: markup is no answer.
_AROUND = " .,;:!?…'\"`´‘’‚“”„«»*_()[]{}•-–—"  # noqa: RUF001
_LEAD = re.compile(rf"\A(?:(?:answer|emotion|label)\s*:[{re.escape(_AROUND)}]*)+")


def spelled_label(text: str, labels: LabelSet) -> str | None:
    """The canonical name that an answer spells; None if it is invalid.

    A label set other than EmoryNLP's brings its synonyms in its `spellings`.
    """
    return labels.match(text) or _table(labels).get(normalised(text))


def normalised(text: str) -> str:
    """An answer's text in Unicode's NFKC form, case-folded, with single spaces, and without what stands around it.

    Left off are white space, punctuation and quotes on either side, and "Answer:", "Emotion:" or "Label:" before it.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return _LEAD.sub("", folded.strip(_AROUND))


@lru_cache(maxsize=16)
def _table(labels: LabelSet) -> Mapping[str, str]:
    """Normalised spelling to name, without those that two labels share."""
    table: dict[str, str | None] = {}
    for spelling, name in (*zip(labels.names, labels.names, strict=True), *labels.spellings.items()):
        key = normalised(spelling)
        table[key] = name if table.get(key, name) == name else None
    synonyms = EMORYNLP_SYNONYMS if set(labels.names) == set(EMORYNLP.names) else {}
    return {key: name for key, name in {**synonyms, **table}.items() if key and name}
