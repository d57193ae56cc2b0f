"""Small corpora and configurations on a stand-in model, for whatever trains, predicts or is called from a terminal.

The lines are assembled from a few invented phrases; their labels mean nothing, but differ in their number of tokens.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from erc_llm.config import RunConfig
from erc_llm.corpus import Dialogue, Utterance
from erc_llm.corpus.labels import EMORYNLP
from tests.tiny_models import TinyModel

PEOPLE = ("Mara Voss", "Tomas Brandt", "Ines Calloway")
OPENINGS = ("The kettle", "The dog", "That window", "The landlord", "My sister", "The last boat")
ENDINGS = ("has gone again.", "was never ours!", "smells of smoke.", "is early, for once.", "wants the rent?", "left.")


def dialogue(number: int, lines: int, season: int = 1) -> Dialogue:
    """An invented labelled scene; two scenes make an episode."""
    draw = random.Random(f"{season}/{number}")
    utterances = tuple(
        Utterance(
            f"u{k + 1}",
            (PEOPLE[draw.randrange(3)],),
            f"{draw.choice(OPENINGS)} {draw.choice(ENDINGS)}",
            EMORYNLP.names[draw.randrange(7)],
        )
        for k in range(lines)
    )
    episode, scene = divmod(number, 2)
    return Dialogue(f"s{season}_{number}", utterances, season, episode + 1, scene + 1)


def as_json(scene: Dialogue, labels: bool = True) -> dict[str, Any]:
    """A dialogue as one record of this project's JSONL."""
    lines = [
        {"id": u.id, "speaker": list(u.speakers), "text": u.text, "label": u.label if labels else None}
        for u in scene.utterances
    ]
    place = {"season": scene.season, "episode": scene.episode, "scene": scene.scene}
    return {"id": scene.id, **place, "utterances": lines}


def write_corpus(folder: Path, train: int = 10, dev: int = 3, labels: bool = True) -> Path:
    """A folder with train.jsonl and dev.jsonl; scenes of two to five lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for season, (split, count) in enumerate((("train", train), ("dev", dev)), start=1):
        rows = [as_json(dialogue(i, 2 + i % 4, season), labels) for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def write_telling_corpus(folder: Path, train: int) -> Path:
    """`write_corpus`, with a label of each line that can be read off its end."""
    for path in write_corpus(folder, train=train).glob("*.jsonl"):
        scenes = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for line in (line for scene in scenes for line in scene["utterances"]):
            line["label"] = EMORYNLP.names[next(i for i, e in enumerate(ENDINGS) if line["text"].endswith(e))]
        path.write_text("".join(json.dumps(scene) + "\n" for scene in scenes), encoding="utf-8")
    return folder


def tiny_config(model: TinyModel | Path, corpus: Path, output: Path, /, **sections: Any) -> RunConfig:
    """A run of a few steps on the CPU in fp32; `sections` are merged in, section by section."""
    folder = model.folder if isinstance(model, TinyModel) else model
    content: dict[str, Any] = {
        "name": "tiny",
        "output": str(output),
        "corpus": {"path": str(corpus)},
        "model": {"base": str(folder), "precision": "fp32", "device": "cpu"},
        "lora": {"rank": 4, "alpha": 8},
        "training": {"epochs": 1, "tokens_per_step": 200, "evaluations": 2, "learning_rate": 5e-3, "log_every": 1},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values if isinstance(values, dict) else values
    return RunConfig.model_validate(content)
