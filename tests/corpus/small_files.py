"""The same invented scenes in each of the four formats, for the tests of the readers.

Two train episodes and one dev episode; a line of everyone, a line of two speakers, a generic name.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import NamedTuple

from erc_llm.corpus import Corpus, Utterance


class Line(NamedTuple):
    """One invented utterance; number 0 marks nothing, numbers start at 1 in each scene."""

    season: int
    episode: int
    scene: int
    number: int
    speakers: list[str]
    text: str
    label: str

    @property
    def scene_id(self) -> str:
        return f"s{self.season:02d}_e{self.episode:02d}_c{self.scene:02d}"

    @property
    def id(self) -> str:
        return f"{self.scene_id}_u{self.number:03d}"


TRAIN = [
    Line(1, 1, 1, 1, ["Ada Quill"], 'The boiler said "no" again, and the landlord said maybe.', "Mad"),
    Line(1, 1, 1, 2, ["Bo Farrow"], "Then we wear the curtains.", "Joyful"),
    Line(1, 1, 1, 3, ["Ada Quill", "Bo Farrow"], "Not the yellow ones!", "Joyful"),
    Line(1, 1, 2, 1, ["Guy"], "Is this the queue for the ferry?", "Neutral"),
    Line(1, 1, 2, 2, ["Ada Quill"], "It was, until it sailed.", "Sad"),
    Line(1, 3, 1, 1, ["Guy"], "Hand over the accordion.", "Powerful"),
    Line(1, 3, 1, 2, ["#ALL#"], "Never!", "Powerful"),
]
DEV = [
    Line(1, 2, 1, 1, ["Bo Farrow"], "Somebody is in the cellar.", "Scared"),
    Line(1, 2, 1, 2, ["Ada Quill"], "It is only the cat, come here.", "Peaceful"),
    Line(1, 2, 1, 3, ["Bo Farrow"], "We have no cat.", "Scared"),
]
SPLITS = {"train": TRAIN, "dev": DEV}
HEADER = ["Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode", "Start_Time", "End_Time"]


def _scenes(lines: list[Line]) -> list[list[Line]]:
    scenes: dict[str, list[Line]] = {}
    for line in lines:
        scenes.setdefault(line.scene_id, []).append(line)
    return list(scenes.values())


def original(lines: list[Line], indent: int | None = 1) -> str:
    """EmoryNLP JSON."""
    episodes: dict[str, list[object]] = {}
    for scene in _scenes(lines):
        utterances = [
            {"utterance_id": x.id, "speakers": x.speakers, "transcript": x.text, "emotion": x.label} for x in scene
        ]
        episode = scene[0].scene_id.rpartition("_")[0]
        episodes.setdefault(episode, []).append({"scene_id": scene[0].scene_id, "utterances": utterances})
    rows = [{"episode_id": name, "scenes": scenes} for name, scenes in episodes.items()]
    return json.dumps({"season_id": "trn", "episodes": rows}, indent=indent)


def aligned(lines: list[Line]) -> str:
    """CSV as in the MELD repository."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for x in lines:
        writer.writerow(
            [x.text, str(x.speakers), x.label, x.scene, x.number, x.season, x.episode, "00:00:01.000", "00:00:02.000"]
        )
    return out.getvalue()


def compm(lines: list[Line]) -> str:
    """CoMPM text: it keeps only the first speaker."""
    return "\n".join("".join(f"{x.speakers[0]}\t{x.text}\t{x.label}\n" for x in scene) for scene in _scenes(lines))


def own(lines: list[Line]) -> str:
    """JSONL, a dialogue a line."""
    rows = []
    for scene in _scenes(lines):
        first = scene[0]
        utterances = [{"id": x.id, "speaker": x.speakers, "text": x.text, "label": x.label} for x in scene]
        row = {"id": first.scene_id, "season": first.season, "episode": first.episode, "scene": first.scene}
        rows.append(json.dumps(row | {"utterances": utterances}, ensure_ascii=False))
    return "\n".join(rows) + "\n"


FORMATS = {"original": original, "aligned": aligned, "compm": compm, "own": own}


def write(folder: Path, version: str, suffix: str = ".txt") -> Path:
    """Write both splits in one format; the suffix says nothing on purpose, the content does."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in SPLITS.items():
        (folder / f"{split}{suffix}").write_text(FORMATS[version](lines), encoding="utf-8")
    return folder


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def dialogue(name: str, *texts: str, **fields: object) -> dict[str, object]:
    return {"id": name, "utterances": [{"speaker": "Ada", "text": text, "label": "Sad"} for text in texts], **fields}


def save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def utterances(corpus: Corpus) -> list[Utterance]:
    return [u for dialogues in corpus.splits.values() for d in dialogues for u in d.utterances]
