"""Gap healing: the lines that `aligned` lacks, returned from `original` as context.

In: a corpus in version `aligned` and one in version `original`. Out: the aligned corpus with the missing lines of its
scenes in their places, never as targets and without labels. Scenes that `aligned` lacks altogether stay away.
Deliberately unknown here: files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from erc_llm.corpus.dialogues import Corpus, Dialogue, Utterance
from erc_llm.corpus.read_warnings import ReadWarnings
from erc_llm.errors import CorpusError


def heal(aligned: Corpus, original: Corpus) -> Corpus:
    """Fill the holes of every scene of `aligned`, joined on dialogue and utterance ids.

    Where both have an utterance, that of `aligned` stays as it is. The order within a scene is that of `original`.

    Raises:
        CorpusError: A version is not what its name says, or the two share no scene.
    """
    if aligned.version != "aligned" or original.version != "original":
        raise CorpusError(
            f"heal_from fills the gaps of version aligned from version original; found {aligned.version} and "
            f"{original.version}. Leave heal_from out, or name the folder with the EmoryNLP JSON files"
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
            f"heal_from: none of the scenes of '{aligned.name}' is in '{original.name}'; is it the same corpus?"
        )
    parts = ", ".join(f"{split} {count:,}" for split, count in restored.items())
    report = f"gap-healed: {restored.total():,} missing lines came back as context, never asked about ({parts})"
    sentences = (*aligned.warnings, report, *warned.sentences())
    return replace(aligned, splits=splits, healed=True, warnings=sentences, files=aligned.files + original.files)


def _heal_dialogue(aligned: Dialogue, original: Dialogue | None, warned: ReadWarnings) -> Dialogue:
    if original is None:
        warned.add("scene not healed, because original does not have it", aligned.id)
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
    """Utterances that only `aligned` has, by the id of the shared one they follow."""
    additions: dict[str | None, list[Utterance]] = {}
    previous = None
    for utterance in aligned.utterances:
        if utterance.id in known:
            previous = utterance.id
        else:
            warned.add("utterance of aligned that original does not have, kept", utterance.id)
            additions.setdefault(previous, []).append(utterance)
    return additions
