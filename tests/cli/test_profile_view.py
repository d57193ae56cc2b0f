"""`erc-llm profile`: its rows are what prompts hold, its time line what the labels say, its errors one message."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from erc_llm.build import build_prompter
from erc_llm.cli.profile_view import ProfileRow, time_line
from erc_llm.config import load_config
from erc_llm.corpus import EMORYNLP, Dialogue, Utterance
from erc_llm.corpus.history import PastScene
from erc_llm.recipes.data import open_corpus
from tests.command_line import Command, refused
from tests.prompting.scenes import decode
from tests.tiny_models import TinyModel
from tests.tiny_runs import as_json, dialogue, tiny_config, write_corpus

MARA, INES = "Mara Voss", "Ines Calloway"


@pytest.fixture
def profile(erc: Command, config: Path) -> Command:
    """`erc-llm profile ARGUMENTS --config CONFIG`."""
    return lambda *arguments: erc("profile", *arguments, "--config", config)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("profile") / "corpus")


@pytest.fixture
def config(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> Path:
    """The tiny tokenizer makes many tokens of a sentence, hence the budget."""
    content = tiny_config(tiny_llama, corpus, tmp_path / "runs", profile={"budget": 200})
    path = tmp_path / "tiny.yaml"
    path.write_text(content.as_yaml(), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def save(path: Path, *scenes: Dialogue, **replaced: Any) -> Path:
    rows = [as_json(scene) | replaced for scene in scenes]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- all profiles, as rows


def test_a_row_for_each_scene_and_speaker_in_time_order(profile: Command, corpus: Path, tmp_path: Path) -> None:
    done = profile(corpus, "--out", tmp_path / "new" / "p.jsonl")
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "new" / "p.jsonl")
    scenes = [(1, dialogue(i, 2 + i % 4)) for i in range(10)] + [(2, dialogue(i, 2 + i % 4, 2)) for i in range(3)]
    expected = [(d.id, s) for _, d in scenes for s in dict.fromkeys(u.speakers[0] for u in d.utterances)]
    assert [(row["dialogue"], row["speaker"]) for row in rows] == expected
    assert {row["split"] for row in rows} == {"train", "selection", "dev"}
    assert all(list(row) == [field.name for field in fields(ProfileRow)] for row in rows)
    assert f"{len(rows)} profiles" in done.out
    assert str(max(row["tokens"] for row in rows)) in done.out
    assert str(tmp_path / "new" / "p.jsonl") in done.out


def test_rows_are_what_prompts_hold(
    profile: Command, corpus: Path, config: Path, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    overrides = ["profile.writer=lines", "profile.budget=60"]
    assert profile(corpus, "--out", tmp_path / "p.jsonl", *overrides).code == 0
    loaded = load_config(config, overrides)
    read = open_corpus(loaded.corpus, EMORYNLP)
    prompter = build_prompter(loaded, EMORYNLP, tiny_llama.tokenizer, past=read)
    held = []
    for scene in read.dialogues():
        for tree in prompter.trees(scene, "all"):
            for span in tree.spans:
                if span.kind == "profile":
                    text = decode(tiny_llama.tokenizer, tree.token_ids[span.start : span.stop])
                    held.append((scene.id, span.stop - span.start, text.strip()))
    rows = [row for row in rows_of(tmp_path / "p.jsonl") if row["tokens"]]
    assert held
    assert sorted(held) == sorted((row["dialogue"], row["tokens"], row["text"]) for row in rows)
    assert all(row["tokens"] <= 60 for row in rows)


def test_what_does_not_fit_the_budget_is_not_in_the_text(profile: Command, corpus: Path, tmp_path: Path) -> None:
    writer = "profile.writer=lines"
    assert profile(corpus, "--out", tmp_path / "whole.jsonl", writer).code == 0
    assert profile(corpus, "--out", tmp_path / "cut.jsonl", writer, "profile.budget=40").code == 0
    cut = 0
    for whole, short in zip(rows_of(tmp_path / "whole.jsonl"), rows_of(tmp_path / "cut.jsonl"), strict=True):
        assert short["tokens"] <= 40
        assert (short["tokens"] == 0) == (short["text"] == "")
        assert whole["text"].startswith(short["text"].rstrip("]"))
        assert whole["scenes"] == short["scenes"]
        cut += whole["text"] != short["text"]
    assert cut


def test_labels_come_from_other_episodes_of_train_alone(profile: Command, corpus: Path, tmp_path: Path) -> None:
    assert profile(corpus, "--out", tmp_path / "p.jsonl").code == 0
    rows = rows_of(tmp_path / "p.jsonl")
    split = {row["dialogue"]: row["split"] for row in rows}
    episode = {f"s{s}_{i}": (s, i // 2) for s in (1, 2) for i in range(10)}
    order = list(split)
    assert any(row["label_scenes"] for row in rows)
    assert any(row["scenes"] and split[row["scenes"][0]] == "selection" for row in rows)
    for row in rows:
        assert all(order.index(scene) < order.index(row["dialogue"]) for scene in row["scenes"])
        assert set(row["label_scenes"]) <= set(row["scenes"])
        assert (row["labels"] > 0) == bool(row["label_scenes"])
        for scene in row["label_scenes"]:
            assert split[scene] == "train"
            assert episode[scene] != episode[row["dialogue"]]


def test_rows_name_the_sources_that_their_writer_used(profile: Command, corpus: Path, tmp_path: Path) -> None:
    assert profile(corpus, "--out", tmp_path / "p.jsonl", "profile.writer=lines").code == 0
    scenes = [dialogue(i, 2 + i % 4, season) for season, count in ((1, 10), (2, 3)) for i in range(count)]
    said = {d.id: [u.text for u in d.utterances] for d in scenes}
    for row in rows_of(tmp_path / "p.jsonl"):
        assert (row["labels"], row["label_scenes"]) == (0, [])
        assert row["lines"] == row["text"].count('"') / 2 <= 3
        assert all(any(f'"{text}"' in row["text"] for text in said[scene]) for scene in row["scenes"])
    assert any(row["scenes"] for row in rows_of(tmp_path / "p.jsonl"))


def test_one_split_alone(profile: Command, corpus: Path, tmp_path: Path) -> None:
    assert profile(corpus, "--out", tmp_path / "all.jsonl").code == 0
    assert profile(corpus, "--out", tmp_path / "dev.jsonl", "--split", "dev").code == 0
    expected = [row for row in rows_of(tmp_path / "all.jsonl") if row["split"] == "dev"]
    assert rows_of(tmp_path / "dev.jsonl") == expected


def test_the_writer_is_named_and_a_silent_choice_is_said(profile: Command, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    assert "profile.writer is none" in profile(corpus, "--out", out).out
    assert {row["writer"] for row in rows_of(out)} == {"statistics"}
    done = profile(corpus, "--out", out, "profile.writer=lines", "profile.control=stale")
    assert "profile.writer is none" not in done.out
    assert {row["writer"] for row in rows_of(out)} == {"lines (stale)"}


def test_without_episodes_the_order_of_the_file_is_time_and_said_to_be(profile: Command, tmp_path: Path) -> None:
    scenes = [dialogue(i, 4) for i in (3, 1, 2, 0)]
    path = save(tmp_path / "train.jsonl", *scenes, season=None, episode=None, scene=None)
    done = profile(path, "--out", tmp_path / "p.jsonl")
    assert done.code == 0, done.err
    assert "no episodes: the order in the file is used as the order in time" in done.out
    rows = rows_of(tmp_path / "p.jsonl")
    order = list(dict.fromkeys(row["dialogue"] for row in rows))
    assert order == ["s1_3", "s1_1", "s1_2", "s1_0"], "the selection split is cut out of them"
    for row in rows:
        assert all(order.index(scene) < order.index(row["dialogue"]) for scene in row["scenes"])
    assert "no episodes" not in profile("sample", "--out", tmp_path / "p.jsonl", "--split", "dev").out


def test_a_scene_without_an_episode_among_others_is_named(profile: Command, tmp_path: Path) -> None:
    path = save(tmp_path / "train.jsonl", *(dialogue(i, 4) for i in range(4)))
    rows = rows_of(path)
    for row in rows[2:3]:
        row |= {"season": None, "episode": None, "scene": None}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = profile(path, "--out", tmp_path / "p.jsonl")
    assert "1 of 4 scenes have no episode, 's1_2' first: the order in the file is used as the order in time" in done.out


def test_somebody_elses_profile_follows_the_seed_of_the_run(profile: Command, corpus: Path, tmp_path: Path) -> None:
    overrides = ["profile.writer=lines", "profile.control=shuffled"]
    texts = []
    for seed in (13, 13, 14):
        assert profile(corpus, "--out", tmp_path / "p.jsonl", *overrides, f"seed={seed}").code == 0
        texts.append([row["text"] for row in rows_of(tmp_path / "p.jsonl")])
    assert texts[0] == texts[1] != texts[2]


def test_a_failed_write_leaves_the_old_file_alone(
    profile: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "p.jsonl"
    assert profile(corpus, "--out", out).code == 0
    before = out.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    refused(profile(corpus, "--out", out, "profile.writer=lines"), str(out), "No space left on device")
    assert out.read_bytes() == before
    assert [p.name for p in out.parent.iterdir()] == ["p.jsonl"]


def test_a_corpus_of_choirs_has_no_profiles(profile: Command, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"id": "d", "utterances": [{"speaker": "#ALL#", "text": "Hey!"}]}) + "\n", "utf-8")
    assert "0 profiles" in profile(path, "--out", tmp_path / "p.jsonl").out
    refused(profile(path, "--speaker", "#ALL#", "--at", "d"), "#ALL#", "nobody by name")


def test_other_names_throughout_are_shown_as_the_model_gets_them(
    profile: Command, corpus: Path, tmp_path: Path
) -> None:
    overrides = ["profile.writer=statistics", "profile.half_life=4"]
    assert profile(corpus, "--out", tmp_path / "true.jsonl", *overrides).code == 0
    assert profile(corpus, "--out", tmp_path / "new.jsonl", *overrides, "prompt.names=invented").code == 0
    names = ("Mara", "Tomas", "Ines")
    assert any(f"mostly with {name}" in row["text"] for row in rows_of(tmp_path / "true.jsonl") for name in names)
    for row in rows_of(tmp_path / "new.jsonl"):
        assert row["speaker"].split()[0] in names
        assert not any(name in row["text"] for name in names)


def test_text_goes_to_another_machine_only_if_allowed(profile: Command, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    remote = ["profile.writer=llm", "profile.endpoint=http://192.0.2.1/v1", f"profile.notes={tmp_path / 'notes.jsonl'}"]
    refused(profile(corpus, "--out", out, *remote), "192.0.2.1", "--allow-remote")
    refused(profile(corpus, "--speaker", INES, "--at", "s2_1", *remote), "missing", "--out")
    assert not out.exists()


def test_a_server_is_asked_where_it_may_be(
    profile: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: object, prompts: Sequence[object], most: int, keep: Callable[[int, str], object]) -> None:
        for k in range(len(prompts)):
            keep(k, "She is cheerful.")

    monkeypatch.setattr("erc_llm.models.endpoint.Endpoint.answer", answer)
    out = tmp_path / "p.jsonl"
    remote = ["profile.writer=llm", "profile.endpoint=http://192.0.2.1/v1", f"profile.notes={tmp_path / 'notes.jsonl'}"]
    done = profile(corpus, "--out", out, "--allow-remote", *remote)
    assert done.code == 0, done.err
    known = [row for row in rows_of(out) if row["scenes"]]
    assert all("She is cheerful." in row["text"] and row["writer"] == "llm" for row in known)
    shown = profile(corpus, "--speaker", INES, "--at", "s2_1", *remote)
    assert "She is cheerful." in shown.out


# --- one profile, with its time line


def test_one_profile_as_its_row_says(profile: Command, corpus: Path, tmp_path: Path) -> None:
    assert profile(corpus, "--out", tmp_path / "p.jsonl").code == 0
    row = next(r for r in rows_of(tmp_path / "p.jsonl") if (r["dialogue"], r["speaker"]) == ("s2_1", INES))
    done = profile(corpus, "--speaker", INES, "--at", "s2_1")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert row["text"] in lines
    assert f"{INES} before s2_1 (dev)" in lines
    for fact in (f"{row['tokens']}, of at most 200", f"lines {row['lines']}, labels {row['labels']}"):
        assert fact in done.out
    assert f"{len(row['scenes'])} ({row['scenes'][-1]} to {row['scenes'][0]})" in done.out
    assert f"with labels {len(row['label_scenes'])}" in done.out
    for label in EMORYNLP.names:
        assert any(line.strip().startswith(label) for line in lines)
    assert f"earlier scenes: {len(row['scenes'])}, oldest left" in done.out
    dots = next(line for line in lines if line.strip().startswith("·"))
    assert dots.count("·") == len(row["scenes"]) - len(row["label_scenes"])


def test_somebody_new(profile: Command, corpus: Path) -> None:
    first = dialogue(0, 2).utterances[0].speakers[0]
    done = profile(corpus, "--speaker", first, "--at", "s1_0")
    assert done.code == 0, done.err
    assert "Not seen before." in done.out
    assert "no earlier scene" in done.out


def test_a_long_past_is_cut_to_the_latest_scenes(
    profile: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = [Dialogue(f"d{i}", (Utterance("u", (MARA,), "Good morning!", "Sad"),), 1, i + 1, 1) for i in range(70)]
    path = save(tmp_path / "train.jsonl", *scenes)
    done = profile(path, "--speaker", MARA, "--at", "d69")
    assert "the latest 60 of 69" in done.out
    sad = next(line for line in done.out.splitlines() if line.strip().startswith("Sad"))
    assert len(sad) == len("Peaceful") + 2 + 60
    assert sad.count("█") + done.out.count("·") - 1 == 60, "the legend has a dot too"
    monkeypatch.setenv("COLUMNS", "40")
    narrow = profile(path, "--speaker", MARA, "--at", "d69").out
    assert "the latest 30 of 69" in narrow


def test_an_alias_is_the_person(profile: Command, corpus: Path) -> None:
    done = profile(corpus, "--speaker", "Ines", "--at", "s2_1", "corpus.aliases={Ines: Ines Calloway}")
    assert f"{INES} before s2_1" in done.out


def test_the_sample_corpus_knows_aliases_and_generic_names_too(profile: Command) -> None:
    at = ("--at", "s01_e08_c01")
    renamed = profile("sample", "--speaker", "Mara", *at, "corpus.aliases={Mara Voss: Mara}")
    assert "Mara before s01_e08_c01" in renamed.out
    assert "earlier scenes:" in profile("sample", "--speaker", MARA, *at).out
    assert "no earlier scene" in profile("sample", "--speaker", MARA, *at, "corpus.generic=[Mara Voss]").out


def _past(*labels: tuple[str | None, ...]) -> list[PastScene]:
    """Scenes with these labels, given oldest first, returned as a history does: latest first."""
    scenes = [PastScene(dialogue(i, 2), tuple(range(len(seen))), 1, seen) for i, seen in enumerate(labels)]
    return scenes[::-1]


def test_blocks_are_as_high_as_a_labels_share() -> None:
    past = _past(("Sad", "Sad"), (None,), ("Sad", "Mad", "Mad", "Mad", None), ("Mad",) * 20 + ("Sad",))
    rows, hidden = time_line(past, EMORYNLP.names)
    assert list(rows) == list(EMORYNLP.names)
    assert rows["Sad"] == "█ ▂▁"
    assert rows["Mad"] == "  ▆█"
    assert rows["Joyful"] == "    "
    assert hidden == " ·  "


def test_no_row_of_dots_where_all_is_seen() -> None:
    assert time_line(_past(("Sad",)), ("Sad", "Mad")) == ({"Sad": "█", "Mad": " "}, "")


# --- wrong calls


def test_an_unknown_dialogue_names_the_nearest(profile: Command, corpus: Path) -> None:
    done = profile(corpus, "--speaker", MARA, "--at", "s2_11")
    refused(done, "'s2_11'", "most similar: s2_1,", "--out profiles.jsonl")


def test_a_speaker_who_is_not_there(profile: Command, corpus: Path) -> None:
    done = profile(corpus, "--speaker", "Nobody Here", "--at", "s2_1")
    there = dict.fromkeys(u.speakers[0] for u in dialogue(1, 3, 2).utterances)
    refused(done, "Nobody Here", "s2_1", ", ".join(there))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "--out FILE.jsonl"),
        (("--speaker", MARA), "--at DIALOGUE"),
        (("--at", "s2_1"), "--speaker NAME"),
        (("--out", "p.jsonl", "--speaker", MARA, "--at", "s2_1"), "exclude each other"),
        (("--out", "p.jsonl", "--at", "s2_1"), "--speaker NAME"),
        (("--speaker", MARA, "--at", "s2_1", "--split", "dev"), "--split"),
        (("--out", "p.csv"), ".jsonl"),
        (("--out", "p.jsonl", "--split", "evening"), "no split 'evening'"),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_written(
    arguments: tuple[str, ...],
    part: str,
    profile: Command,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(profile(corpus, *arguments), part)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_wrong_override_and_a_missing_corpus(profile: Command, corpus: Path, tmp_path: Path) -> None:
    done = profile(corpus, "--out", tmp_path / "p.jsonl", "profile.writer=poet")
    assert done.code == 2
    assert "profile.writer" in done.err
    refused(profile(tmp_path / "gone", "--out", tmp_path / "p.jsonl"), str(tmp_path / "gone"))


def test_a_template_without_a_place_for_profiles(profile: Command, corpus: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.jinja"
    blocks = {"system": "Label.", "line": "{{ name }}: {{ text }}\n", "question": "{{ name }} feels"}
    blocks |= {"answer": "{{ label }}"}
    bare.write_text("".join(f"{{% block {n} %}}{t}{{% endblock %}}" for n, t in blocks.items()), encoding="utf-8")
    done = profile(corpus, "--out", tmp_path / "p.jsonl", f"prompt.template={bare}")
    refused(done, "no block `profile`")


def test_the_model_itself_is_never_loaded(profile: Command, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the tokenizer is enough")

    monkeypatch.setattr("erc_llm.build.load_base_model", forbidden)
    assert profile(corpus, "--speaker", INES, "--at", "s2_1").code == 0
