"""Dialogues as a pandas DataFrame, one utterance a row, and back.

Input: a corpus, or a frame. Output: a frame, or a file of this project's JSONL. pandas is imported only here.
Does not depend on: prompts, models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.errors import CorpusError
from erc_llm.files import write_text

if TYPE_CHECKING:
    import pandas as pd

    from erc_llm.corpus.dialogues import Corpus

_REQUIRED = ("dialogue", "speaker", "text")
_OF_DIALOGUE = ("season", "episode", "scene", "split")
_OF_UTTERANCE = ("id", "speaker", "text", "label")


def to_frame(corpus: Corpus) -> pd.DataFrame:
    """One row per utterance, in time order: split, dialogue, season, episode, scene, id, speaker, text, label, target.

    Several speakers of a line are a list.
    """
    import pandas as pd

    rows = [
        {
            "split": split,
            "dialogue": dialogue.id,
            "season": dialogue.season,
            "episode": dialogue.episode,
            "scene": dialogue.scene,
            "id": utterance.id,
            "speaker": utterance.speakers[0] if len(utterance.speakers) == 1 else list(utterance.speakers),
            "text": utterance.text,
            "label": utterance.label,
            "target": utterance.target,
        }
        for split, dialogue in corpus.in_time
        for utterance in dialogue.utterances
    ]
    return pd.DataFrame(rows)


def write_frame(frame: pd.DataFrame, path: Path | str) -> Path:
    """Write a frame as this project's JSONL, for `read_corpus` and for `corpus.path` of a training run.

    Args:
        frame: One row per utterance, in the order of speaking. Columns: `dialogue` (its id), `speaker` (a name or a
            list), `text`; optional: `label`, `id`, and the dialogue's `season`, `episode`, `scene`, `split`. Others are
            ignored. The rows of a dialogue need not be next to each other.
        path: The file, named after its split unless there is a column `split`: `train.jsonl`.

    Returns:
        The path.

    Raises:
        CorpusError: A column is missing, or the rows of a dialogue state different places in time or splits.
    """
    if lacking := [name for name in _REQUIRED if name not in frame.columns]:
        raise CorpusError(f"the frame has no column {', '.join(lacking)}; it needs {', '.join(_REQUIRED)}")
    dialogues: dict[str, dict[str, Any]] = {}
    for row in frame.to_dict("records"):
        values = {str(name): _plain(value) for name, value in row.items()}
        place = {name: values[name] for name in _OF_DIALOGUE if values.get(name) is not None}
        dialogue = dialogues.setdefault(str(values["dialogue"]), place | {"utterances": []})
        if differing := [name for name in _OF_DIALOGUE if dialogue.get(name) != place.get(name)]:
            raise CorpusError(f"dialogue '{values['dialogue']}': its rows differ in {', '.join(differing)}")
        utterance = {name: values[name] for name in _OF_UTTERANCE if values.get(name) is not None}
        dialogue["utterances"].append(utterance)
    lines = (json.dumps({"id": name, **dialogue}, ensure_ascii=False) for name, dialogue in dialogues.items())
    write_text(Path(path), "".join(f"{line}\n" for line in lines), CorpusError)
    return Path(path)


def _plain(value: Any) -> Any:
    """A value for JSON: None for what pandas marks as missing, and whole numbers that it made floats of a gap."""
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value.item() if hasattr(value, "item") else value
