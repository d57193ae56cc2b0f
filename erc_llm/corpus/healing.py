"""Gap healing: adds the lines that `aligned` lacks, taken from `original`, as context.

The added lines are unlabelled and never targets. Scenes that are missing from `aligned` altogether are not added.

Input: a corpus of version `aligned` and one of version `original`. Output: the aligned corpus with complete scenes.
Does not depend on: files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from erc_llm.corpus.dialogues import Corpus, Dialogue, Utterance
from erc_llm.corpus.read_warnings import ReadWarnings
from erc_llm.errors import CorpusError


def heal(aligned: Corpus, original: Corpus) -> Corpus:
    """Fill the gaps in every scene of `aligned`, matched by dialogue and utterance id.

    An utterance that both versions have is kept as in `aligned`. The order within a scene is that of `original`.

    Raises:
        CorpusError: A corpus is not of the expected version, or the two share no scene.
    """
    if aligned.version != "aligned" or original.version != "original":
        raise CorpusError(
            f"heal_from fills the gaps of version aligned from version original; found {aligned.version} and "
            f"{original.version}. Remove heal_from, or set it to the folder with the EmoryNLP JSON files"
        )
    sources = {dialogue.id: dialogue for dialogue in original.dialogues()}
    warned = ReadWarnings()
    restored: Counter[str] = Counter()
    splits = {}
    for split, dialogues in aligned.splits.items():
        healed = tuple(_heal_dialogue(d, sources.get(d.id), warned) for d in dialogues)
        restored[split] = sum(
            len(new.utterances) - len(old.utterances) for new, old in zip(healed, dialogues, strict=True)
        )
        splits[split] = healed
    if not any(d.id in sources for d in aligned.dialogues()):
        raise CorpusError(
            f"heal_from: '{aligned.name}' and '{original.name}' share no scene; expected two versions of one corpus"
        )
    parts = ", ".join(f"{split} {count:,}" for split, count in restored.items())
    report = f"gap-healed: {restored.total():,} missing lines were added as context only ({parts})"
    sentences = (*aligned.warnings, report, *warned.sentences())
    return replace(aligned, splits=splits, healed=True, warnings=sentences, files=aligned.files + original.files)


def _heal_dialogue(aligned: Dialogue, original: Dialogue | None, warned: ReadWarnings) -> Dialogue:
    if original is None:
        warned.add("scene not healed: it is missing from original", aligned.id)
        return aligned
    own = {utterance.id: utterance for utterance in aligned.utterances}
    for missing in original.utterances:
        mine = own.get(missing.id)
        if mine is not None and mine.text != missing.text:
            warned.add("text differs between aligned (kept) and original", missing.id)
    known = {utterance.id for utterance in original.utterances}
    if [u.id for u in aligned.utterances if u.id in known] != [u.id for u in original.utterances if u.id in own]:
        warned.add("order differs between aligned and original (kept)", aligned.id)
    additions = _additions(aligned, known, warned)
    utterances = list(additions.get(None, ()))
    for line in original.utterances:
        utterances.append(own.get(line.id) or replace(line, label=None, target=False))
        utterances.extend(additions.get(line.id, ()))
    return replace(aligned, utterances=tuple(utterances))


def _additions(aligned: Dialogue, known: set[str], warned: ReadWarnings) -> dict[str | None, list[Utterance]]:
    """Utterances that only `aligned` has, grouped by the id of the shared utterance before them (None: none)."""
    additions: dict[str | None, list[Utterance]] = {}
    previous = None
    for utterance in aligned.utterances:
        if utterance.id in known:
            previous = utterance.id
        else:
            warned.add("utterance of aligned that is missing from original, kept", utterance.id)
            additions.setdefault(previous, []).append(utterance)
    return additions
